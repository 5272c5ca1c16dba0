/* Rows of the dense and elementwise ops. flops count multiply and add as two; bytes are what must move at least once.
 */
#include "app/bench_rows.h"

#define F 4.0 /* bytes of a float */

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
    b->bytes = F * ((bwd ? 2 : 1) * (n * in + in * out) + n * out * (a->act != ACT_NONE ? 2 : 1));
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
    b->bytes = 2 * F * s[0] * s[1];
}
static void act_b(bench_case *b, const int *s) {
    b->args.act = (act_args){.act = (act_kind)s[2],
                             .x = bench_in(b, DIMS(s[0], s[1])),
                             .dy = bench_in(b, DIMS(s[0], s[1])),
                             .dx = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
    b->bytes = 3 * F * s[0] * s[1];
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
    b->bytes = (bwd ? 3 : 2) * F * s[0] * s[1];
    if (!bwd) return;
    layer_norm_fwd(b->prepare, a);
    b->n_out = 0;
    a->dy = bench_in(b, DIMS(s[0], s[1]));
    a->dx = bench_out(b, DT_F32, DIMS(s[0], s[1]));
    if (s[3]) {
        a->dscale = bench_out(b, DT_F32, DIMS(s[2], s[1]));
        a->dshift = bench_out(b, DT_F32, DIMS(s[2], s[1]));
    } else {
        a->dgamma = bench_out(b, DT_F32, DIMS(s[1]));
        a->dbeta = bench_out(b, DT_F32, DIMS(s[1]));
    }
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
    b->bytes = (bwd ? 5 : 3) * F * s[0] * s[1];
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
    b->bytes = 2 * F * s[0] * s[1] * s[2];
}
static void rms_norm_b(bench_case *b, const int *s) {
    b->args.rms_norm = (rms_norm_args){.x = bench_in(b, DIMS(s[0], s[1], s[2])),
                                       .gamma = bench_in(b, DIMS(s[1], s[2])),
                                       .dy = bench_in(b, DIMS(s[0], s[1], s[2])),
                                       .dx = bench_out(b, DT_F32, DIMS(s[0], s[1], s[2])),
                                       .dgamma = bench_out(b, DT_F32, DIMS(s[1], s[2]))};
    b->bytes = 3 * F * s[0] * s[1] * s[2];
}

/* s: rows, channels, samples */
static void gate_f(bench_case *b, const int *s) {
    b->args.gate = (gate_residual_args){.x = bench_in(b, DIMS(s[0], s[1])),
                                        .h = bench_in(b, DIMS(s[0], s[1])),
                                        .gate = bench_in(b, DIMS(s[2], s[1])),
                                        .first = bench_first(b, s[0], s[2]),
                                        .y = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
    b->bytes = 3 * F * s[0] * s[1];
}
static void gate_b(bench_case *b, const int *s) {
    b->args.gate = (gate_residual_args){.h = bench_in(b, DIMS(s[0], s[1])),
                                        .gate = bench_in(b, DIMS(s[2], s[1])),
                                        .first = bench_first(b, s[0], s[2]),
                                        .dy = bench_in(b, DIMS(s[0], s[1])),
                                        .dh = bench_out(b, DT_F32, DIMS(s[0], s[1])),
                                        .dgate = bench_out(b, DT_F32, DIMS(s[2], s[1]))};
    b->bytes = 3 * F * s[0] * s[1];
}

static void xy(bench_case *b, const int *s) {
    b->args.xy = (xy_args){.x = bench_in(b, DIMS(s[0], s[1])), .y = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
    b->bytes = 2 * F * s[0] * s[1];
}
static void split(bench_case *b, const int *s) {
    b->args.split = (split_cols_args){.x = bench_in(b, DIMS(s[0], 3 * s[1])), .n_parts = 3};
    for (int i = 0; i < 3; i++) b->args.split.part[i] = bench_out(b, DT_F32, DIMS(s[0], s[1]));
    b->bytes = 6 * F * s[0] * s[1];
}
static void merge(bench_case *b, const int *s) {
    b->args.merge = (merge_cols_args){.x = bench_out(b, DT_F32, DIMS(s[0], 3 * s[1])), .n_parts = 3};
    for (int i = 0; i < 3; i++) b->args.merge.part[i] = bench_in(b, DIMS(s[0], s[1]));
    b->bytes = 6 * F * s[0] * s[1];
}
static void ape(bench_case *b, const int *s) {
    tensor *coord = bench_i32(b, DIMS(s[0], 3));
    for (int64_t i = 0; i < 3 * (int64_t)s[0]; i++) I32(coord)[i] = (int32_t)(i * 7919 % 64);
    b->args.ape = (embed_ape_args){
        .x = bench_in(b, DIMS(s[0], s[1])), .coord = coord, .factor = 1, .y = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
    b->bytes = 2 * F * s[0] * s[1];
}
static void embed_time(bench_case *b, const int *s) {
    b->args.time = (embed_time_args){.t = bench_in(b, DIMS(s[0])), .y = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
    b->bytes = F * s[0] * s[1];
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
    b->bytes = 2 * F * s[0] * s[1];
}
static void table_b(bench_case *b, const int *s) {
    b->args.table = (add_table_args){.index = table_index(b, s),
                                     .dy = bench_in(b, DIMS(s[0], s[1])),
                                     .dtable = bench_out(b, DT_F32, DIMS(s[2], s[1]))};
    b->bytes = F * s[0] * s[1];
}
static void branch(bench_case *b, const int *s, bool bwd) {
    branch_gate_args *a = &b->args.branch;
    *a = (branch_gate_args){.z = bench_in(b, DIMS(s[0], 3))};
    for (int i = 0; i < 3; i++) a->o[i] = bench_in(b, DIMS(s[0], s[1], s[2]));
    b->bytes = (bwd ? 7 : 4) * F * s[0] * s[1] * s[2];
    if (!bwd) {
        a->out = bench_out(b, DT_F32, DIMS(s[0], s[1], s[2]));
        return;
    }
    a->dout = bench_in(b, DIMS(s[0], s[1], s[2]));
    a->dz = bench_out(b, DT_F32, DIMS(s[0], 3));
    for (int i = 0; i < 3; i++) a->do_[i] = bench_out(b, DT_F32, DIMS(s[0], s[1], s[2]));
}
static void branch_f(bench_case *b, const int *s) {
    branch(b, s, false);
}
static void branch_b(bench_case *b, const int *s) {
    branch(b, s, true);
}

static void vae_f(bench_case *b, const int *s) {
    b->args.vae = (vae_sample_args){.moments = bench_in(b, DIMS(s[0], 2 * s[1])),
                                    .eps = bench_in(b, DIMS(s[0], s[1])),
                                    .z = bench_out(b, DT_F32, DIMS(s[0], s[1])),
                                    .kl = bench_out(b, DT_F64, DIMS(1))};
    b->bytes = 4 * F * s[0] * s[1];
}
static void vae_b(bench_case *b, const int *s) {
    b->args.vae = (vae_sample_args){.moments = bench_in(b, DIMS(s[0], 2 * s[1])),
                                    .eps = bench_in(b, DIMS(s[0], s[1])),
                                    .kl_scale = 0.1,
                                    .dz = bench_in(b, DIMS(s[0], s[1])),
                                    .dmoments = bench_out(b, DT_F32, DIMS(s[0], 2 * s[1]))};
    b->bytes = 6 * F * s[0] * s[1];
}
static void sdf_f(bench_case *b, const int *s) {
    b->args.sdf = (sdf_loss_args){.pred = bench_in(b, DIMS(s[0])),
                                  .target = bench_in(b, DIMS(s[0])),
                                  .sums = bench_out(b, DT_F64, DIMS(3)),
                                  .counts = bench_out(b, DT_F64, DIMS(3))};
    b->bytes = 2 * F * s[0];
}
static void sdf_b(bench_case *b, const int *s) {
    b->args.sdf = (sdf_loss_args){.pred = bench_in(b, DIMS(s[0])),
                                  .target = bench_in(b, DIMS(s[0])),
                                  .scale = {1, 1, 1},
                                  .dpred = bench_out(b, DT_F32, DIMS(s[0]))};
    b->bytes = 3 * F * s[0];
}
static void mse_f(bench_case *b, const int *s) {
    b->args.mse = (mse_rows_args){.pred = bench_in(b, DIMS(s[0], s[1])),
                                  .target = bench_in(b, DIMS(s[0], s[1])),
                                  .first = bench_first(b, s[0], s[2]),
                                  .sums = bench_out(b, DT_F64, DIMS(s[2]))};
    b->bytes = 2 * F * s[0] * s[1];
}
static void mse_b(bench_case *b, const int *s) {
    b->args.mse = (mse_rows_args){.pred = bench_in(b, DIMS(s[0], s[1])),
                                  .target = bench_in(b, DIMS(s[0], s[1])),
                                  .scale = 1,
                                  .dpred = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
    b->bytes = 3 * F * s[0] * s[1];
}
static void flow(bench_case *b, const int *s) {
    b->args.flow = (flow_noise_args){.x0 = bench_in(b, DIMS(s[0], s[1])),
                                     .eps = bench_in(b, DIMS(s[0], s[1])),
                                     .t = bench_in(b, DIMS(s[2])),
                                     .first = bench_first(b, s[0], s[2]),
                                     .sigma_min = 1e-5,
                                     .x_t = bench_out(b, DT_F32, DIMS(s[0], s[1])),
                                     .v = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
    b->bytes = 4 * F * s[0] * s[1];
}
static void squares(bench_case *b, const int *s) {
    b->args.squares = (sum_squares_args){.x = bench_in(b, DIMS(s[0])), .out = bench_out(b, DT_F64, DIMS(1))};
    b->bytes = F * s[0];
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
    b->bytes = 9 * F * s[0];
}

#define ROW(op, setup, text, ...)                                                                                      \
    { #op, BENCH_FN(op), setup, {__VA_ARGS__ }, text }
const bench_row bench_rows_dense[] = {
    ROW(linear_fwd, linear_f, "N I O act", 2048, 256, 1024, ACT_GELU_TANH),
    ROW(linear_fwd, linear_f, "N I O act", 2048, 256, 256, ACT_NONE),
    ROW(linear_fwd, linear_f, "N I O act", 20000, 64, 64, ACT_NONE),
    ROW(linear_fwd, linear_f, "N I O act", 2, 256, 1536, ACT_SILU),
    ROW(linear_bwd, linear_b, "N I O act", 2048, 256, 256, ACT_NONE),
    ROW(linear_bwd, linear_b, "N I O act", 512, 128, 512, ACT_GELU_TANH),
    ROW(act_fwd, act_f, "N C act", 4096, 512, ACT_GELU_TANH),
    ROW(act_fwd, act_f, "N C act", 4096, 512, ACT_SILU),
    ROW(act_bwd, act_b, "N C act", 4096, 512, ACT_GELU_TANH),
    ROW(layer_norm_fwd, layer_norm_f, "N C B modulated", 4096, 256, 4, 1),
    ROW(layer_norm_bwd, layer_norm_b, "N C B modulated", 4096, 256, 4, 1),
    ROW(layer_norm_bwd, layer_norm_b, "N C B modulated", 4096, 256, 4, 0),
    ROW(group_norm_fwd, group_norm_f, "N C B groups", 20000, 64, 2, 32),
    ROW(group_norm_bwd, group_norm_b, "N C B groups", 20000, 64, 2, 32),
    ROW(rms_norm_fwd, rms_norm_f, "N H D", 4096, 8, 32),
    ROW(rms_norm_bwd, rms_norm_b, "N H D", 4096, 8, 32),
    ROW(gate_residual_fwd, gate_f, "N C B", 4096, 256, 4),
    ROW(gate_residual_bwd, gate_b, "N C B", 4096, 256, 4),
    ROW(add_fwd, xy, "N C", 4096, 256),
    ROW(zero_fwd, xy, "N C", 4096, 256),
    ROW(copy_fwd, xy, "N C", 4096, 256),
    ROW(split_cols_fwd, split, "N C", 4096, 256),
    ROW(merge_cols_fwd, merge, "N C", 4096, 256),
    ROW(embed_ape_fwd, ape, "N C", 4096, 256),
    ROW(embed_time_fwd, embed_time, "B D", 8, 256),
    ROW(add_table_fwd, table_f, "N C K", 4096, 256, 512),
    ROW(add_table_bwd, table_b, "N C K", 4096, 256, 512),
    ROW(branch_gate_fwd, branch_f, "N H D", 4096, 8, 32),
    ROW(branch_gate_bwd, branch_b, "N H D", 4096, 8, 32),
    ROW(vae_sample_fwd, vae_f, "N C", 4096, 16),
    ROW(vae_sample_bwd, vae_b, "N C", 4096, 16),
    ROW(sdf_loss_fwd, sdf_f, "M", 1048576),
    ROW(sdf_loss_bwd, sdf_b, "M", 1048576),
    ROW(mse_rows_fwd, mse_f, "N C B", 4096, 16, 4),
    ROW(mse_rows_bwd, mse_b, "N C B", 4096, 16, 4),
    ROW(flow_noise_fwd, flow, "N C B", 4096, 16, 4),
    ROW(sum_squares_fwd, squares, "n", 10000000),
    ROW(adamw_fwd, adamw, "n", 4000000),
    {0},
};
