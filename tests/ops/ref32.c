#include "ops/ref32.h"
#include "kernels/ref/ref.h"

#define linear_fwd_ref linear_fwd_ref32
#define linear_bwd_ref linear_bwd_ref32
#define act_fwd_ref act_fwd_ref32
#define act_bwd_ref act_bwd_ref32
#define layer_norm_fwd_ref layer_norm_fwd_ref32
#define layer_norm_bwd_ref layer_norm_bwd_ref32
#define group_norm_fwd_ref group_norm_fwd_ref32
#define group_norm_bwd_ref group_norm_bwd_ref32
#define lift_pool_fwd_ref lift_pool_fwd_ref32
#define lift_pool_bwd_ref lift_pool_bwd_ref32
#define rms_norm_fwd_ref rms_norm_fwd_ref32
#define rms_norm_bwd_ref rms_norm_bwd_ref32
#define gate_residual_fwd_ref gate_residual_fwd_ref32
#define gate_residual_bwd_ref gate_residual_bwd_ref32
#define add_fwd_ref add_fwd_ref32
#define zero_fwd_ref zero_fwd_ref32
#define copy_fwd_ref copy_fwd_ref32
#define split_cols_fwd_ref split_cols_fwd_ref32
#define merge_cols_fwd_ref merge_cols_fwd_ref32
#define embed_ape_fwd_ref embed_ape_fwd_ref32
#define embed_time_fwd_ref embed_time_fwd_ref32
#define add_table_fwd_ref add_table_fwd_ref32
#define add_table_bwd_ref add_table_bwd_ref32
#define gather_rows_fwd_ref gather_rows_fwd_ref32
#define gather_rows_bwd_ref gather_rows_bwd_ref32
#define branch_gate_fwd_ref branch_gate_fwd_ref32
#define branch_gate_bwd_ref branch_gate_bwd_ref32
#define vae_sample_fwd_ref vae_sample_fwd_ref32
#define vae_sample_bwd_ref vae_sample_bwd_ref32
#define sdf_loss_fwd_ref sdf_loss_fwd_ref32
#define sdf_loss_bwd_ref sdf_loss_bwd_ref32
#define mse_rows_fwd_ref mse_rows_fwd_ref32
#define mse_rows_bwd_ref mse_rows_bwd_ref32
#define flow_noise_fwd_ref flow_noise_fwd_ref32
#define sum_squares_fwd_ref sum_squares_fwd_ref32
#define adamw_fwd_ref adamw_fwd_ref32
#define muon_fwd_ref muon_fwd_ref32

/* The prototypes, under the names above. */
#define X(name, args) void name##_ref32(ctx *, const args *);
BACKEND_OPS(X)
#undef X

#define double float
#include "kernels/ref/act.c"
#include "kernels/ref/linear.c"
#include "kernels/ref/layer_norm.c"
#include "kernels/ref/group_norm.c"
#include "kernels/ref/lift_pool.c"
#include "kernels/ref/rms_norm.c"
#include "kernels/ref/gate_residual.c"
#include "kernels/ref/elementwise.c"
#include "kernels/ref/branch_gate.c"
#include "kernels/ref/vae_sample.c"
#include "kernels/ref/loss.c"
#include "kernels/ref/muon.c"
#include "kernels/ref/optim.c"
#undef double

const backend backend_ref32 = {
    .name = "ref32",
    .dev = DEV_CPU,
    .linear_fwd = linear_fwd_ref32,
    .linear_bwd = linear_bwd_ref32,
    .act_fwd = act_fwd_ref32,
    .act_bwd = act_bwd_ref32,
    .layer_norm_fwd = layer_norm_fwd_ref32,
    .layer_norm_bwd = layer_norm_bwd_ref32,
    .group_norm_fwd = group_norm_fwd_ref32,
    .group_norm_bwd = group_norm_bwd_ref32,
    .lift_pool_fwd = lift_pool_fwd_ref32,
    .lift_pool_bwd = lift_pool_bwd_ref32,
    .rms_norm_fwd = rms_norm_fwd_ref32,
    .rms_norm_bwd = rms_norm_bwd_ref32,
    .gate_residual_fwd = gate_residual_fwd_ref32,
    .gate_residual_bwd = gate_residual_bwd_ref32,
    .add_fwd = add_fwd_ref32,
    .zero_fwd = zero_fwd_ref32,
    .copy_fwd = copy_fwd_ref32,
    .split_cols_fwd = split_cols_fwd_ref32,
    .merge_cols_fwd = merge_cols_fwd_ref32,
    .embed_ape_fwd = embed_ape_fwd_ref32,
    .embed_time_fwd = embed_time_fwd_ref32,
    .add_table_fwd = add_table_fwd_ref32,
    .add_table_bwd = add_table_bwd_ref32,
    .gather_rows_fwd = gather_rows_fwd_ref32,
    .gather_rows_bwd = gather_rows_bwd_ref32,
    .branch_gate_fwd = branch_gate_fwd_ref32,
    .branch_gate_bwd = branch_gate_bwd_ref32,
    .vae_sample_fwd = vae_sample_fwd_ref32,
    .vae_sample_bwd = vae_sample_bwd_ref32,
    .sdf_loss_fwd = sdf_loss_fwd_ref32,
    .sdf_loss_bwd = sdf_loss_bwd_ref32,
    .mse_rows_fwd = mse_rows_fwd_ref32,
    .mse_rows_bwd = mse_rows_bwd_ref32,
    .flow_noise_fwd = flow_noise_fwd_ref32,
    .sum_squares_fwd = sum_squares_fwd_ref32,
    .adamw_fwd = adamw_fwd_ref32,
    .muon_fwd = muon_fwd_ref32,
};
