/* Numbers of the specification: the SSA layer of R§15.1 forward and backward, parameter counts (R§5.3, R§10.1), sigma
 * tables (R§6), position embedding (R§15.3). */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "harness/harness.h"
#include "kernels/backend.h"
#include "model/flow.h"
#include "model/ssa.h"
#include "nn/rig.h"

/* ---- R§15.1 --------------------------------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    double      sum, l2;
} gradient;

typedef struct {
    compression_kind compression;
    int              shift, n_windows;
    int32_t          selected[2][4][2];
    double           y0[8], sum, squares, h_sum, h_l2;
    gradient         grad[24];
    const char      *zero; /* a gradient that is zero in theory */
} ssa_case;

static const ssa_case CASE_A = {
    .compression = COMPRESSION_V1,
    .shift = 0,
    .n_windows = 7,
    .selected = {{{0, 2}, {2, 5}, {2, 5}, {0, 1}}, {{2, 4}, {0, 2}, {0, 2}, {0, 2}}},
    .y0 = {1.103384389, -0.853309872, -0.601540789, -1.382698369, -1.577084443, 0.489370986, 0.613188568, -0.796311055},
    .sum = -19.7977404767,
    .squares = 499.101549805,
    .h_sum = -25.99346763,
    .h_l2 = 23.10084273,
    .grad = {{"proj_q.weight", 26.98879609, 15.33551622},
             {"proj_k.weight", 17.59941351, 68.77209366},
             {"proj_v.weight", 10.75340064, 44.53006915},
             {"proj_o.weight", -20.14894486, 37.21973671},
             {"gate.0.weight", -0.8953256032, 14.11701519},
             {"intra_block_pe", 0.1395634755, 0.310130736},
             {"compression_key.act_layers.0.conv.kernel", 1.52487465, 2.07053496},
             {"compression_key.act_layers.0.conv.bias", 0.2625541788, 0.3412942038},
             {"compression_value.act_layers.0.conv.kernel", 5.378044363, 4.970033717},
             {"compression_value.act_layers.0.conv.bias", -0.7431372177, 4.800211167}}};

static const ssa_case CASE_B = {.compression = COMPRESSION_V2,
                                .shift = 2,
                                .n_windows = 20,
                                .selected = {{{1, 3}, {2, 4}, {1, 2}, {1, 3}}, {{0, 6}, {0, 2}, {0, 2}, {2, 6}}},
                                .y0 = {1.994769467, -1.525450361, -1.278237939, -1.314553974, -1.512029611, 1.022737864,
                                       -0.972002118, -0.306110913},
                                .sum = -175.436829015,
                                .squares = 727.263268106,
                                .h_sum = -21.8267154,
                                .h_l2 = 21.73970636,
                                .grad = {{"proj_q.weight", 28.72177351, 11.11611542},
                                         {"proj_k.weight", 26.67701656, 57.76679795},
                                         {"proj_v.weight", 30.25637669, 47.36294284},
                                         {"proj_o.weight", -87.97458779, 45.62901142},
                                         {"gate.0.weight", -10.62703012, 10.10785442},
                                         {"intra_block_pe", -0.9715157403, 2.668098273},
                                         {"compression_key.act_layers.0.weight", -3.949050578, 4.987653381},
                                         {"compression_key.act_layers.0.bias", -2.142565469, 3.984734878},
                                         {"compression_key.out_layers.0.conv.kernel", 7.710986827, 7.397192791},
                                         {"compression_key.out_layers.0.conv.bias", 0, 2.663220238},
                                         {"compression_key.out_layers.1.weight", 19.87211984, 12.9488687},
                                         {"compression_key.out_layers.1.bias", 0.7759728739, 5.777969369},
                                         {"compression_key.out_layers.3.conv.kernel", -5.32082255, 10.56780843},
                                         {"compression_value.act_layers.0.weight", -2.679200687, 6.588340805},
                                         {"compression_value.act_layers.0.bias", 0.4275970038, 10.19766981},
                                         {"compression_value.out_layers.0.conv.kernel", -4.389272736, 13.11808583},
                                         {"compression_value.out_layers.0.conv.bias", 0, 8.269333847},
                                         {"compression_value.out_layers.1.weight", -7.14256247, 16.74061502},
                                         {"compression_value.out_layers.1.bias", 1.229179433, 16.97588234},
                                         {"compression_value.out_layers.3.conv.kernel", -24.84566084, 17.87882377},
                                         {"compression_value.out_layers.3.conv.bias", -0.2833588662, 13.23246913}},
                                .zero = "compression_key.out_layers.3.conv.bias"};

/* fp32 of the published module is good to 1e-6 in the worst gradient (fixtures, ssa_module); five times that. */
static const double FP32 = 5e-6;

static void expect_sum_l2(const char *name, const float *x, int64_t n, double sum, double l2) {
    double s = 0, q = 0;
    for (int64_t i = 0; i < n; i++) {
        s += x[i];
        q += (double)x[i] * x[i];
    }
    /* An error vector of length FP32*l2 changes the sum by at most sqrt(n) times that. */
    double sum_bound = FP32 * l2 * sqrt((double)n);
    expect_le(fabs(s - sum), sum_bound, name);
    expect_le(fabs(sqrt(q) - l2), FP32 * l2, name);
}

static tensor points(arena *a) {
    int32_t raw[94 * 3], order[94], first[2] = {0, 94};
    int     n = 0;
    for (int x = 0; x < 8; x++)
        for (int y = 0; y < 8; y++)
            for (int z = 0; z < 8; z++)
                if ((7 * x + 5 * y + 3 * z) % 11 < 3 && x + y + z <= 12) {
                    assert_true(n < 94);
                    memcpy(raw + 3 * n++, (int32_t[]){x, y, z}, 3 * sizeof *raw);
                }
    assert_int_equal(n, 94);
    blocks_sort(raw, first, 1, 4, order);
    tensor coord = arena_tensor(a, DT_I32, DIMS(94, 3));
    for (int i = 0; i < 94; i++) memcpy(I32(&coord) + 3 * i, raw + 3 * order[i], 3 * sizeof *raw);
    const int32_t head[] = {0, 0, 0, 0, 1, 2, 0, 2, 1, 0, 3, 3, 1, 0, 2, 1, 1, 0}, tail[] = {6, 5, 0};
    assert_memory_equal(coord.data, head, sizeof head);
    assert_memory_equal(I32(&coord) + 3 * 93, tail, sizeof tail);
    return coord;
}

static void fill(params *p, const char *name, uint32_t seed, double scale) {
    param *r = params_find(p, name);
    assert_non_null(r);
    fill_rule(F32(&r->w), r->count, seed, scale);
}

static void fill_compression(params *p, const ssa_case *k, const char *net, uint32_t base) {
    static const char *const v1[] = {"act_layers.0.conv.kernel", "act_layers.0.conv.bias"};
    static const char *const v2[] = {"act_layers.0.weight",      "act_layers.0.bias",     "out_layers.0.conv.kernel",
                                     "out_layers.0.conv.bias",   "out_layers.1.weight",   "out_layers.1.bias",
                                     "out_layers.3.conv.kernel", "out_layers.3.conv.bias"};
    bool                     first = k->compression == COMPRESSION_V1;
    for (uint32_t i = 0; i < (first ? 2u : 8u); i++) {
        char name[96];
        snprintf(name, sizeof name, "%s.%s", net, first ? v1[i] : v2[i]);
        fill(p, name, base + i, 1);
    }
}

static void check_case(const ssa_case *k, const char *backend_name) {
    rig r;
    rig_open(&r, backend_name, 64);
    ssa_config cfg = {.width = 8,
                      .heads = 4,
                      .kv_heads = 2,
                      .head_dim = 4,
                      .m_cmp = 2,
                      .m_slc = 4,
                      .m_win = 4,
                      .top_k = 2,
                      .groups = 4,
                      .compression = k->compression,
                      .pool_add_one = true};
    params     p;
    ssa_layer  layer;
    params_init(&p);
    ssa_add_params(&layer, &p, &cfg, 0, "");
    params_alloc(&p, &r.weights, true, false);
    fill(&p, "proj_q.weight", 2, 4);
    fill(&p, "proj_k.weight", 3, 1);
    fill(&p, "proj_v.weight", 4, 1);
    fill(&p, "proj_o.weight", 5, 1);
    fill(&p, "gate.0.weight", 6, 1);
    fill(&p, "intra_block_pe", 7, 1);
    fill_compression(&p, k, "compression_key", 10);
    fill_compression(&p, k, "compression_value", 20);

    tensor coord = points(&r.host), first = arena_tensor(&r.host, DT_I32, DIMS(2));
    I32(&first)[0] = 0;
    I32(&first)[1] = 94;
    tensor h = arena_tensor(&r.host, DT_F32, DIMS(94, 8)), dy = arena_tensor(&r.host, DT_F32, DIMS(94, 8));
    fill_rule(F32(&h), 94 * 8, 57, 4);
    fill_rule(F32(&dy), 94 * 8, 99, 2);
    block_tables  b = blocks_build(&r.host, &coord, &first, 2, 4, k->compression == COMPRESSION_V2);
    window_tables w = windows_build(&r.host, &coord, &first, 4, k->shift, true, 4);
    assert_int_equal(b.n_cmp, 47);
    assert_int_equal(b.n_slc, 7);
    assert_int_equal(w.n_windows, k->n_windows);

    tape_begin(&r.t);
    ssa_trace trace;
    var      *x = tape_leaf(&r.t, h, true), *y = ssa_forward(&r.t, &cfg, &layer, x, &b, &w, &trace);
    for (int g = 0; g < 2; g++)
        assert_memory_equal(I32(&trace.block) + g * 94 * 2, k->selected[g], sizeof k->selected[g]);
    double sum = 0, squares = 0;
    for (int i = 0; i < 94 * 8; i++) {
        sum += F32(&y->v)[i];
        squares += (double)F32(&y->v)[i] * F32(&y->v)[i];
    }
    for (int i = 0; i < 8; i++) expect_le(fabs(F32(&y->v)[i] - k->y0[i]), FP32 * 2, "y of token 0");
    expect_le(fabs(sum - k->sum), FP32 * sqrt(k->squares * 94 * 8), "sum of y");
    expect_le(fabs(squares - k->squares), 2 * FP32 * k->squares, "sum of y^2");

    tape_seed(&r.t, y, &dy);
    tape_backward(&r.t);
    expect_sum_l2("h", F32(&x->g), 94 * 8, k->h_sum, k->h_l2);
    int n = 0;
    for (; k->grad[n].name; n++) {
        const param *q = params_find(&p, k->grad[n].name);
        assert_non_null(q);
        expect_sum_l2(q->name, F32(&q->g), q->count, k->grad[n].sum, k->grad[n].l2);
    }
    assert_int_equal(n + (k->zero ? 1 : 0), p.n);
    if (k->zero) {
        const param *q = params_find(&p, k->zero);
        for (int64_t i = 0; i < q->count; i++) expect_le(fabs(F32(&q->g)[i]), 2e-5, k->zero);
    }
    params_free(&p);
    rig_close(&r);
}

static void layer_v1(void **state) {
    check_case(&CASE_A, *state);
}
static void layer_v2(void **state) {
    check_case(&CASE_B, *state);
}

/* ---- counts --------------------------------------------------------------------------------------------------- */

static ssdit_config released(compression_kind v) {
    bool first = v == COMPRESSION_V2;
    return (ssdit_config){.ssa = {.width = 1024,
                                  .heads = 32,
                                  .kv_heads = 2,
                                  .m_cmp = first ? 4 : 8,
                                  .m_slc = 8,
                                  .m_win = 8,
                                  .top_k = first ? 32 : 8,
                                  .groups = 32,
                                  .compression = v,
                                  .pool_add_one = true},
                          .blocks = 24,
                          .mlp_ratio = 4,
                          .in_channels = 16,
                          .out_channels = 16,
                          .cond_width = 1024,
                          .sparse_cond = first,
                          .resolution = 64,
                          .factor = 1};
}

static void check_counts(compression_kind v, int n_tensors, int64_t n_weights, int64_t per_block) {
    ssdit_config cfg = released(v);
    ssdit        m;
    ssdit_init(&m, &cfg);
    int64_t total = 0, block0 = 0;
    for (int i = 0; i < m.p.n; i++) {
        const param *r = m.p.row[i];
        total += r->count;
        if (r->layer == 0) block0 += r->count;
        assert_int_equal(strncmp(r->name, "blocks.", 7) == 0, r->layer >= 0 && r->layer < cfg.blocks);
    }
    assert_int_equal(m.p.n, n_tensors);
    assert_int_equal(total, n_weights);
    assert_int_equal(block0, per_block);
    ssdit_free(&m);
}

static void parameter_counts(void **state) {
    (void)state;
    check_counts(COMPRESSION_V2, 874, 520083472, 21570304);
    check_counts(COMPRESSION_V1, 584, 509286416, 21164160);
}

/* ---- schedule, position --------------------------------------------------------------------------------------- */

static void expect_sigmas(int steps, double shift, int from, const double *want, int n) {
    double sigma[64];
    flow_sigmas(steps, shift, sigma);
    for (int i = 0; i < n; i++) expect_le(fabs(sigma[from + i] - want[i]), 0.500001e-5, "sigma, five digits");
}

static void sigma_tables(void **state) {
    (void)state;
    static const double s8[] = {1,      .99056, .97978, .96735, .95288, .93581, .91537, .89045,
                                .85939, .81963, .76688, .69357, .58473, .40631, .06021, 0};
    static const double s6[] = {1,      .99412, .98788, .98126, .97420, .96668, .95863, .95002, .94076, .93079, .92003,
                                .90837, .89569, .88187, .86672, .85007, .83166, .81121, .78835, .76263, .73349, .70019,
                                .66177, .61695, .56399, .50045, .42280, .32576, .20103, .03478, 0};
    static const double head[] = {1, .99656, .99300, .98931}, tail[] = {.30055, .22654, .13926, .03478, 0};
    expect_sigmas(15, 8, 0, s8, 16);
    expect_sigmas(30, 6, 0, s6, 31);
    expect_sigmas(50, 6, 0, head, 4);
    expect_sigmas(50, 6, 46, tail, 5);
    double t[5];
    flow_sigmas_trellis(4, 3, t); /* 3s/(1+2s) at 1, 3/4, 1/2, 1/4, 0 */
    const double want[] = {1, 0.9, 0.75, 0.5, 0};
    for (int i = 0; i < 5; i++) expect_le(fabs(t[i] - want[i]), 1e-15, "TRELLIS's schedule");
}

static void position(void **state) {
    rig r;
    rig_open(&r, *state, 1);
    tensor x = arena_tensor(&r.host, DT_F32, DIMS(1, 1024)), y = arena_tensor(&r.host, DT_F32, DIMS(1, 1024));
    tensor coord = arena_tensor(&r.host, DT_I32, DIMS(1, 3));
    memcpy(coord.data, (int32_t[]){3, 5, 7}, 3 * sizeof(int32_t));
    memset(x.data, 0, tensor_bytes(&x));
    poison(y.data, tensor_bytes(&y));
    embed_ape_fwd(&r.c, &(embed_ape_args){.x = &x, .coord = &coord, .factor = 0.5f, .y = &y});
    const struct {
        int    at;
        double want;
    } e[] = {{0, 0.997495}, {170, 0.070737}, {340, 0.598472}};
    for (int i = 0; i < 3; i++) expect_le(fabs(F32(&y)[e[i].at] - e[i].want), 0.51e-6, "position embedding");
    for (int i = 1020; i < 1024; i++) assert_true(F32(&y)[i] == 0);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {{"layer v1 on ref", layer_v1, NULL, NULL, "ref"},
                                       {"layer v1 on cpu", layer_v1, NULL, NULL, "cpu"},
                                       {"layer v2 on ref", layer_v2, NULL, NULL, "ref"},
                                       {"layer v2 on cpu", layer_v2, NULL, NULL, "cpu"},
                                       {"position on ref", position, NULL, NULL, "ref"},
                                       {"position on cpu", position, NULL, NULL, "cpu"},
                                       cmocka_unit_test(parameter_counts),
                                       cmocka_unit_test(sigma_tables)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
