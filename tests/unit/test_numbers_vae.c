/* Published numbers of the SS-VAE: single blocks (R§15.2), small facts (R§15.3), parameter counts (R§3); and the whole
 * model against central differences. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/harness.h"
#include "kernels/backend.h"
#include "model/ssvae_parts.h"

static const backend *const BACKENDS[] = {&backend_ref, &backend_cpu};

typedef struct {
    arena host, weights, step, book;
    ctx   c;
    tape  t;
} bench;

static void bench_open(bench *b, const backend *be) {
    *b = (bench){.host = arena_new("host", 8 << 20),
                 .step = arena_new("step", 32 << 20),
                 .book = arena_new("book", 8 << 20),
                 .c = {.be = be, .scratch = arena_new("scratch", 64 << 20)}};
    b->t = (tape){.c = &b->c, .step = &b->step, .book = &b->book};
    tape_begin(&b->t);
}

static void bench_close(bench *b) {
    arena_free(&b->host);
    arena_free(&b->step);
    arena_free(&b->book);
    arena_free(&b->c.scratch);
}

/* ---- R§15.2 --------------------------------------------------------------------------------------------------- */

/* Row of R§15's point set P at (x,y,z), lexicographic; -1 outside. */
static int point_row(int x, int y, int z) {
    for (int i = 0, row = 0; i < 512; i++) {
        int a = i / 64, b = i / 8 % 8, c = i % 8;
        if (!((7 * a + 5 * b + 3 * c) % 11 < 3 && a + b + c <= 12)) continue;
        if (a == x && b == y && c == z) return row;
        row++;
    }
    return -1;
}

enum { N_POINTS = 94 };

/* Levels with P as the voxels of side `side`, over the tiles that hold them, and for side 4 all children as side 8. */
typedef struct {
    grid    level[4];
    tensor  pool_first[3], coord;
    int     side;
    int64_t row_of[N_POINTS]; /* row of point i */
} point_grid;

static point_grid point_levels(arena *host, int side) {
    point_grid g = {.side = side};
    int        edge = 8 / side, n = edge * edge * edge;
    tensor     first = arena_tensor(host, DT_I32, DIMS(2)), mask = arena_tensor(host, DT_U64, DIMS(n, 8));
    g.coord = arena_tensor(host, DT_I32, DIMS(n, 3));
    memset(mask.data, 0, tensor_bytes(&mask));
    int at[512], m = 0, tiles = 0;
    for (int t = 0; t < n; t++) {
        int tile[3] = {t / edge / edge, t / edge % edge, t % edge}, before = m;
        for (int c = 0; c < side * side * side; c++) {
            int x, y, z, row;
            morton_decode(c, &x, &y, &z);
            row = point_row(tile[0] * side + x, tile[1] * side + y, tile[2] * side + z);
            if (row < 0) continue;
            int bits = 512 / (side * side * side); /* cells of side 8 below this one */
            for (int k = c * bits; k < (c + 1) * bits; k++) U64(&mask)[8 * tiles + k / 64] |= UINT64_C(1) << (k % 64);
            at[row] = m++;
        }
        if (m == before) continue;
        for (int i = 0; i < 3; i++) I32(&g.coord)[3 * tiles + i] = tile[i];
        tiles++;
    }
    assert_int_equal(m, N_POINTS);
    for (int i = 0; i < N_POINTS; i++) g.row_of[i] = at[i];
    I32(&first)[0] = 0;
    I32(&first)[1] = tiles;
    g.coord = tensor_rows(&g.coord, 0, tiles);
    mask = tensor_rows(&mask, 0, tiles);
    tensor nb = tiles_neighbors(host, &g.coord, &first);
    grid_pyramid(host, &mask, &nb, &first, g.level, g.pool_first);
    return g;
}

static void fill_row(param *p, uint32_t seed) {
    fill_rule(F32(&p->w), p->count, seed, 0.5);
}

static tensor point_features(arena *host, const point_grid *g) {
    float  x[N_POINTS * 8];
    tensor ours = arena_tensor(host, DT_F32, DIMS(N_POINTS, 8));
    fill_rule(x, N_POINTS * 8, 150, 2);
    for (int i = 0; i < N_POINTS; i++) memcpy(F32(&ours) + 8 * g->row_of[i], x + 8 * i, 8 * sizeof *x);
    return ours;
}

/* float32 sums of many terms of either sign: the bound is relative to the sum of squares' root. */
static void expect_sums(const tensor *y, double want_sum, double want_squares) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < tensor_count(y); i++) {
        sum += F32(y)[i];
        squares += (double)F32(y)[i] * F32(y)[i];
    }
    expect_le(fabs(sum - want_sum), 1e-5 * sqrt(want_squares), "sum");
    expect_le(fabs(squares - want_squares), 1e-5 * want_squares, "sum of squares");
}

static void test_down_block(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        bench b;
        bench_open(&b, BACKENDS[k]);
        params p;
        params_init(&p);
        down_rows r = down_rows_add(&p, 0, 8, 16, 0, "block");
        b.weights = arena_new("weights", (size_t)p.total * sizeof(float) + 512);
        params_alloc(&p, &b.weights, false, false);
        param *order[10] = {r.norm_in.w,  r.norm_in.b,  r.conv_in.w,  r.conv_in.b, r.norm_out.w,
                            r.norm_out.b, r.conv_out.w, r.conv_out.b, r.skip.w,    r.skip.b};
        for (uint32_t i = 0; i < 10; i++) fill_row(order[i], 200 + i);
        point_grid g = point_levels(&b.host, 8);
        down_args  a = {.r = &r,
                        .fine = &g.level[0],
                        .coarse = &g.level[1],
                        .pool_first = &g.pool_first[0],
                        .groups = 4,
                        .pool_add_one = true};
        var       *x = tape_leaf(&b.t, point_features(&b.host, &g), false);
        var       *y = tape_segment(&b.t, 0, down_block, &a, sizeof a, &x, 1);
        assert_true(y->v.dim[0] == 47 && y->v.dim[1] == 16);
        const float want[4] = {0.181494049f, 0.045534466f, -0.236952511f, -0.25408936f};
        for (int i = 0; i < 4; i++)
            expect_le(fabs(F32(&y->v)[i] - want[i]), 3e-6, "row at (0,0,0)"); /* our row 0, too */
        expect_sums(&y->v, 9.11691244419, 49.4243047906);
        params_free(&p);
        arena_free(&b.weights);
        bench_close(&b);
    }
}

static void test_up_block(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        bench b;
        bench_open(&b, BACKENDS[k]);
        params p;
        params_init(&p);
        up_rows r = up_rows_add(&p, 0, 8, 4, 1, 0, "block");
        b.weights = arena_new("weights", (size_t)p.total * sizeof(float) + 512);
        params_alloc(&p, &b.weights, false, false);
        param *order[4] = {r.conv_in.w, r.conv_in.b, r.conv_out.w, r.conv_out.b};
        for (uint32_t i = 0; i < 4; i++) fill_row(order[i], 200 + i);
        point_grid g = point_levels(&b.host, 4);
        up_args    a = {.r = &r, .coarse = &g.level[1], .fine = &g.level[0]};
        var       *x = tape_leaf(&b.t, point_features(&b.host, &g), false);
        var       *y = tape_segment(&b.t, 0, up_block, &a, sizeof a, &x, 1);
        assert_true(y->v.dim[0] == 752 && y->v.dim[1] == 4);
        const float want[4] = {-0.097050413f, -0.132011265f, -0.071862679f, -0.071799256f};
        for (int i = 0; i < 4; i++) expect_le(fabs(F32(&y->v)[i] - want[i]), 3e-6, "row at (0,0,0)");
        expect_sums(&y->v, 8.58928798724, 65.1539765972);
        params_free(&p);
        arena_free(&b.weights);
        bench_close(&b);
    }
}

/* ---- R§15.3 --------------------------------------------------------------------------------------------------- */

static void test_small_facts(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        bench b;
        bench_open(&b, BACKENDS[k]);
        float   ones[2] = {1, 1};
        int32_t pair[2] = {0, 2}, at[3] = {3, 5, 7};
        tensor  first = tensor_wrap(pair, DT_I32, DIMS(2)), coord = tensor_wrap(at, DT_I32, DIMS(1, 3));
        var    *x = tape_leaf(&b.t, tensor_wrap(ones, DT_F32, DIMS(2, 1)), false);
        expect_le(fabs(F32(&nn_pool(&b.t, x, &first, NULL, true)->v)[0] - 2.0 / 3), 1e-7, "pool of two ones");
        expect_le(fabs(F32(&nn_pool(&b.t, x, &first, NULL, false)->v)[0] - 1.0), 1e-7, "mean of two ones");

        var *zero = tape_new(&b.t, 1, 1024, false);
        memset(zero->v.data, 0, tensor_bytes(&zero->v));
        const float *ape = F32(&nn_embed_ape(&b.t, zero, &coord, 0.5)->v);
        expect_le(fabs(ape[0] - 0.997495), 1e-6, "APE, element 0");
        expect_le(fabs(ape[170] - 0.070737), 1e-6, "APE, element 170");
        expect_le(fabs(ape[340] - 0.598472), 1e-6, "APE, element 340");
        for (int i = 1020; i < 1024; i++) assert_true(ape[i] == 0);

        /* the children of (1,2,3) are cells of the tile (0,0,0), eight rows in a row */
        const int children[8][3] = {{2, 4, 6}, {2, 4, 7}, {2, 5, 6}, {2, 5, 7},
                                    {3, 4, 6}, {3, 4, 7}, {3, 5, 6}, {3, 5, 7}};
        for (int c = 0; c < 8; c++)
            assert_int_equal(8 * morton_encode(1, 2, 3) + c,
                             morton_encode(children[c][0], children[c][1], children[c][2]));
        float  six[3] = {4, 5, 6}, fine[24];
        tensor from = tensor_wrap(six, DT_F32, DIMS(3, 1)), to = tensor_wrap(fine, DT_F32, DIMS(24, 1));
        subdivide_fwd(&b.c, &(subdivide_args){.x = &from, .y = &to});
        for (int i = 0; i < 24; i++) assert_true(fine[i] == six[i / 8]);
        bench_close(&b);
    }
}

/* ---- R§3 ------------------------------------------------------------------------------------------------------ */

static ssvae_config released(void) {
    return (ssvae_config){.width = 512,
                          .blocks_enc = 4,
                          .blocks_dec = 4,
                          .heads = 8,
                          .mlp_ratio = 4,
                          .latent_channels = 16,
                          .enc_width = {32, 64, 128},
                          .dec_width = {128, 64, 32},
                          .groups = 32,
                          .window = 8,
                          .pool_add_one = true,
                          .factor = 1};
}

static int64_t count_rows(const params *p, const char *prefix) {
    int64_t n = 0;
    for (int i = 0; i < p->n; i++)
        if (strncmp(p->row[i]->name, prefix, strlen(prefix)) == 0) n += p->row[i]->count;
    return n;
}

static void expect_row(const params *p, const char *name, int n_dims, const int64_t *dims) {
    const param *r = params_find(p, name);
    if (!r) fail_msg("%s is missing", name);
    assert_int_equal(r->n_dims, n_dims);
    for (int i = 0; i < n_dims; i++) assert_int_equal(r->dim[i], dims[i]);
}

static void test_parameters(void **state) {
    (void)state;
    ssvae        m;
    ssvae_config cfg = released();
    ssvae_init(&m, &cfg);
    assert_int_equal(m.p.n, 116);
    assert_int_equal(count_rows(&m.p, ""), 37874113);
    assert_int_equal(count_rows(&m.p, "encoder."), 22637024);
    assert_int_equal(count_rows(&m.p, "encoder.downsample."), 9756544);
    assert_int_equal(count_rows(&m.p, "encoder.blocks."), 12601344);
    assert_int_equal(count_rows(&m.p, "decoder."), 15237089);
    assert_int_equal(count_rows(&m.p, "decoder.upsample."), 2627008);
    expect_row(&m.p, "encoder.input_layer1.weight", 2, (int64_t[]){32, 1});
    expect_row(&m.p, "encoder.downsample.2.out_layers.0.conv.kernel", 3, (int64_t[]){27, 128, 512});
    expect_row(&m.p, "encoder.downsample.1.skip_connection.conv.kernel", 2, (int64_t[]){64, 128});
    expect_row(&m.p, "encoder.blocks.3.attn.to_qkv.weight", 2, (int64_t[]){1536, 512});
    expect_row(&m.p, "decoder.blocks.0.mlp.mlp.2.weight", 2, (int64_t[]){512, 2048});
    expect_row(&m.p, "decoder.input_layer.weight", 2, (int64_t[]){512, 16});
    expect_row(&m.p, "decoder.upsample.2.out_layers.0.conv.kernel", 3, (int64_t[]){27, 32, 32});
    expect_row(&m.p, "decoder.out_layer.weight", 2, (int64_t[]){1, 32});
    int layer = 0; /* ids rise with the forward order and none is left out */
    for (int i = 0; i < m.p.n; i++) {
        assert_true(m.p.row[i]->layer == layer || m.p.row[i]->layer == layer + 1);
        layer = m.p.row[i]->layer;
    }
    assert_int_equal(layer + 1, ssvae_n_layers(&cfg));
    ssvae_free(&m);
}

/* ---- the whole model ------------------------------------------------------------------------------------------ */

typedef struct {
    bench       b;
    ssvae       m;
    ssvae_batch batch;
    tensor      eps, target, sharp;
} tiny;

/* Two samples, one of them with two windows; random values, about a tenth of the voxels active. */
static void tiny_open(tiny *t) {
    bench_open(&t->b, &backend_ref);
    ssvae_config cfg = {.width = 8,
                        .width_dec = 12,
                        .heads = 2,
                        .heads_dec = 3,
                        .blocks_enc = 2,
                        .blocks_dec = 2,
                        .mlp_ratio = 2,
                        .latent_channels = 3,
                        .enc_width = {4, 4, 6},
                        .dec_width = {6, 4, 4},
                        .groups = 2,
                        .window = 8,
                        .pool_add_one = true,
                        .factor = 0.5};
    ssvae_init(&t->m, &cfg);
    t->b.weights = arena_new("weights", (size_t)t->m.p.total * 4 * sizeof(float) + 2048);
    params_alloc(&t->m.p, &t->b.weights, true, false);
    params_randomize(&t->m.p, 5);
    for (int i = 0; i < t->m.p.n; i++) { /* kernels that keep the signal's size; no bias or norm at its neutral start */
        param *p = t->m.p.row[i];
        for (int64_t k = 0; k < p->count; k++)
            if (p->n_dims == 1)
                F32(&p->w)[k] += (float)(0.1 * sin(3.0 * (double)k + i));
            else if (p->n_dims == 3)
                F32(&p->w)[k] *= 2;
    }
    static const int32_t at[] = {1, 2, 3, 1, 2, 4, 2, 2, 4, 8, 2, 4, 5, 5, 5, 5, 6, 5}, rows[] = {0, 4, 6};
    enum { TILES = 6 };
    tensor coord = arena_tensor(&t->b.host, DT_I32, DIMS(TILES, 3)), first = arena_tensor(&t->b.host, DT_I32, DIMS(3));
    memcpy(coord.data, at, sizeof at);
    memcpy(first.data, rows, sizeof rows);
    float *value = arena_alloc(&t->b.host, TILES * 512 * sizeof *value);
    fill_rule(value, TILES * 512, 11, 20);
    for (int i = 0; i < TILES * 512; i++) value[i] = fminf(1, fmaxf(-1, value[i]));
    t->batch = ssvae_batch_build(&t->b.host, &cfg, 0, &coord, &first, value);
    t->eps = arena_tensor(&t->b.host, DT_F32, DIMS(TILES, 3));
    fill_rule(F32(&t->eps), TILES * 3, 12, 2);
    t->target = tensor_wrap(value, DT_F32, DIMS(TILES * 512));
    t->sharp = arena_tensor(&t->b.host, DT_U8, DIMS(TILES * 64));
    for (int i = 0; i < TILES * 64; i++) U8(&t->sharp)[i] = (uint8_t)(i * 37);
}

/* The loss of R§3.9 with these weights; in double from what the ops give. */
static double tiny_loss(tiny *t, const double scale[3], double kl_scale) {
    tape  *tp = &t->b.t;
    tensor sums, kl;
    tape_begin(tp);
    var *moments = ssvae_encode(tp, &t->m, &t->batch);
    var *z = nn_vae_sample(tp, moments, &t->eps, kl_scale, &kl);
    nn_sdf_loss(tp, ssvae_decode(tp, &t->m, &t->batch, z), &t->target, &t->sharp, scale, &sums);
    double loss = kl_scale * F64(&kl)[0];
    for (int i = 0; i < 3; i++) loss += scale[i] * F64(&sums)[i];
    return loss;
}

static const double SCALE[3] = {1.0 / 300, 0.1 / 2800, 1.0 / 150}, KL_SCALE = 0.01;

/* Derivative along +-1 directions of a whole row: all its elements count. f' = (8 (f1 - f-1) - (f2 - f-2)) / 12h. */
static double directional(tiny *t, param *p, uint32_t seed, double h, double *want) {
    float *keep = malloc(tensor_bytes(&p->w)), *dir = malloc(tensor_bytes(&p->w));
    double diff = 0;
    memcpy(keep, p->w.data, tensor_bytes(&p->w));
    fill_rule(dir, p->count, seed, 2);
    *want = 0;
    for (int64_t i = 0; i < p->count; i++) {
        dir[i] = dir[i] < 0 ? -1 : 1;
        *want += (double)dir[i] * F32(&p->g)[i];
    }
    const double weight[5] = {1, -8, 0, 8, -1};
    for (int k = -2; k <= 2; k++) {
        if (k == 0) continue;
        for (int64_t i = 0; i < p->count; i++) F32(&p->w)[i] = (float)(keep[i] + k * h * dir[i]);
        diff += weight[k + 2] * tiny_loss(t, SCALE, KL_SCALE);
    }
    memcpy(p->w.data, keep, tensor_bytes(&p->w));
    free(keep);
    free(dir);
    return diff / (12 * h);
}

static void test_differences(void **state) {
    (void)state;
    tiny *t = malloc(sizeof *t);
    tiny_open(t);
    t->b.t.recording = true;
    tiny_loss(t, SCALE, KL_SCALE);
    tape_backward(&t->b.t);
    t->b.t.recording = false;
    for (int i = 0; i < t->m.p.n; i++) {
        param *p = t->m.p.row[i];
        double norm = 0, want;
        for (int64_t k = 0; k < p->count; k++) norm += pow(F32(&p->g)[k], 2);
        assert_true(norm > 0);
        double got = directional(t, p, 100 + (uint32_t)i, 3e-2 / sqrt((double)p->count), &want);
        expect_le(fabs(got - want), 1e-3 * sqrt(norm), p->name);
    }
    params_free(&t->m.p);
    arena_free(&t->b.weights);
    bench_close(&t->b);
    free(t);
}

/* ---- parts of a sample ---------------------------------------------------------------------------------------- */

/* A part's predictions are the whole's, and its gradients are those of the whole with the other predictions' dy zero.
 */
static void test_part(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        tiny *t = malloc(sizeof *t);
        tiny_open(t);
        t->b.c.be = BACKENDS[k];
        tape         *tp = &t->b.t;
        params       *p = &t->m.p;
        const int32_t box[12] = {1, 2, 4, 2, 3, 5, 5, 6, 5, 6, 7, 6}; /* one tile of each sample */
        const int     kept_want[2] = {1, 5};
        float         z[6 * 3], dy[2 * 512], dy_whole[6 * 512] = {0}, whole[6 * 512], chunked[6 * 512];
        tensor kept, g = tensor_wrap(dy, DT_F32, DIMS(1024, 1)), g_whole = tensor_wrap(dy_whole, DT_F32, DIMS(3072, 1));
        fill_rule(z, 18, 21, 2);
        fill_rule(dy, 1024, 22, 2);
        tensor zt = tensor_wrap(z, DT_F32, DIMS(6, 3));
        for (int i = 0; i < 2; i++) memcpy(dy_whole + 512 * kept_want[i], dy + 512 * i, 512 * sizeof *dy);

        tp->recording = true;
        tape_begin(tp);
        var *y = ssvae_decode(tp, &t->m, &t->batch, tape_leaf(tp, zt, true));
        memcpy(whole, y->v.data, sizeof whole);
        tape_seed(tp, y, &g_whole);
        tape_backward(tp);
        size_t bytes = (size_t)p->total * sizeof(float);
        float *first = malloc(bytes);
        memcpy(first, p->g, bytes);
        memset(p->g, 0, bytes);

        tape_begin(tp);
        y = ssvae_decode_part(tp, &t->m, &t->batch, tape_leaf(tp, zt, true), box, 3, &t->b.host, &kept);
        assert_int_equal(kept.dim[0], 2);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(I32(&kept)[i], kept_want[i]);
            expect_le(max_abs(F32(&y->v) + 512 * i, whole + 512 * kept_want[i], 512), 1e-6, "prediction of a part");
        }
        tape_seed(tp, y, &g);
        tape_backward(tp);
        for (int i = 0; i < p->n; i++) {
            const param *r = p->row[i];
            if (strncmp(r->name, "decoder.", 8)) continue;
            expect_le(rel_l2(F32(&r->g), first + r->offset, r->count), 2e-5, r->name);
        }
        free(first);

        tp->recording = false;
        for (int edge = 1; edge <= 8; edge *= 2) {
            poison(chunked, sizeof chunked);
            tape_begin(tp);
            ssvae_decode_chunked(tp, &t->m, &t->batch, tape_leaf(tp, zt, false), edge, 4, chunked);
            /* Exact; the last bit of a product's row may depend on its place with a BLAS. */
            if (BACKENDS[k] == &backend_ref)
                assert_memory_equal(chunked, whole, 6 * 512 * sizeof *whole);
            else
                expect_le(max_abs(chunked, whole, 6 * 512), 1e-6, "decoded in chunks");
        }
        params_free(p);
        arena_free(&t->b.weights);
        bench_close(&t->b);
        free(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_down_block),  cmocka_unit_test(test_up_block),
                                       cmocka_unit_test(test_small_facts), cmocka_unit_test(test_parameters),
                                       cmocka_unit_test(test_differences), cmocka_unit_test(test_part)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
