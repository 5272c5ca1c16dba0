#include "ops/ref32_sparse.h"
#include "kernels/ref/ref.h"

#define conv3_fwd_ref conv3_fwd_ref32
#define conv3_bwd_ref conv3_bwd_ref32
#define pool_fwd_ref pool_fwd_ref32
#define pool_bwd_ref pool_bwd_ref32
#define subdivide_fwd_ref subdivide_fwd_ref32
#define subdivide_bwd_ref subdivide_bwd_ref32
#define attn_segment_fwd_ref attn_segment_fwd_ref32
#define attn_segment_bwd_ref attn_segment_bwd_ref32
#define topk_blocks_fwd_ref topk_blocks_fwd_ref32
#define attn_select_fwd_ref attn_select_fwd_ref32
#define attn_select_bwd_ref attn_select_bwd_ref32

/* The prototypes, under the names above. */
#define X(name, args) void name##_ref32(ctx *, const args *);
BACKEND_OPS(X)
#undef X

#define double float
#include "kernels/ref/conv3.c"
#include "kernels/ref/pool.c"
#include "kernels/ref/attn_segment.c"
#include "kernels/ref/attn_select.c"
#include "kernels/ref/topk_blocks.c"
#undef double

const backend backend_ref32_sparse = {
    .name = "ref32",
    .dev = DEV_CPU,
    .conv3_fwd = conv3_fwd_ref32,
    .conv3_bwd = conv3_bwd_ref32,
    .pool_fwd = pool_fwd_ref32,
    .pool_bwd = pool_bwd_ref32,
    .subdivide_fwd = subdivide_fwd_ref32,
    .subdivide_bwd = subdivide_bwd_ref32,
    .attn_segment_fwd = attn_segment_fwd_ref32,
    .attn_segment_bwd = attn_segment_bwd_ref32,
    .topk_blocks_fwd = topk_blocks_fwd_ref32,
    .attn_select_fwd = attn_select_fwd_ref32,
    .attn_select_bwd = attn_select_bwd_ref32,
};
