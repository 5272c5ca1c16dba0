/* Submanifold 3x3x3 convolution on one level of a tile grid (R§3.1):
 *   y[p] = b + sum_k x[p + d(k)] W[k] over the neighbours that exist,
 *   d(k) = (k mod 3 - 1, (k/3) mod 3 - 1, k/9 - 1), x fastest, correlation.
 *   x (N,I), y (N,O), w (27,I,O), b (O); N = grid rows (sparse/grid.h: tiles with side^3 cells, dense or masked).
 *   act ACT_NONE or ACT_SILU; pre (N,O) written by fwd when act is not ACT_NONE, read by bwd.
 *   up: x (N/8,I) is of the level above and each of its rows stands for its eight children, y = conv3(subdivide(x))
 * (ops/pool.h), dx (N/8,I). Only where cells come in whole eights: on dense levels
 * with a side above 1 and those that hold all children of a masked one. The offsets that meet the same parent share one
 * matrix, the sum of theirs, which may be rounded to the dtype of w.
 * bwd: dx overwritten, optional; dw, db accumulated.
 * x, w, y, pre, dy, dx are all f32 or all bf16 (on a GPU); b, dw, db are f32. */
#pragma once
#include "core/ctx.h"
#include "ops/act.h"
#include "sparse/grid.h"

typedef struct {
    const grid   *g;
    const tensor *x, *w, *b;
    bool          up;
    act_kind      act;
    tensor       *y, *pre;
    const tensor *dy;
    tensor       *dx, *dw, *db;
} conv3_args;

void conv3_fwd(ctx *c, const conv3_args *a);
void conv3_bwd(ctx *c, const conv3_args *a);
