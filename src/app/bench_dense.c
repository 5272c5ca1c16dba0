/* Rows of the dense and elementwise ops. flops count multiply and add of products as two. */
#include "app/bench_rows.h"

static void linear(bench_case *b, const int *s, bool bwd) {
    double       n = s[0], in = s[1], out = s[2];
    linear_args *a = &b->args.linear;
    *a = (linear_args){.x = bench_in(b, DIMS(s[0], s[1])),
                       .w = bench_in(b, DIMS(s[2], s[1])),
                       .b = bench_in(b, DIMS(s[2])),
                       .act = (act_kind)s[3]};
    if (!bwd) {
        a->y = bench_out(b, DT_F32, DIMS(s[0], s[2]));
        if (a->act != ACT_NONE) a->pre = bench_out(b, DT_F32, DIMS(s[0], s[2]));
    } else {
        if (a->act != ACT_NONE) a->pre = bench_in(b, DIMS(s[0], s[2]));
        a->dy = bench_in(b, DIMS(s[0], s[2]));
        a->dx = bench_out(b, DT_F32, DIMS(s[0], s[1]));
        a->dw = bench_out(b, DT_F32, DIMS(s[2], s[1]));
        a->db = bench_out(b, DT_F32, DIMS(s[2]));
    }
    b->flops = (bwd ? 4 : 2) * n * in * out;
}
static void linear_f(bench_case *b, const int *s) {
    linear(b, s, false);
}
static void linear_b(bench_case *b, const int *s) {
    linear(b, s, true);
}

static void act_f(bench_case *b, const int *s) {
    b->args.act = (act_args){
        .act = (act_kind)s[2], .x = bench_in(b, DIMS(s[0], s[1])), .y = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
}
static void act_b(bench_case *b, const int *s) {
    b->args.act = (act_args){.act = (act_kind)s[2],
                             .x = bench_in(b, DIMS(s[0], s[1])),
                             .dy = bench_in(b, DIMS(s[0], s[1])),
                             .dx = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
}

/* s: rows, channels, samples, modulated */
static void layer_norm(bench_case *b, const int *s, bool bwd) {
    layer_norm_args *a = &b->args.layer_norm;
    *a = (layer_norm_args){.x = bench_in(b, DIMS(s[0], s[1])), .eps = 1e-6};
    if (s[3]) {
        a->scale = bench_in(b, DIMS(s[2], s[1]));
        a->shift = bench_in(b, DIMS(s[2], s[1]));
        a->first = bench_first(b, s[0], s[2]);
    } else {
        a->gamma = bench_in(b, DIMS(s[1]));
        a->beta = bench_in(b, DIMS(s[1]));
    }
    a->y = bench_out(b, DT_F32, DIMS(s[0], s[1]));
    a->mean = bench_out(b, DT_F32, DIMS(s[0]));
    a->rstd = bench_out(b, DT_F32, DIMS(s[0]));
    if (!bwd) return;
    layer_norm_fwd(b->prepare, a);
    b->n_out = 0;
    a->dy = bench_in(b, DIMS(s[0], s[1]));
    a->dx = bench_out(b, DT_F32, DIMS(s[0], s[1]));
    a->dx_add = bench_in(b, DIMS(s[0], s[1])); /* as behind a residual */
    if (s[3]) {
        a->dscale = bench_out(b, DT_F32, DIMS(s[2], s[1]));
        a->dshift = bench_out(b, DT_F32, DIMS(s[2], s[1]));
    } else {
        a->dgamma = bench_out(b, DT_F32, DIMS(s[1]));
        a->dbeta = bench_out(b, DT_F32, DIMS(s[1]));
    }
}
/* s: rows, channels, samples, gated */
static void residual_norm_f(bench_case *b, const int *s) {
    b->args.layer_norm = (layer_norm_args){.x = bench_in(b, DIMS(s[0], s[1])),
                                           .h = bench_in(b, DIMS(s[0], s[1])),
                                           .gate = s[3] ? bench_in(b, DIMS(s[2], s[1])) : NULL,
                                           .first = s[3] ? bench_first(b, s[0], s[2]) : NULL,
                                           .eps = 1e-6,
                                           .sum = bench_out(b, DT_F32, DIMS(s[0], s[1])),
                                           .y = bench_out(b, DT_F32, DIMS(s[0], s[1])),
                                           .mean = bench_out(b, DT_F32, DIMS(s[0])),
                                           .rstd = bench_out(b, DT_F32, DIMS(s[0]))};
}
static void layer_norm_f(bench_case *b, const int *s) {
    layer_norm(b, s, false);
}
static void layer_norm_b(bench_case *b, const int *s) {
    layer_norm(b, s, true);
}

/* s: rows, channels, samples, groups */
static void group_norm(bench_case *b, const int *s, bool bwd) {
    group_norm_args *a = &b->args.group_norm;
    *a = (group_norm_args){.x = bench_in(b, DIMS(s[0], s[1])),
                           .gamma = bench_in(b, DIMS(s[1])),
                           .beta = bench_in(b, DIMS(s[1])),
                           .first = bench_first(b, s[0], s[2]),
                           .groups = s[3],
                           .act = ACT_SILU,
                           .eps = 1e-5,
                           .y = bench_out(b, DT_F32, DIMS(s[0], s[1])),
                           .mean = bench_out(b, DT_F32, DIMS(s[2], s[3])),
                           .rstd = bench_out(b, DT_F32, DIMS(s[2], s[3]))};
    if (!bwd) return;
    group_norm_fwd(b->prepare, a);
    b->n_out = 0;
    a->dy = bench_in(b, DIMS(s[0], s[1]));
    a->dx = bench_out(b, DT_F32, DIMS(s[0], s[1]));
    a->dgamma = bench_out(b, DT_F32, DIMS(s[1]));
    a->dbeta = bench_out(b, DT_F32, DIMS(s[1]));
}
static void group_norm_f(bench_case *b, const int *s) {
    group_norm(b, s, false);
}
static void group_norm_b(bench_case *b, const int *s) {
    group_norm(b, s, true);
}

/* s: rows, heads, width */
static void rms_norm_f(bench_case *b, const int *s) {
    b->args.rms_norm = (rms_norm_args){.x = bench_in(b, DIMS(s[0], s[1], s[2])),
                                       .gamma = bench_in(b, DIMS(s[1], s[2])),
                                       .y = bench_out(b, DT_F32, DIMS(s[0], s[1], s[2]))};
}
static void rms_norm_b(bench_case *b, const int *s) {
    b->args.rms_norm = (rms_norm_args){.x = bench_in(b, DIMS(s[0], s[1], s[2])),
                                       .gamma = bench_in(b, DIMS(s[1], s[2])),
                                       .dy = bench_in(b, DIMS(s[0], s[1], s[2])),
                                       .dx = bench_out(b, DT_F32, DIMS(s[0], s[1], s[2])),
                                       .dgamma = bench_out(b, DT_F32, DIMS(s[1], s[2]))};
}

/* s: rows, channels, samples */
static void gate_f(bench_case *b, const int *s) {
    b->args.gate = (gate_residual_args){.x = bench_in(b, DIMS(s[0], s[1])),
                                        .h = bench_in(b, DIMS(s[0], s[1])),
                                        .gate = bench_in(b, DIMS(s[2], s[1])),
                                        .first = bench_first(b, s[0], s[2]),
                                        .y = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
}
static void gate_b(bench_case *b, const int *s) {
    b->args.gate = (gate_residual_args){.h = bench_in(b, DIMS(s[0], s[1])),
                                        .gate = bench_in(b, DIMS(s[2], s[1])),
                                        .first = bench_first(b, s[0], s[2]),
                                        .dy = bench_in(b, DIMS(s[0], s[1])),
                                        .dh = bench_out(b, DT_F32, DIMS(s[0], s[1])),
                                        .dgate = bench_out(b, DT_F32, DIMS(s[2], s[1]))};
}

static void xy(bench_case *b, const int *s) {
    b->args.xy = (xy_args){.x = bench_in(b, DIMS(s[0], s[1])), .y = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
}
static void split(bench_case *b, const int *s) {
    b->args.split = (split_cols_args){.x = bench_in(b, DIMS(s[0], 3 * s[1])), .n_parts = 3};
    for (int i = 0; i < 3; i++) b->args.split.part[i] = bench_out(b, DT_F32, DIMS(s[0], s[1]));
}
static void merge(bench_case *b, const int *s) {
    b->args.merge = (merge_cols_args){.x = bench_out(b, DT_F32, DIMS(s[0], 3 * s[1])), .n_parts = 3};
    for (int i = 0; i < 3; i++) b->args.merge.part[i] = bench_in(b, DIMS(s[0], s[1]));
}
static void ape(bench_case *b, const int *s) {
    tensor *coord = bench_i32(b, DIMS(s[0], 3));
    for (int64_t i = 0; i < 3 * (int64_t)s[0]; i++) I32(coord)[i] = (int32_t)(i * 7919 % 64);
    b->args.ape = (embed_ape_args){
        .x = bench_in(b, DIMS(s[0], s[1])), .coord = coord, .factor = 1, .y = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
}
static void embed_time(bench_case *b, const int *s) {
    b->args.time = (embed_time_args){.t = bench_in(b, DIMS(s[0])), .y = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
}
/* s: rows, channels, table rows */
static tensor *table_index(bench_case *b, const int *s) {
    tensor *index = bench_i32(b, DIMS(s[0]));
    for (int64_t i = 0; i < s[0]; i++) I32(index)[i] = (int32_t)(i * 7919 % s[2]);
    return index;
}
static void table_f(bench_case *b, const int *s) {
    b->args.table = (add_table_args){.x = bench_in(b, DIMS(s[0], s[1])),
                                     .table = bench_in(b, DIMS(s[2], s[1])),
                                     .index = table_index(b, s),
                                     .y = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
}
static void table_b(bench_case *b, const int *s) {
    tensor *order = bench_i32(b, DIMS(s[0])), *first = bench_i32(b, DIMS(s[2] + 1));
    for (int64_t i = 0; i < s[0]; i++) I32(order)[i] = (int32_t)(i * 7919 % s[0]);
    for (int64_t k = 0; k <= s[2]; k++) I32(first)[k] = (int32_t)(s[0] * k / s[2]);
    b->args.table = (add_table_args){.order = order,
                                     .first = first,
                                     .dy = bench_in(b, DIMS(s[0], s[1])),
                                     .dtable = bench_out(b, DT_F32, DIMS(s[2], s[1]))};
}
/* s: rows, channels, rows to choose from */
static void gather_f(bench_case *b, const int *s) {
    b->args.gather = (gather_rows_args){
        .x = bench_in(b, DIMS(s[2], s[1])), .index = table_index(b, s), .y = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
}
static void gather_b(bench_case *b, const int *s) {
    b->args.gather = (gather_rows_args){
        .index = table_index(b, s), .dy = bench_in(b, DIMS(s[0], s[1])), .dx = bench_out(b, DT_F32, DIMS(s[2], s[1]))};
}
void bench_branch_gate(bench_case *b, int64_t n, int64_t heads, int64_t width, bool bwd) {
    branch_gate_args *a = &b->args.branch;
    *a = (branch_gate_args){.z = bench_in(b, DIMS(n, 3))};
    for (int i = 0; i < 3; i++) a->o[i] = bench_in(b, DIMS(n, heads, width));
    if (!bwd) {
        a->out = bench_out(b, DT_F32, DIMS(n, heads, width));
        return;
    }
    a->dout = bench_in(b, DIMS(n, heads, width));
    a->dz = bench_out(b, DT_F32, DIMS(n, 3));
    for (int i = 0; i < 3; i++) {
        a->lse[i] = bench_in(b, DIMS(n, heads));
        a->stat[i] = bench_out(b, DT_F32, DIMS(n, heads, 2));
    }
}
static void branch_f(bench_case *b, const int *s) {
    bench_branch_gate(b, s[0], s[1], s[2], false);
}
static void branch_b(bench_case *b, const int *s) {
    bench_branch_gate(b, s[0], s[1], s[2], true);
}

static void vae_f(bench_case *b, const int *s) {
    b->args.vae = (vae_sample_args){.moments = bench_in(b, DIMS(s[0], 2 * s[1])),
                                    .eps = bench_in(b, DIMS(s[0], s[1])),
                                    .z = bench_out(b, DT_F32, DIMS(s[0], s[1])),
                                    .kl = bench_out(b, DT_F64, DIMS(1))};
}
static void vae_b(bench_case *b, const int *s) {
    b->args.vae = (vae_sample_args){.moments = bench_in(b, DIMS(s[0], 2 * s[1])),
                                    .eps = bench_in(b, DIMS(s[0], s[1])),
                                    .kl_scale = 0.1,
                                    .dz = bench_in(b, DIMS(s[0], s[1])),
                                    .dmoments = bench_out(b, DT_F32, DIMS(s[0], 2 * s[1]))};
}
static void sdf_f(bench_case *b, const int *s) {
    b->args.sdf = (sdf_loss_args){.pred = bench_in(b, DIMS(s[0])),
                                  .target = bench_in(b, DIMS(s[0])),
                                  .sums = bench_out(b, DT_F64, DIMS(3)),
                                  .counts = bench_out(b, DT_F64, DIMS(3))};
}
static void sdf_b(bench_case *b, const int *s) {
    b->args.sdf = (sdf_loss_args){.pred = bench_in(b, DIMS(s[0])),
                                  .target = bench_in(b, DIMS(s[0])),
                                  .scale = {1, 1, 1},
                                  .dpred = bench_out(b, DT_F32, DIMS(s[0]))};
}
static void mse_f(bench_case *b, const int *s) {
    b->args.mse = (mse_rows_args){.pred = bench_in(b, DIMS(s[0], s[1])),
                                  .target = bench_in(b, DIMS(s[0], s[1])),
                                  .first = bench_first(b, s[0], s[2]),
                                  .sums = bench_out(b, DT_F64, DIMS(s[2]))};
}
static void mse_b(bench_case *b, const int *s) {
    b->args.mse = (mse_rows_args){.pred = bench_in(b, DIMS(s[0], s[1])),
                                  .target = bench_in(b, DIMS(s[0], s[1])),
                                  .scale = 1,
                                  .dpred = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
}
static void flow(bench_case *b, const int *s) {
    b->args.flow = (flow_noise_args){.x0 = bench_in(b, DIMS(s[0], s[1])),
                                     .eps = bench_in(b, DIMS(s[0], s[1])),
                                     .t = bench_in(b, DIMS(s[2])),
                                     .first = bench_first(b, s[0], s[2]),
                                     .sigma_min = 1e-5,
                                     .x_t = bench_out(b, DT_F32, DIMS(s[0], s[1])),
                                     .v = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
}
static void squares(bench_case *b, const int *s) {
    b->args.squares = (sum_squares_args){.x = bench_in(b, DIMS(s[0])), .out = bench_out(b, DT_F64, DIMS(1))};
    b->flops = 2.0 * s[0];
}
static void adamw(bench_case *b, const int *s) {
    b->args.adamw = (adamw_args){.w = bench_out(b, DT_F32, DIMS(s[0])),
                                 .m = bench_out(b, DT_F32, DIMS(s[0])),
                                 .v = bench_out(b, DT_F32, DIMS(s[0])),
                                 .ema = bench_out(b, DT_F32, DIMS(s[0])),
                                 .grad = bench_in(b, DIMS(s[0])),
                                 .grad_scale = 0.5,
                                 .lr = 1e-4,
                                 .beta1 = 0.9,
                                 .beta2 = 0.999,
                                 .eps = 1e-8,
                                 .weight_decay = 0.01,
                                 .ema_decay = 0.9999,
                                 .step = 10};
}

/* s: rows, columns */
static void muon(bench_case *b, const int *s) {
    double r = s[0] < s[1] ? s[0] : s[1], c = s[0] < s[1] ? s[1] : s[0];
    b->args.muon = (muon_args){.w = bench_out(b, DT_F32, DIMS(s[0], s[1])),
                               .m = bench_out(b, DT_F32, DIMS(s[0], s[1])),
                               .ema = bench_out(b, DT_F32, DIMS(s[0], s[1])),
                               .grad = bench_in(b, DIMS(s[0], s[1])),
                               .grad_scale = 0.5,
                               .lr = 1e-3,
                               .momentum = 0.95,
                               .ema_decay = 0.9999};
    b->flops = MUON_ROUNDS * (4 * r * r * c + 2 * r * r * r);
}

const bench_row bench_rows_dense[] = {
    BENCH_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(2048, 256, 1024, ACT_GELU_TANH)),
    BENCH_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(2048, 256, 256, ACT_NONE)),
    BENCH_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(20000, 64, 64, ACT_NONE)),
    BENCH_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(2, 256, 1536, ACT_SILU)),
    BENCH_ROW(linear_bwd, linear_b, "N I O act", BENCH_AT(2048, 256, 256, ACT_NONE)),
    BENCH_ROW(linear_bwd, linear_b, "N I O act", BENCH_AT(512, 128, 512, ACT_GELU_TANH)),
    BENCH_ROW(act_fwd, act_f, "N C act", BENCH_AT(4096, 512, ACT_GELU_TANH)),
    BENCH_ROW(act_fwd, act_f, "N C act", BENCH_AT(4096, 512, ACT_SILU)),
    BENCH_ROW(act_bwd, act_b, "N C act", BENCH_AT(4096, 512, ACT_GELU_TANH)),
    BENCH_ROW(layer_norm_fwd, layer_norm_f, "N C B modulated", BENCH_AT(4096, 256, 4, 1)),
    BENCH_ROW(layer_norm_fwd, residual_norm_f, "N C B gated", BENCH_AT(4096, 256, 4, 1)),
    BENCH_ROW(layer_norm_bwd, layer_norm_b, "N C B modulated", BENCH_AT(4096, 256, 4, 1)),
    BENCH_ROW(layer_norm_bwd, layer_norm_b, "N C B modulated", BENCH_AT(4096, 256, 4, 0)),
    BENCH_ROW(group_norm_fwd, group_norm_f, "N C B groups", BENCH_AT(20000, 64, 2, 32)),
    BENCH_ROW(group_norm_bwd, group_norm_b, "N C B groups", BENCH_AT(20000, 64, 2, 32)),
    BENCH_ROW(rms_norm_fwd, rms_norm_f, "N H D", BENCH_AT(4096, 8, 32)),
    BENCH_ROW(rms_norm_bwd, rms_norm_b, "N H D", BENCH_AT(4096, 8, 32)),
    BENCH_ROW(gate_residual_fwd, gate_f, "N C B", BENCH_AT(4096, 256, 4)),
    BENCH_ROW(gate_residual_bwd, gate_b, "N C B", BENCH_AT(4096, 256, 4)),
    BENCH_ROW(add_fwd, xy, "N C", BENCH_AT(4096, 256)),
    BENCH_ROW(zero_fwd, xy, "N C", BENCH_AT(4096, 256)),
    BENCH_ROW(copy_fwd, xy, "N C", BENCH_AT(4096, 256)),
    BENCH_ROW(split_cols_fwd, split, "N C", BENCH_AT(4096, 256)),
    BENCH_ROW(merge_cols_fwd, merge, "N C", BENCH_AT(4096, 256)),
    BENCH_ROW(embed_ape_fwd, ape, "N C", BENCH_AT(4096, 256)),
    BENCH_ROW(embed_time_fwd, embed_time, "B D", BENCH_AT(8, 256)),
    BENCH_ROW(add_table_fwd, table_f, "N C K", BENCH_AT(4096, 256, 512)),
    BENCH_ROW(add_table_bwd, table_b, "N C K", BENCH_AT(4096, 256, 512)),
    BENCH_ROW(gather_rows_fwd, gather_f, "N C K", BENCH_AT(4096, 256, 8192)),
    BENCH_ROW(gather_rows_bwd, gather_b, "N C K", BENCH_AT(4096, 256, 8192)),
    BENCH_ROW(branch_gate_fwd, branch_f, "N H D", BENCH_AT(4096, 8, 32)),
    BENCH_ROW(branch_gate_bwd, branch_b, "N H D", BENCH_AT(4096, 8, 32)),
    BENCH_ROW(vae_sample_fwd, vae_f, "N C", BENCH_AT(4096, 16)),
    BENCH_ROW(vae_sample_bwd, vae_b, "N C", BENCH_AT(4096, 16)),
    BENCH_ROW(sdf_loss_fwd, sdf_f, "M", BENCH_AT(1048576)),
    BENCH_ROW(sdf_loss_bwd, sdf_b, "M", BENCH_AT(1048576)),
    BENCH_ROW(mse_rows_fwd, mse_f, "N C B", BENCH_AT(4096, 16, 4)),
    BENCH_ROW(mse_rows_bwd, mse_b, "N C B", BENCH_AT(4096, 16, 4)),
    BENCH_ROW(flow_noise_fwd, flow, "N C B", BENCH_AT(4096, 16, 4)),
    BENCH_ROW(sum_squares_fwd, squares, "n", BENCH_AT(10000000)),
    BENCH_ROW(adamw_fwd, adamw, "n", BENCH_AT(4000000)),
    BENCH_ROW(muon_fwd, muon, "R C", BENCH_AT(256, 256)),
    {0},
};

/* The widths of the paper's transformer at R = 1024, of its auto-encoder there, and what a step does with parameters.
 */
const bench_row bench_gpu_dense[] = {
    BENCH_GPU_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(45904, 1024, 1024, ACT_NONE),
                  BENCH_AT(67, 1024, 1024, ACT_NONE)),
    BENCH_GPU_ROW(linear_bwd, linear_b, "N I O act", BENCH_AT(45904, 1024, 1024, ACT_NONE),
                  BENCH_AT(67, 1024, 1024, ACT_NONE)),
    BENCH_GPU_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(45904, 1024, 4096, ACT_GELU_TANH),
                  BENCH_AT(19, 1024, 4096, ACT_GELU_TANH)),
    BENCH_GPU_ROW(linear_bwd, linear_b, "N I O act", BENCH_AT(45904, 1024, 4096, ACT_GELU_TANH),
                  BENCH_AT(19, 1024, 4096, ACT_GELU_TANH)),
    BENCH_GPU_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(45904, 4096, 1024, ACT_NONE),
                  BENCH_AT(19, 4096, 1024, ACT_NONE)),
    BENCH_GPU_ROW(linear_bwd, linear_b, "N I O act", BENCH_AT(45904, 4096, 1024, ACT_NONE),
                  BENCH_AT(19, 4096, 1024, ACT_NONE)),
    BENCH_GPU_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(45904, 1024, 64, ACT_NONE),
                  BENCH_AT(517, 1024, 64, ACT_NONE)),
    BENCH_GPU_ROW(linear_bwd, linear_b, "N I O act", BENCH_AT(45904, 1024, 64, ACT_NONE),
                  BENCH_AT(517, 1024, 64, ACT_NONE)),
    BENCH_GPU_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(45904, 1024, 3, ACT_NONE),
                  BENCH_AT(517, 1024, 3, ACT_NONE)),
    BENCH_GPU_ROW(linear_bwd, linear_b, "N I O act", BENCH_AT(45904, 1024, 3, ACT_NONE),
                  BENCH_AT(517, 1024, 3, ACT_NONE)),
    BENCH_GPU_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(45904, 16, 1024, ACT_NONE),
                  BENCH_AT(517, 16, 1024, ACT_NONE)),
    BENCH_GPU_ROW(linear_bwd, linear_b, "N I O act", BENCH_AT(45904, 16, 1024, ACT_NONE),
                  BENCH_AT(517, 16, 1024, ACT_NONE)),
    BENCH_GPU_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(45904, 1024, 16, ACT_NONE),
                  BENCH_AT(517, 1024, 16, ACT_NONE)),
    BENCH_GPU_ROW(linear_bwd, linear_b, "N I O act", BENCH_AT(45904, 1024, 16, ACT_NONE),
                  BENCH_AT(517, 1024, 16, ACT_NONE)),
    BENCH_GPU_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(131072, 1024, 1024, ACT_NONE),
                  BENCH_AT(67, 1024, 1024, ACT_NONE)),
    BENCH_GPU_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(1374, 1024, 2048, ACT_NONE),
                  BENCH_AT(67, 1024, 2048, ACT_NONE)),
    BENCH_GPU_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(8, 1024, 6144, ACT_NONE),
                  BENCH_AT(8, 1024, 6144, ACT_NONE)),
    BENCH_GPU_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(45904, 512, 1536, ACT_NONE),
                  BENCH_AT(67, 512, 1536, ACT_NONE)),
    BENCH_GPU_ROW(linear_bwd, linear_b, "N I O act", BENCH_AT(45904, 512, 1536, ACT_NONE),
                  BENCH_AT(67, 512, 1536, ACT_NONE)),
    BENCH_GPU_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(45904, 512, 2048, ACT_GELU_TANH),
                  BENCH_AT(19, 512, 2048, ACT_GELU_TANH)),
    BENCH_GPU_ROW(linear_bwd, linear_b, "N I O act", BENCH_AT(45904, 512, 2048, ACT_GELU_TANH),
                  BENCH_AT(19, 512, 2048, ACT_GELU_TANH)),
    BENCH_GPU_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(7000000, 1, 32, ACT_NONE),
                  BENCH_AT(100003, 1, 32, ACT_NONE)),
    BENCH_GPU_ROW(linear_bwd, linear_b, "N I O act", BENCH_AT(7000000, 1, 32, ACT_NONE),
                  BENCH_AT(100003, 1, 32, ACT_NONE)),
    BENCH_GPU_ROW(linear_fwd, linear_f, "N I O act", BENCH_AT(23502848, 32, 1, ACT_TANH),
                  BENCH_AT(100003, 32, 1, ACT_TANH)),
    BENCH_GPU_ROW(linear_bwd, linear_b, "N I O act", BENCH_AT(23502848, 32, 1, ACT_TANH),
                  BENCH_AT(100003, 32, 1, ACT_TANH)),
    BENCH_GPU_ROW(act_fwd, act_f, "N C act", BENCH_AT(45904, 1024, ACT_SILU), BENCH_AT(1003, 1024, ACT_SILU)),
    BENCH_GPU_ROW(act_bwd, act_b, "N C act", BENCH_AT(45904, 1024, ACT_SILU), BENCH_AT(1003, 1024, ACT_SILU)),
    BENCH_GPU_ROW(layer_norm_fwd, layer_norm_f, "N C B modulated", BENCH_AT(45904, 1024, 1, 1),
                  BENCH_AT(1003, 1024, 2, 1)),
    BENCH_GPU_ROW(layer_norm_fwd, residual_norm_f, "N C B gated", BENCH_AT(45904, 1024, 1, 1),
                  BENCH_AT(1003, 1024, 2, 1)),
    BENCH_GPU_ROW(layer_norm_bwd, layer_norm_b, "N C B modulated", BENCH_AT(45904, 1024, 1, 1),
                  BENCH_AT(1003, 1024, 2, 1)),
    BENCH_GPU_ROW(layer_norm_fwd, layer_norm_f, "N C B modulated", BENCH_AT(45904, 1024, 1, 0),
                  BENCH_AT(1003, 1024, 2, 0)),
    BENCH_GPU_ROW(layer_norm_bwd, layer_norm_b, "N C B modulated", BENCH_AT(45904, 1024, 1, 0),
                  BENCH_AT(1003, 1024, 2, 0)),
    BENCH_GPU_ROW(group_norm_fwd, group_norm_f, "N C B groups", BENCH_AT(7000000, 32, 1, 32),
                  BENCH_AT(30001, 32, 2, 32)),
    BENCH_GPU_ROW(group_norm_bwd, group_norm_b, "N C B groups", BENCH_AT(7000000, 32, 1, 32),
                  BENCH_AT(30001, 32, 2, 32)),
    BENCH_GPU_ROW(group_norm_fwd, group_norm_f, "N C B groups", BENCH_AT(45904, 512, 1, 32),
                  BENCH_AT(1003, 512, 2, 32)),
    BENCH_GPU_ROW(group_norm_bwd, group_norm_b, "N C B groups", BENCH_AT(45904, 512, 1, 32),
                  BENCH_AT(1003, 512, 2, 32)),
    BENCH_GPU_ROW(rms_norm_fwd, rms_norm_f, "N H D", BENCH_AT(45904, 32, 32), BENCH_AT(1003, 32, 32)),
    BENCH_GPU_ROW(rms_norm_bwd, rms_norm_b, "N H D", BENCH_AT(45904, 32, 32), BENCH_AT(1003, 32, 32)),
    BENCH_GPU_ROW(gate_residual_fwd, gate_f, "N C B", BENCH_AT(45904, 1024, 1), BENCH_AT(1003, 1024, 2)),
    BENCH_GPU_ROW(gate_residual_bwd, gate_b, "N C B", BENCH_AT(45904, 1024, 1), BENCH_AT(1003, 1024, 2)),
    BENCH_GPU_ROW(add_fwd, xy, "N C", BENCH_AT(45904, 1024), BENCH_AT(1003, 1024)),
    BENCH_GPU_ROW(zero_fwd, xy, "N C", BENCH_AT(45904, 1024), BENCH_AT(1003, 1024)),
    BENCH_GPU_ROW(copy_fwd, xy, "N C", BENCH_AT(45904, 1024), BENCH_AT(1003, 1024)),
    BENCH_GPU_ROW(split_cols_fwd, split, "N C", BENCH_AT(45904, 1024), BENCH_AT(1003, 1024)),
    BENCH_GPU_ROW(merge_cols_fwd, merge, "N C", BENCH_AT(45904, 1024), BENCH_AT(1003, 1024)),
    BENCH_GPU_ROW(embed_ape_fwd, ape, "N C", BENCH_AT(45904, 1024), BENCH_AT(1003, 1024)),
    BENCH_GPU_ROW(embed_time_fwd, embed_time, "B D", BENCH_AT(8, 256), BENCH_AT(8, 256)),
    BENCH_GPU_ROW(add_table_fwd, table_f, "N C K", BENCH_AT(45904, 64, 512), BENCH_AT(5003, 64, 512)),
    BENCH_GPU_ROW(add_table_bwd, table_b, "N C K", BENCH_AT(45904, 64, 512), BENCH_AT(5003, 64, 512)),
    BENCH_GPU_ROW(gather_rows_fwd, gather_f, "N C K", BENCH_AT(45904, 512, 60000), BENCH_AT(1003, 512, 2000)),
    BENCH_GPU_ROW(gather_rows_bwd, gather_b, "N C K", BENCH_AT(45904, 512, 60000), BENCH_AT(1003, 512, 2000)),
    BENCH_GPU_ROW(branch_gate_fwd, branch_f, "N H D", BENCH_AT(45904, 32, 32), BENCH_AT(1003, 32, 32)),
    BENCH_GPU_ROW(branch_gate_bwd, branch_b, "N H D", BENCH_AT(45904, 32, 32), BENCH_AT(1003, 32, 32)),
    BENCH_GPU_ROW(vae_sample_fwd, vae_f, "N C", BENCH_AT(45904, 16), BENCH_AT(1003, 16)),
    BENCH_GPU_ROW(vae_sample_bwd, vae_b, "N C", BENCH_AT(45904, 16), BENCH_AT(1003, 16)),
    BENCH_GPU_ROW(sdf_loss_fwd, sdf_f, "M", BENCH_AT(23502848), BENCH_AT(100003)),
    BENCH_GPU_ROW(sdf_loss_bwd, sdf_b, "M", BENCH_AT(23502848), BENCH_AT(100003)),
    BENCH_GPU_ROW(mse_rows_fwd, mse_f, "N C B", BENCH_AT(45904, 16, 2), BENCH_AT(1003, 16, 2)),
    BENCH_GPU_ROW(mse_rows_bwd, mse_b, "N C B", BENCH_AT(45904, 16, 2), BENCH_AT(1003, 16, 2)),
    BENCH_GPU_ROW(flow_noise_fwd, flow, "N C B", BENCH_AT(45904, 16, 2), BENCH_AT(1003, 16, 2)),
    BENCH_GPU_ROW(sum_squares_fwd, squares, "n", BENCH_AT(200000000), BENCH_AT(1000003)),
    BENCH_GPU_ROW(adamw_fwd, adamw, "n", BENCH_AT(200000000), BENCH_AT(1000003)),
    BENCH_GPU_ROW(muon_fwd, muon, "R C", BENCH_AT(1024, 4096), BENCH_AT(96, 130)),
    {0},
};
