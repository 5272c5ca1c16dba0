/* Segment pooling (R§3.1): y[p] = sum over the members of p of x / (n_p + 1), or / n_p without `add_one`.
 *   x (N,C), y (P,C), first (P+1) i32; members of p are order[first[p]] .. order[first[p+1]-1], or the rows themselves
 *   when order (N) i32 is not given. Sums in double (or at least pairwise f32). A parent without members gives 0.
 * subdivide: y[8 i + c] = x[i] for c = 0..7 (Morton child order), x (N,C), y (8N,C).
 * bwd: dx overwritten. Rows are all f32 or all bf16 (on a GPU). */
#pragma once
#include "core/ctx.h"

typedef struct {
    const tensor *x, *first, *order;
    bool          add_one;
    tensor       *y;
    const tensor *dy;
    tensor       *dx;
} pool_args;

typedef struct {
    const tensor *x;
    tensor       *y;
    const tensor *dy;
    tensor       *dx;
} subdivide_args;

void pool_fwd(ctx *c, const pool_args *a);
void pool_bwd(ctx *c, const pool_args *a);
void subdivide_fwd(ctx *c, const subdivide_args *a);
void subdivide_bwd(ctx *c, const subdivide_args *a);
