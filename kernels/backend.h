/* One struct of typed function pointers per back end. A wrong signature does not compile; the table file of a back end
 * shows what it has of its own (kernels/<name>/table.c). The front of each op (src/ops/<op>.c) checks once for
 * everybody, marks the scratch arena, calls through the table, resets. */
#pragma once
#include "ops/act.h"
#include "ops/attn_segment.h"
#include "ops/attn_select.h"
#include "ops/branch_gate.h"
#include "ops/conv3.h"
#include "ops/elementwise.h"
#include "ops/gate_residual.h"
#include "ops/group_norm.h"
#include "ops/layer_norm.h"
#include "ops/lift_pool.h"
#include "ops/linear.h"
#include "ops/loss.h"
#include "ops/muon.h"
#include "ops/optim.h"
#include "ops/pool.h"
#include "ops/rms_norm.h"
#include "ops/topk_blocks.h"
#include "ops/vae_sample.h"

/* Every entry of the table: X(name, argument struct). */
#define BACKEND_OPS(X)                                                                                                 \
    X(linear_fwd, linear_args)                                                                                         \
    X(linear_bwd, linear_args)                                                                                         \
    X(act_fwd, act_args)                                                                                               \
    X(act_bwd, act_args)                                                                                               \
    X(layer_norm_fwd, layer_norm_args)                                                                                 \
    X(layer_norm_bwd, layer_norm_args)                                                                                 \
    X(group_norm_fwd, group_norm_args)                                                                                 \
    X(group_norm_bwd, group_norm_args)                                                                                 \
    X(rms_norm_fwd, rms_norm_args)                                                                                     \
    X(rms_norm_bwd, rms_norm_args)                                                                                     \
    X(gate_residual_fwd, gate_residual_args)                                                                           \
    X(gate_residual_bwd, gate_residual_args)                                                                           \
    X(add_fwd, xy_args)                                                                                                \
    X(zero_fwd, xy_args)                                                                                               \
    X(copy_fwd, xy_args)                                                                                               \
    X(split_cols_fwd, split_cols_args)                                                                                 \
    X(merge_cols_fwd, merge_cols_args)                                                                                 \
    X(embed_ape_fwd, embed_ape_args)                                                                                   \
    X(embed_time_fwd, embed_time_args)                                                                                 \
    X(add_table_fwd, add_table_args)                                                                                   \
    X(add_table_bwd, add_table_args)                                                                                   \
    X(gather_rows_fwd, gather_rows_args)                                                                               \
    X(gather_rows_bwd, gather_rows_args)                                                                               \
    X(conv3_fwd, conv3_args)                                                                                           \
    X(conv3_bwd, conv3_args)                                                                                           \
    X(pool_fwd, pool_args)                                                                                             \
    X(pool_bwd, pool_args)                                                                                             \
    X(subdivide_fwd, subdivide_args)                                                                                   \
    X(subdivide_bwd, subdivide_args)                                                                                   \
    X(lift_pool_fwd, lift_pool_args)                                                                                   \
    X(lift_pool_bwd, lift_pool_args)                                                                                   \
    X(attn_segment_fwd, attn_segment_args)                                                                             \
    X(attn_segment_bwd, attn_segment_args)                                                                             \
    X(topk_blocks_fwd, topk_blocks_args)                                                                               \
    X(attn_select_fwd, attn_select_args)                                                                               \
    X(attn_select_bwd, attn_select_args)                                                                               \
    X(branch_gate_fwd, branch_gate_args)                                                                               \
    X(branch_gate_bwd, branch_gate_args)                                                                               \
    X(vae_sample_fwd, vae_sample_args)                                                                                 \
    X(vae_sample_bwd, vae_sample_args)                                                                                 \
    X(sdf_loss_fwd, sdf_loss_args)                                                                                     \
    X(sdf_loss_bwd, sdf_loss_args)                                                                                     \
    X(mse_rows_fwd, mse_rows_args)                                                                                     \
    X(mse_rows_bwd, mse_rows_args)                                                                                     \
    X(flow_noise_fwd, flow_noise_args)                                                                                 \
    X(sum_squares_fwd, sum_squares_args)                                                                               \
    X(adamw_fwd, adamw_args)                                                                                           \
    X(muon_fwd, muon_args)

typedef struct backend {
    const char *name;
    device_kind dev;
    const char *built_for; /* the tool that this build is to be checked with; NULL: to be used */
    /* Fills c->stream and c->cuda for this thread's use of the back end, and frees them; NULL: nothing to do. */
    void (*open)(ctx *c);
    void (*close)(ctx *c);
#define X(name, args) void (*name)(ctx *, const args *);
    BACKEND_OPS(X)
#undef X
} backend;

#ifdef __cplusplus
extern "C" {
#endif

#define X(name, args)                                                                                                  \
    void name##_ref(ctx *, const args *);                                                                              \
    void name##_cpu(ctx *, const args *);                                                                              \
    void name##_cuda(ctx *, const args *);
BACKEND_OPS(X)
#undef X

extern const backend backend_ref, backend_cpu;
#ifdef D3S2_CUDA
extern const backend backend_cuda;
#endif

/* "ref", "cpu" or "cuda"; NULL when there is no such back end in this build. */
const backend *backend_find(const char *name);

#ifdef __cplusplus
}
#endif
