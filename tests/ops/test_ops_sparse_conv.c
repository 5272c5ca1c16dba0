/* conv3, pool, subdivide against ref, gradients of ref, wrong arguments. */
#include "core/rng.h"
#include "ops/optest.h"

#include <math.h>
#include <string.h>

static arena mem;

static int set_up(void **state) {
    (void)state;
    mem = arena_new("tables", (size_t)64 << 20);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    arena_free(&mem);
    return 0;
}

static double uniform(uint64_t sample, uint64_t i) {
    return rng_uniform((rng_key){.seed = 3, .purpose = RNG_TEST, .sample = sample}, i);
}

/* n tiles in three samples, the second one empty, a third of the places of a cube taken; `apart` 2 and more leaves
 * every tile alone; `share` < 1 masks cells. */
static grid make_grid_apart(int n, int side, double share, int apart) {
    int32_t *xyz = arena_alloc(&mem, (size_t)(n + 1) * 12), *first = arena_alloc(&mem, 16);
    int      edge = 2, split = n / 2;
    while (edge * edge * edge < 3 * n) edge++;
    for (int s = 0, at = 0; s < 3; s++) {
        int     want = s == 0 ? split : s == 1 ? 0 : n - split;
        int64_t order[4096];
        first[s] = at;
        assert_true(edge * edge * edge <= 4096);
        rng_permutation((rng_key){.purpose = RNG_TEST, .sample = (uint64_t)(n + s)}, edge * edge * edge, order);
        for (int i = 0; i < want; i++, at++) {
            xyz[3 * at] = apart * ((int32_t)order[i] / edge / edge);
            xyz[3 * at + 1] = apart * ((int32_t)order[i] / edge % edge);
            xyz[3 * at + 2] = apart * ((int32_t)order[i] % edge);
        }
    }
    first[3] = n;
    tensor coord = tensor_wrap(xyz, DT_I32, DIMS(n, 3)), starts = tensor_wrap(first, DT_I32, DIMS(4));
    tensor nb = tiles_neighbors(&mem, &coord, &starts);
    if (share >= 1) return grid_dense(&mem, side, &nb, &starts);
    tensor mask = arena_tensor(&mem, DT_U64, DIMS(n, 8)), pool_first[3];
    grid   level[4];
    memset(mask.data, 0, tensor_bytes(&mask));
    for (int64_t i = 0; i < (int64_t)n * 512; i++)
        if (i % 512 == 100 || uniform(8, (uint64_t)i) < share) U64(&mask)[i / 64] |= UINT64_C(1) << i % 64;
    grid_pyramid(&mem, &mask, &nb, &starts, level, pool_first);
    return side == 8 ? level[0] : side == 4 ? level[1] : side == 2 ? level[2] : level[3];
}

static grid make_grid(int n, int side, double share) {
    return make_grid_apart(n, side, share, 1);
}

static void conv_case_of(const grid *g, bool up, int64_t I, int64_t O, act_kind act, bool want_dx, int repeat,
                         bool grad) {
    optest o;
    if (!optest_case()) return;
    optest_begin(&o);
    o.repeat = repeat;
    int64_t    n = g->n_rows, n_x = up ? n / 8 : n;
    conv3_args a = {.g = g, .up = up, .act = act};
    tensor    *x = optest_in(&o, "x", 1, 2, DIMS(n_x, I)), *w = optest_in(&o, "w", 2, 1, DIMS(27, I, O));
    tensor    *b = optest_in(&o, "b", 3, 1, DIMS(O)), *y = optest_out(&o, "y", DT_F32, DIMS(n, O));
    a.x = x;
    a.w = w;
    a.b = b;
    a.y = y;
    if (act != ACT_NONE) {
        a.pre = optest_out(&o, "pre", DT_F32, DIMS(n, O));
        optest_set_terms(&o, a.pre, 27 * I);
    }
    optest_set_terms(&o, y, 27 * I);
    optest_compare(&o, OPTEST_FN(conv3_fwd), &a);
    if (grad && n > 0) {
        optest_nan(&o, OPTEST_FN(conv3_fwd), &a, x, y);
        optest_run(&o, optest_tested(), OPTEST_FN(conv3_fwd), &a);
    }
    optest_freeze(&o);
    tensor *dy = optest_in(&o, "dy", 4, 2, DIMS(n, O)), *dx = NULL;
    tensor *dw = optest_acc(&o, "dw", 5, 2, DIMS(27, I, O)), *db = optest_acc(&o, "db", 6, 2, DIMS(O));
    a.dy = dy;
    a.dw = dw;
    a.db = db;
    if (want_dx) {
        a.dx = dx = optest_out(&o, "dx", DT_F32, DIMS(n_x, I));
        optest_set_terms(&o, dx, (up ? 8 : 1) * 27 * O);
    }
    optest_set_terms(&o, dw, n);
    optest_set_terms(&o, db, n);
    optest_compare(&o, OPTEST_FN(conv3_bwd), &a);
    if (grad)
        optest_grad(&o, OPTEST_FN(conv3_fwd), OPTEST_FN(conv3_bwd), &a, (tensor *[]){x, dx, w, dw, b, db, NULL},
                    (tensor *[]){y, dy, NULL}, 0.02, 3e-4);
    optest_end(&o);
}

static void conv_case(const grid *g, int64_t I, int64_t O, act_kind act, bool want_dx, int repeat, bool grad) {
    conv_case_of(g, false, I, O, act, want_dx, repeat, grad);
}

/* Of the level above: tiles with neighbours and alone. */
static void test_conv_up(void **state) {
    static const int64_t width[][2] = {{8, 16}, {17, 9}, {32, 8}, {12, 20}, {1, 1}};
    (void)state;
    for (int side = 2; side <= 8; side *= 2)
        for (int s = 0; s < 5; s++) {
            arena_reset(&mem, 0);
            grid g = make_grid_apart(side == 8 ? 5 : side == 4 ? 9 : 67, side, 1, s == 3 ? 2 : 1);
            conv_case_of(&g, true, width[s][0], width[s][1], s & 1 ? ACT_NONE : ACT_SILU, s != 2, 3, false);
        }
    arena_reset(&mem, 0);
    grid none = make_grid(0, 8, 1);
    conv_case_of(&none, true, 8, 8, ACT_SILU, true, 2, false);
}

static void test_conv_rows(void **state) {
    static const int     tiles[] = {0, 1, 3, 63, 64, 65, 1000};
    static const int64_t width[][2] = {{1, 1}, {5, 7}, {8, 8}, {16, 16}, {24, 40}};
    (void)state;
    for (int t = 0; t < 7; t++)
        for (int i = 0; i < 5; i++) {
            arena_reset(&mem, 0);
            grid g = make_grid(tiles[t], 1, 1);
            assert_int_equal(g.n_rows, tiles[t]);
            conv_case(&g, width[i][0], width[i][1], (t + i) & 1 ? ACT_SILU : ACT_NONE, i != 2, 5, false);
        }
}

static void test_conv_levels(void **state) {
    static const double  share[] = {1, 0.9, 0.2, 0.01};
    static const int64_t width[][2] = {{8, 16}, {17, 9}, {32, 8}, {12, 20}};
    static const int64_t odd[][2] = {{17, 9}, {3, 5}, {1, 1}, {20, 12}, {8, 3}, {16, 16}};
    (void)state;
    for (int side = 2; side <= 8; side *= 2)
        for (int s = 0; s < 6; s++) {
            arena_reset(&mem, 0);
            grid g = make_grid(side == 8 ? 5 : side == 4 ? 9 : 67, side, 1);
            conv_case(&g, odd[s][0], odd[s][1], s & 1 ? ACT_NONE : ACT_SILU, true, 3, false);
        }
    for (int side = 1; side <= 8; side *= 2)
        for (int s = 0; s < 4; s++) {
            arena_reset(&mem, 0);
            grid g = make_grid(side == 8 ? 5 : 20, side, share[s]);
            conv_case(&g, width[s][0], width[s][1], s & 1 ? ACT_NONE : ACT_SILU, true, 5, false);
        }
}

/* Wide: weights in several pieces, sums of dw by offset; long: many parts. Equal bits fifty times. */
static void test_conv_wide(void **state) {
    (void)state;
    arena_reset(&mem, 0);
    grid g = make_grid(40, 1, 1);
    conv_case(&g, 272, 24, ACT_SILU, true, 5, false);
    conv_case(&g, 24, 528, ACT_NONE, true, 5, false);
    g = make_grid(12, 8, 1);
    conv_case(&g, 8, 8, ACT_SILU, true, OPTEST_REPEAT, false);
}

/* The least work that takes each way of wide layers once: short enough for a check of races. */
static void test_conv_short(void **state) {
    (void)state;
    arena_reset(&mem, 0);
    grid single = make_grid(70, 1, 1), masked = make_grid(3, 4, 0.3);
    conv_case(&single, 64, 128, ACT_SILU, true, 1, false);
    conv_case(&masked, 128, 64, ACT_NONE, true, 1, false);
    grid fine = make_grid(3, 8, 1), coarse = make_grid(9, 2, 1);
    conv_case_of(&fine, true, 32, 32, ACT_SILU, true, 1, false);
    conv_case_of(&coarse, true, 64, 128, ACT_NONE, true, 1, false);
}

static void test_conv_gradients(void **state) {
    (void)state;
    arena_reset(&mem, 0);
    grid dense = make_grid(2, 2, 1), masked = make_grid(1, 8, 0.05), single = make_grid(5, 1, 1);
    conv_case(&dense, 3, 2, ACT_SILU, true, 2, true);
    conv_case_of(&dense, true, 3, 2, ACT_SILU, true, 2, true);
    conv_case(&masked, 2, 3, ACT_NONE, true, 2, true);
    conv_case(&single, 2, 9, ACT_SILU, true, 2, true);
}

static void test_conv_wrong(void **state) {
    optest o;
    (void)state;
    arena_reset(&mem, 0);
    grid g = make_grid(3, 1, 1);
    optest_begin(&o);
    tensor    *x = optest_in(&o, "x", 1, 1, DIMS(3, 4)), *w = optest_in(&o, "w", 2, 1, DIMS(27, 4, 6));
    tensor    *b = optest_in(&o, "b", 3, 1, DIMS(6)), *y = optest_out(&o, "y", DT_F32, DIMS(3, 6));
    tensor    *x2 = optest_in(&o, "x2", 1, 1, DIMS(4, 4)), *w2 = optest_in(&o, "w2", 2, 1, DIMS(9, 4, 6));
    conv3_args good = {.g = &g, .x = x, .w = w, .b = b, .y = y}, a = good;
    a.x = x2;
    optest_fatal(OPTEST_FN(conv3_fwd), &a, "x is f32 (4,4)");
    a = good;
    a.w = w2;
    optest_fatal(OPTEST_FN(conv3_fwd), &a, "w is f32 (9,4,6)");
    a = good;
    a.b = NULL;
    optest_fatal(OPTEST_FN(conv3_fwd), &a, "b is not given");
    a = good;
    a.act = ACT_SILU;
    optest_fatal(OPTEST_FN(conv3_fwd), &a, "pre is not given");
    a.act = ACT_TANH;
    optest_fatal(OPTEST_FN(conv3_fwd), &a, "wanted none or SiLU");
    a = good;
    a.up = true;
    optest_fatal(OPTEST_FN(conv3_fwd), &a, "3 rows of side 1 are not the children of a level above");
    a = good;
    a.g = NULL;
    optest_fatal(OPTEST_FN(conv3_fwd), &a, "no grid");
    a = good;
    a.dy = y;
    optest_fatal(OPTEST_FN(conv3_bwd), &a, "dw is not given");
    optest_end(&o);
}

/* ---- pool, subdivide ------------------------------------------------------------------------------------------ */

static void pool_case(int64_t n, int64_t parents, int64_t C, bool ordered, bool add_one, bool grad) {
    optest  o;
    int32_t first[1100] = {0}, order[1100];
    int64_t shuffled[1100];
    if (!optest_case()) return;
    optest_begin(&o);
    /* Random cuts: parents of very different size, also empty ones. */
    for (int64_t p = 1; p < parents; p++) {
        int32_t cut = (int32_t)(uniform(5, (uint64_t)(p + n)) * (double)(n + 1));
        int64_t at = p;
        for (; at > 1 && first[at - 1] > cut; at--) first[at] = first[at - 1];
        first[at] = cut;
    }
    first[parents] = (int32_t)n;
    rng_permutation((rng_key){.purpose = RNG_TEST, .step = 5}, n, shuffled);
    for (int64_t i = 0; i < n; i++) order[i] = (int32_t)shuffled[i];
    tensor   *x = optest_in(&o, "x", 1, 2, DIMS(n, C)), *y = optest_out(&o, "y", DT_F32, DIMS(parents, C));
    pool_args a = {.x = x, .first = optest_i32(&o, "first", first, DIMS(parents + 1)), .add_one = add_one, .y = y};
    if (ordered) a.order = optest_i32(&o, "order", order, DIMS(n));
    optest_set_terms(&o, y, n);
    optest_compare(&o, OPTEST_FN(pool_fwd), &a);
    optest_freeze(&o);
    tensor *dy = optest_in(&o, "dy", 2, 2, DIMS(parents, C)), *dx = optest_out(&o, "dx", DT_F32, DIMS(n, C));
    a.dy = dy;
    a.dx = dx;
    optest_compare(&o, OPTEST_FN(pool_bwd), &a);
    if (grad)
        optest_grad(&o, OPTEST_FN(pool_fwd), OPTEST_FN(pool_bwd), &a, (tensor *[]){x, dx, NULL},
                    (tensor *[]){y, dy, NULL}, 0.05, 1e-4);
    optest_end(&o);
}

static void test_pool(void **state) {
    static const int64_t rows[] = {0, 1, 3, 63, 64, 65, 1000}, width[] = {1, 7, 64, 130};
    (void)state;
    for (int r = 0; r < 7; r++)
        for (int w = 0; w < 4; w++)
            pool_case(rows[r], rows[r] / 4 + (rows[r] > 0), width[w], w & 1, (r + w) & 1, false);
    pool_case(12, 5, 3, true, true, true);
    pool_case(12, 5, 3, false, false, true);
}

/* R§15.3: two children of value 1 pool to 2/3. */
static void test_pool_of_ones(void **state) {
    (void)state;
    float                x[2] = {1, 1}, y[1];
    tensor               tx = tensor_wrap(x, DT_F32, DIMS(2, 1)), ty = tensor_wrap(y, DT_F32, DIMS(1, 1));
    tensor               first = tensor_wrap((int32_t[]){0, 2}, DT_I32, DIMS(2));
    pool_args            a = {.x = &tx, .first = &first, .add_one = true, .y = &ty};
    const backend *const all[] = {&backend_ref, &backend_cpu};
    for (int b = 0; b < 2; b++) {
        ctx c = optest_ctx(all[b]);
        pool_fwd(&c, &a);
        expect_le(fabs((double)y[0] - 2.0 / 3), 6e-8, "pooled ones");
    }
}

static void test_pool_wrong(void **state) {
    optest o;
    (void)state;
    optest_begin(&o);
    tensor *x = optest_in(&o, "x", 1, 2, DIMS(4, 2)), *y = optest_out(&o, "y", DT_F32, DIMS(2, 2));
    tensor *first = optest_i32(&o, "first", (int32_t[]){0, 1, 4}, DIMS(3));
    tensor *back = optest_i32(&o, "back", (int32_t[]){0, 5, 4}, DIMS(3)),
           *part = optest_i32(&o, "part", (int32_t[]){0, 1, 3}, DIMS(3));
    pool_args good = {.x = x, .first = first, .y = y}, a = good;
    a.first = back;
    optest_fatal(OPTEST_FN(pool_fwd), &a, "first[1] is 5");
    a.first = part;
    optest_fatal(OPTEST_FN(pool_fwd), &a, "0 to 4");
    a = good;
    a.order = optest_i32(&o, "order", (int32_t[]){0, 1, 1, 2}, DIMS(4));
    optest_fatal(OPTEST_FN(pool_fwd), &a, "names row 1 twice");
    a.order = optest_i32(&o, "order", (int32_t[]){0, 1, 4, 2}, DIMS(4));
    optest_fatal(OPTEST_FN(pool_fwd), &a, "order[2] is 4");
    a = good;
    a.y = x;
    optest_fatal(OPTEST_FN(pool_fwd), &a, "first has 2 parents, the tensor 4");
    subdivide_args s = {.x = x, .y = y};
    optest_fatal(OPTEST_FN(subdivide_fwd), &s, "wanted f32 (32,2)");
    optest_end(&o);
}

static void test_subdivide(void **state) {
    static const int64_t rows[] = {0, 1, 3, 63, 64, 65, 1000};
    (void)state;
    for (int r = 0; r < 7; r++) {
        optest o;
        if (!optest_case()) continue;
        optest_begin(&o);
        int64_t        n = rows[r], C = r % 2 ? 5 : 16;
        tensor        *x = optest_in(&o, "x", 1, 2, DIMS(n, C)), *y = optest_out(&o, "y", DT_F32, DIMS(8 * n, C));
        subdivide_args a = {.x = x, .y = y};
        optest_compare(&o, OPTEST_FN(subdivide_fwd), &a);
        optest_freeze(&o);
        tensor *dy = optest_in(&o, "dy", 2, 2, DIMS(8 * n, C)), *dx = optest_out(&o, "dx", DT_F32, DIMS(n, C));
        a.dy = dy;
        a.dx = dx;
        optest_compare(&o, OPTEST_FN(subdivide_bwd), &a);
        if (n == 3)
            optest_grad(&o, OPTEST_FN(subdivide_fwd), OPTEST_FN(subdivide_bwd), &a, (tensor *[]){x, dx, NULL},
                        (tensor *[]){y, dy, NULL}, 0.05, 1e-4);
        optest_end(&o);
    }
}

/* ---- on a GPU ------------------------------------------------------------------------------------------------- */

/* The layers of the SS-VAE at their level, dense and masked, tiles with neighbours and alone. */
static void test_conv_layers(void **state) {
    static const struct {
        int     side, tiles;
        int64_t I, O;
    } layer[] = {{1, 130, 128, 512}, {1, 67, 512, 512}, {1, 130, 512, 128}, {2, 37, 64, 128}, {2, 37, 128, 128},
                 {2, 37, 128, 64},   {4, 11, 32, 64},   {4, 11, 64, 64},    {4, 11, 64, 32},  {8, 5, 32, 32},
                 {8, 5, 8, 8},       {8, 5, 16, 16},    {1, 300, 64, 64},   {1, 300, 96, 96}, {1, 200, 192, 64},
                 {4, 80, 64, 64},    {1, 300, 64, 96},  {1, 130, 96, 64},   {2, 60, 32, 128}};
    (void)state;
    for (size_t i = 0; i < sizeof layer / sizeof *layer; i++)
        for (int k = 0; k < 4; k++) { /* dense, masked; each with and without neighbours */
            arena_reset(&mem, 0);
            grid g = make_grid_apart(layer[i].tiles, layer[i].side, k & 1 ? 0.3 : 1, k & 2 ? 3 : 1);
            conv_case(&g, layer[i].I, layer[i].O, k & 1 ? ACT_NONE : ACT_SILU, k != 2, 5, false);
        }
}

/* Of the level above, as the SS-VAE has it and beside, tiles with neighbours and alone. More tiles than a GPU takes at
 * once: gpu/test_gpu_large.c. */
static void test_conv_up_layers(void **state) {
    static const struct {
        int     side, tiles;
        int64_t I, O;
    } layer[] = {{8, 5, 32, 32},   {4, 11, 64, 64}, {2, 37, 128, 128}, {2, 300, 64, 128},
                 {4, 80, 128, 64}, {8, 3, 64, 64},  {4, 11, 32, 32},   {8, 3, 24, 40}};
    (void)state;
    for (size_t i = 0; i < sizeof layer / sizeof *layer; i++)
        for (int k = 0; k < 2; k++) {
            arena_reset(&mem, 0);
            grid g = make_grid_apart(layer[i].tiles, layer[i].side, 1, k ? 3 : 1);
            conv_case_of(&g, true, layer[i].I, layer[i].O, k ? ACT_NONE : ACT_SILU, true, 5, false);
        }
}

/* Channel counts of every residue and rows in many blocks; one tile; cells that are alone in their tile. */
static void test_conv_odd(void **state) {
    static const int64_t width[][2] = {{1, 8},   {8, 1},   {3, 16},  {16, 5}, {13, 13},
                                       {24, 40}, {40, 24}, {33, 65}, {130, 6}};
    (void)state;
    for (int side = 1; side <= 8; side *= 2)
        for (size_t w = 0; w < sizeof width / sizeof *width; w++) {
            arena_reset(&mem, 0);
            grid g = make_grid_apart(side == 8 ? 3 : 17, side, w & 1 ? 0.02 : 1, w % 3 ? 1 : 2);
            conv_case(&g, width[w][0], width[w][1], w & 2 ? ACT_SILU : ACT_NONE, true, 3, false);
        }
    for (int side = 1; side <= 8; side *= 2) {
        arena_reset(&mem, 0);
        grid one = make_grid(1, side, 1);
        conv_case(&one, 32, 32, ACT_SILU, true, 3, false);
    }
    arena_reset(&mem, 0);
    grid many = make_grid(64, 8, 1), more = make_grid(1200, 2, 1);
    conv_case(&many, 8, 8, ACT_SILU, true, 10, false);
    conv_case(&many, 32, 8, ACT_NONE, true, 10, false);
    conv_case(&more, 16, 32, ACT_SILU, true, 10, false);
}

static void test_pool_large(void **state) {
    enum { N = 20000 };
    static int32_t first[N / 8 + 1], order[N];
    static int64_t shuffled[N];
    (void)state;
    rng_permutation((rng_key){.purpose = RNG_TEST, .step = 6}, N, shuffled);
    for (int64_t i = 0; i < N; i++) order[i] = (int32_t)shuffled[i];
    for (int k = 0; k < 6; k++) { /* eight of each, or nearly all in one; rows or an order */
        optest  o;
        int64_t C = k < 2 ? 64 : k < 4 ? 1024 / 8 : 30, n = C > 64 ? N / 4 : N, P = k & 1 ? 5 : n / 8;
        if (!optest_case()) continue;
        optest_begin(&o);
        o.repeat = 5;
        for (int64_t p = 0; p <= P; p++) first[p] = (int32_t)(k & 1 ? (p < 3 ? p : n - (P - p)) : n / P * p);
        for (int64_t i = 0; i < n; i++) order[i] = (int32_t)(n == N ? shuffled[i] : n - 1 - i);
        tensor   *x = optest_in(&o, "x", 1, 2, DIMS(n, C)), *y = optest_out(&o, "y", DT_F32, DIMS(P, C));
        pool_args a = {.x = x, .first = optest_i32(&o, "first", first, DIMS(P + 1)), .add_one = k & 1, .y = y};
        if (k % 3) a.order = optest_i32(&o, "order", order, DIMS(n));
        optest_set_terms(&o, y, k & 1 ? n : 8);
        optest_compare(&o, OPTEST_FN(pool_fwd), &a);
        optest_freeze(&o);
        a.dy = optest_in(&o, "dy", 2, 2, DIMS(P, C));
        a.dx = optest_out(&o, "dx", DT_F32, DIMS(n, C));
        optest_compare(&o, OPTEST_FN(pool_bwd), &a);
        optest_end(&o);
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest every[] = {
        cmocka_unit_test(test_conv_rows), cmocka_unit_test(test_conv_levels), cmocka_unit_test(test_conv_wide),
        cmocka_unit_test(test_conv_up),   cmocka_unit_test(test_pool),        cmocka_unit_test(test_subdivide),
    };
    const struct CMUnitTest cpu[] = {
        cmocka_unit_test(test_conv_gradients),
        cmocka_unit_test(test_conv_wrong),
        cmocka_unit_test(test_pool_of_ones),
        cmocka_unit_test(test_pool_wrong),
    };
    const struct CMUnitTest gpu[] = {
        cmocka_unit_test(test_conv_short), cmocka_unit_test(test_conv_layers), cmocka_unit_test(test_conv_up_layers),
        cmocka_unit_test(test_conv_odd),   cmocka_unit_test(test_pool_large),
    };
    return optest_main(argc, argv,
                       &(optest_suite){.name = "sparse_conv",
                                       OPTEST_LIST(every),
                                       OPTEST_LIST(cpu),
                                       OPTEST_LIST(gpu),
                                       .set_up = set_up,
                                       .tear_down = tear_down});
}
