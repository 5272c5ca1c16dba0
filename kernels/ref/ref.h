/* Shared by the reference sources. The tests also compile these sources with float in place of double (the
 * intermediates rounded to the working precision), so stored f64 values go through this header, which always means
 * double. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "core/half.h"
#include "kernels/backend.h"

/* Of a tensor that is f32 or bf16. */
static inline float ref_load(const tensor *t, int64_t i) {
    return t->dt == DT_BF16 ? bf16_to_f32(BF16(t)[i]) : F32(t)[i];
}
static inline void ref_store(const tensor *t, int64_t i, float v) {
    if (t->dt == DT_BF16)
        BF16(t)[i] = f32_to_bf16(v);
    else
        F32(t)[i] = v;
}

static inline void ref_store_f64(const tensor *t, int64_t i, double v) {
    F64(t)[i] = v;
}
