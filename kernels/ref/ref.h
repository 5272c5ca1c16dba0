/* Shared by the reference sources. The tests also compile these sources with float in place of double (the
 * intermediates rounded to the working precision), so stored f64 values go through this header, which always means
 * double. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "kernels/backend.h"

static inline void ref_store_f64(const tensor *t, int64_t i, double v) {
    F64(t)[i] = v;
}
