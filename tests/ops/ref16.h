/* The references with their intermediates rounded as the CUDA kernels of the bf16 form may round them: what the bounds
 * of the bf16 form are derived from. All arithmetic is float, as in ops/ref32.h, and these are bf16 besides:
 *   - linear, conv3, forward: the value that the activation reads (it is stored as `pre`); linear's bias, and its x
 * where that is given before its activation;
 *   - conv3 of the level above: the sums of matrices of offsets that meet the same parent; in the backward dx of each
 *     child;
 *   - linear, conv3, backward: dpre = dy act'(pre), a factor of two matrix products; linear: dx before in_act's
 *     slope, and what is added to dx;
 *   - attention: the probabilities P, a factor of P V and of P^T dout; dS = P (dP - Delta), a factor of dS K and dS^T
 * Q; out, which Delta = <dout, out> is computed from. */
#pragma once
#include "kernels/backend.h"

/* `inner` (in float) with these entries in place of its own, where it has one. One table a program. */
const backend *ref16_table(const backend *inner);
