/* What storing in bf16 costs, on the CPU: every op reads its activations rounded to bf16, holds the intermediates of
 * ops/ref16.h in bf16, and writes its activations rounded. Tensors are f32 in host memory. A network run on it has the
 * error that the bf16 form may have; tests of whole networks take their bounds from it where a file has none, or where
 * what the file has is one draw of a small number of errors. */
#pragma once
#include "kernels/backend.h"

const backend *sim16_backend(void);
