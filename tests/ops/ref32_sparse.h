/* The references of the sparse ops with their intermediates rounded to float, as ops/ref32.h. */
#pragma once
#include "kernels/backend.h"

extern const backend backend_ref32_sparse;
