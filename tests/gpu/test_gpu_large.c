/* Feature tensors of more than 2^31 elements (4.3 GB in bf16) on a GPU: conv3 on one level and of the level above,
 * group_norm, pool, subdivide, forward and backward. Tiles repeat every PERIOD of them, so that ref answers for all of
 * a tensor: what it gives for a few tiles and their neighbours, or for one period, must stand at the beginning, on both
 * sides of 2^31 bytes and of 2^31 elements, and at the end.
 *
 * And conv3 of as many rows as its tiles for many rows are for (test_conv_rounds): samples that are alike. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "core/half.h"
#include "gpu/hosted.h"
#include "harness/harness.h"

enum { PERIOD = 64, TILES = 2050 * PERIOD, CELLS = 512, C = 32, EDGE = 51, GROUPS = 8, N_SPOTS = 5 };
/* 2^31 bytes are 65,536 tiles of CELLS x C bf16, 2^31 elements 131,072. */
static const int64_t SPOT[N_SPOTS] = {0, 65535, 65537, 131073, TILES - 1};
static const int64_t ROWS = (int64_t)TILES * CELLS, PERIOD_ROWS = (int64_t)PERIOD * CELLS;
static const size_t  ROOM = (size_t)24 << 30, SCRATCH = (size_t)6 << 30, HOST = (size_t)1 << 30;

static arena host, gpu;
static ctx   cuda, ref;

static int set_up(void **state) {
    (void)state;
    size_t free_bytes, all;
    cuda = hosted_ctx(DT_BF16);
    device_memory(&free_bytes, &all);
    if (free_bytes < ROOM + SCRATCH + ((size_t)1 << 30)) return 0;
    host = arena_new("host", HOST);
    gpu = arena_new_on("large", ROOM, DEV_CUDA);
    cuda.scratch = arena_new_on("scratch", SCRATCH, DEV_CUDA);
    ref = (ctx){.be = &backend_ref, .scratch = arena_new("ref scratch", HOST), .deterministic = true};
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    if (!gpu.base) return 0;
    arena_free(&host);
    arena_free(&gpu);
    arena_free(&cuda.scratch);
    arena_free(&ref.scratch);
    return 0;
}

static void begin(void) {
    if (!gpu.base) skip_because("needs %zu GB of free GPU memory", (ROOM + SCRATCH) >> 30);
    arena_reset(&host, 0);
    arena_reset(&gpu, 0);
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

/* n numbers that are bf16. */
static tensor values(uint32_t seed, double scale, const int64_t *dims, int n_dims) {
    tensor t = arena_tensor(&host, DT_F32, dims, n_dims);
    fill_rule(F32(&t), tensor_count(&t), seed, scale);
    for (int64_t i = 0; i < tensor_count(&t); i++) F32(&t)[i] = bf16_to_f32(f32_to_bf16(F32(&t)[i]));
    return t;
}

/* A copy on the GPU: f32 as it is or in bf16, tables as they are. */
static tensor sent(const tensor *t, dtype dt) {
    tensor g = arena_tensor(&gpu, dt, t->dim, t->n_dims);
    if (dt == t->dt) {
        device_copy(g.data, t->data, tensor_bytes(t), STREAM_COMPUTE);
        return g;
    }
    uint16_t *half = arena_alloc(&host, (size_t)tensor_count(t) * sizeof *half);
    for (int64_t i = 0; i < tensor_count(t); i++) half[i] = f32_to_bf16(F32(t)[i]);
    device_copy(g.data, half, tensor_bytes(&g), STREAM_COMPUTE);
    return g;
}

/* n rows on the GPU, period after period. */
static tensor repeated(const tensor *period, int64_t n) {
    tensor g = arena_tensor(&gpu, DT_BF16, DIMS(n, period->dim[1])), first = sent(period, DT_BF16);
    size_t all = tensor_bytes(&g), have = tensor_bytes(&first);
    device_copy(g.data, first.data, have, STREAM_COMPUTE);
    for (; have < all; have *= 2)
        device_copy((char *)g.data + have, g.data, all - have < have ? all - have : have, STREAM_COMPUTE);
    return g;
}

static tensor large(int64_t n) {
    return arena_tensor(&gpu, DT_BF16, DIMS(n, C));
}

static void fetch(const tensor *g, int64_t row, int64_t n, float *out) {
    int64_t   width = g->dim[1];
    uint16_t *half = arena_alloc(&host, (size_t)(n * width) * sizeof *half);
    device_copy(half, (const char *)g->data + (size_t)(row * width) * sizeof *half, (size_t)(n * width) * sizeof *half,
                STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    for (int64_t i = 0; i < n * width; i++) out[i] = bf16_to_f32(half[i]);
}

/* Errors of bf16 values and of sums whose terms may have been rounded once more. */
static void expect_near(const float *got, const float *want, int64_t n, const char *what, int64_t tile) {
    double max = 0;
    for (int64_t i = 0; i < n; i++) max = fmax(max, fabs((double)want[i]));
    for (int64_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - (double)want[i]);
        if (!(e <= fabs((double)want[i]) / 256 + max / 256))
            fail_msg("%s of tile %lld, element %lld: %g, ref has %g (largest %g)", what, (long long)tile, (long long)i,
                     (double)got[i], (double)want[i], max);
    }
}

/* n rows of g at each spot's tile against the rows of its place in the period. */
static void expect_periodic(const tensor *g, const tensor *want, int64_t tile_rows, const char *what) {
    for (int s = 0; s < N_SPOTS; s++) {
        size_t mark = arena_mark(&host);
        float *got = arena_alloc(&host, (size_t)(tile_rows * C) * sizeof *got);
        fetch(g, SPOT[s] * tile_rows, tile_rows, got);
        expect_near(got, F32(want) + SPOT[s] % PERIOD * tile_rows * C, tile_rows * C, what, SPOT[s]);
        arena_reset(&host, mark);
    }
}

/* ---- conv3 ------------------------------------------------------------------------------------------------------- */

typedef struct {
    tensor  coord, nb; /* of all tiles, host */
    grid    fine;      /* tables on the GPU */
    int64_t tile[27], n;
    int     centre; /* which of them is the spot */
    grid    near;   /* a spot and its neighbours, host */
} places;

static void place_tiles(places *p) {
    tensor first = arena_tensor(&host, DT_I32, DIMS(2));
    p->coord = arena_tensor(&host, DT_I32, DIMS(TILES, 3));
    I32(&first)[0] = 0;
    I32(&first)[1] = TILES;
    for (int64_t t = 0; t < TILES; t++) {
        I32(&p->coord)[3 * t] = (int32_t)(t / (EDGE * EDGE));
        I32(&p->coord)[3 * t + 1] = (int32_t)(t / EDGE % EDGE);
        I32(&p->coord)[3 * t + 2] = (int32_t)(t % EDGE);
    }
    p->nb = tiles_neighbors(&host, &p->coord, &first);
    p->fine = grid_dense(&host, 8, &p->nb, &first);
    p->fine.nb = sent(&p->fine.nb, DT_I32);
    p->fine.first = sent(&p->fine.first, DT_I32);
    p->fine.sample_first = sent(&p->fine.sample_first, DT_I32);
}

static void around(places *p, int64_t spot) {
    tensor first = arena_tensor(&host, DT_I32, DIMS(2));
    p->n = 0;
    for (int k = 0; k < 27; k++) {
        int32_t t = I32(&p->nb)[27 * spot + k];
        if (k == 13) p->centre = (int)p->n;
        if (t >= 0) p->tile[p->n++] = t;
    }
    tensor coord = arena_tensor(&host, DT_I32, DIMS(p->n, 3));
    for (int64_t i = 0; i < 3 * p->n; i++) I32(&coord)[i] = I32(&p->coord)[3 * p->tile[i / 3] + i % 3];
    I32(&first)[0] = 0;
    I32(&first)[1] = (int32_t)p->n;
    tensor nb = tiles_neighbors(&host, &coord, &first);
    p->near = grid_dense(&host, 8, &nb, &first);
}

/* The gradient is zero but for the spots, so that ref can add up dw, too. */
static void conv_case(bool up) {
    begin();
    places  p;
    int64_t cells = up ? CELLS / 8 : CELLS; /* of a tile of x */
    place_tiles(&p);
    tensor     x = values(1, 2, DIMS(PERIOD * cells, C)), w = values(2, 0.2, DIMS(27, C, C)), b = values(3, 1, DIMS(C));
    tensor     d = values(4, 2, DIMS(CELLS, C)), zero = arena_tensor(&host, DT_F32, DIMS(PERIOD_ROWS, C));
    tensor     dw = arena_tensor(&host, DT_F32, DIMS(27, C, C)), db = arena_tensor(&host, DT_F32, DIMS(C));
    act_kind   act = up ? ACT_SILU : ACT_NONE;
    conv3_args a = {.g = &p.fine, .up = up, .act = act};
    memset(zero.data, 0, tensor_bytes(&zero));
    memset(dw.data, 0, tensor_bytes(&dw));
    memset(db.data, 0, tensor_bytes(&db));

    tensor gx = repeated(&x, TILES * cells), gw = sent(&w, DT_BF16), gb = sent(&b, DT_F32), y = large(ROWS), pre = {0};
    if (up) pre = large(ROWS);
    a.x = &gx;
    a.w = &gw;
    a.b = &gb;
    a.y = &y;
    a.pre = up ? &pre : NULL;
    conv3_fwd(&cuda, &a);
    tensor gd = repeated(&zero, ROWS), one = sent(&d, DT_BF16), dx = large(TILES * cells), gdw = sent(&dw, DT_F32),
           gdb = sent(&db, DT_F32);
    for (int s = 0; s < N_SPOTS; s++)
        device_copy((char *)gd.data + (size_t)SPOT[s] * tensor_bytes(&one), one.data, tensor_bytes(&one),
                    STREAM_COMPUTE);
    a.dy = &gd;
    a.dx = &dx;
    a.dw = &gdw;
    a.db = &gdb;
    conv3_bwd(&cuda, &a);

    for (int s = 0; s < N_SPOTS; s++) {
        size_t mark = arena_mark(&host);
        around(&p, SPOT[s]);
        int64_t rows = p.n * CELLS;
        tensor  sx = arena_tensor(&host, DT_F32, DIMS(p.n * cells, C)), sy = arena_tensor(&host, DT_F32, DIMS(rows, C)),
               spre = arena_tensor(&host, DT_F32, DIMS(rows, C)), sd = arena_tensor(&host, DT_F32, DIMS(rows, C)),
               sdx = arena_tensor(&host, DT_F32, DIMS(p.n * cells, C));
        conv3_args r = {.g = &p.near, .up = up, .act = act, .x = &sx, .w = &w, .b = &b, .y = &sy};
        r.pre = up ? &spre : NULL;
        for (int64_t i = 0; i < p.n; i++)
            memcpy(F32(&sx) + i * cells * C, F32(&x) + p.tile[i] % PERIOD * cells * C,
                   (size_t)(cells * C) * sizeof(float));
        conv3_fwd(&ref, &r);
        float *got = arena_alloc(&host, (size_t)(CELLS * C) * sizeof *got);
        fetch(&y, SPOT[s] * CELLS, CELLS, got);
        expect_near(got, F32(&sy) + (int64_t)p.centre * CELLS * C, CELLS * C, "y", SPOT[s]);
        if (up) { /* backward starts from what the forward stored */
            fetch(&pre, SPOT[s] * CELLS, CELLS, got);
            expect_near(got, F32(&spre) + (int64_t)p.centre * CELLS * C, CELLS * C, "pre", SPOT[s]);
            memcpy(F32(&spre) + (int64_t)p.centre * CELLS * C, got, (size_t)(CELLS * C) * sizeof *got);
        }
        memset(sd.data, 0, tensor_bytes(&sd));
        memcpy(F32(&sd) + (int64_t)p.centre * CELLS * C, d.data, tensor_bytes(&d));
        r.dy = &sd;
        r.dx = &sdx;
        r.dw = &dw;
        r.db = &db;
        conv3_bwd(&ref, &r);
        fetch(&dx, SPOT[s] * cells, cells, got);
        expect_near(got, F32(&sdx) + p.centre * cells * C, cells * C, "dx", SPOT[s]);
        arena_reset(&host, mark);
    }
    tensor back[2] = {arena_tensor(&host, DT_F32, DIMS(27, C, C)), arena_tensor(&host, DT_F32, DIMS(C))};
    device_copy(back[0].data, gdw.data, tensor_bytes(&back[0]), STREAM_COMPUTE);
    device_copy(back[1].data, gdb.data, tensor_bytes(&back[1]), STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    expect_near(F32(&back[0]), F32(&dw), 27 * C * C, "dw", -1);
    expect_near(F32(&back[1]), F32(&db), C, "db", -1);
}

static void test_conv(void **state) {
    (void)state;
    conv_case(false);
}
static void test_conv_up(void **state) {
    (void)state;
    conv_case(true);
}

/* `copies` samples of the same n tiles, on the GPU; and one of them. */
static void same_samples(int64_t n, int64_t copies, int side, grid *all, grid *one) {
    enum { CUBE = 6 };
    tensor coord = arena_tensor(&host, DT_I32, DIMS(n * copies, 3)),
           first = arena_tensor(&host, DT_I32, DIMS(copies + 1));
    for (int64_t t = 0; t < n * copies; t++) {
        int32_t place = (int32_t)(t % n * 5 % (CUBE * CUBE * CUBE)); /* 5: some of the places have no tile */
        I32(&coord)[3 * t] = place / (CUBE * CUBE);
        I32(&coord)[3 * t + 1] = place / CUBE % CUBE;
        I32(&coord)[3 * t + 2] = place % CUBE;
    }
    for (int64_t s = 0; s <= copies; s++) I32(&first)[s] = (int32_t)(s * n);
    tensor nb = tiles_neighbors(&host, &coord, &first), some = tensor_rows(&coord, 0, n),
           ends = tensor_rows(&first, 0, 2);
    tensor some_nb = tiles_neighbors(&host, &some, &ends);
    *all = grid_dense(&host, side, &nb, &first);
    *one = grid_dense(&host, side, &some_nb, &ends);
    all->nb = sent(&all->nb, DT_I32);
    all->first = sent(&all->first, DT_I32);
    all->sample_first = sent(&all->sample_first, DT_I32);
}

static void expect_copies(const tensor *g, const tensor *want, int64_t copies, const char *what) {
    size_t  mark = arena_mark(&host);
    int64_t rows = want->dim[0], width = want->dim[1];
    float  *got = arena_alloc(&host, (size_t)(rows * width) * sizeof *got);
    for (int64_t s = 0; s < copies; s++) {
        size_t piece = arena_mark(&host);
        fetch(g, s * rows, rows, got);
        expect_near(got, F32(want), rows * width, what, s);
        arena_reset(&host, piece);
    }
    arena_reset(&host, mark);
}

/* conv3's ways on Hopper choose their tiles by how the rows fill rounds of 132 blocks: numbers of rows for which the
 * larger ones are chosen, of 64 channels (the first) and of 128 (the second), and of the level above for both
 * directions. */
static void test_conv_rounds(void **state) {
    static const struct {
        int64_t copies;
        int     side;
        int64_t I, O;
        bool    up;
    } layer[] = {{75, 2, 64, 64, false}, {47, 2, 256, 128, false}, {75, 2, 64, 64, true}, {75, 4, 64, 64, true}};
    enum { SOME = 75 };
    (void)state;
    for (size_t i = 0; i < sizeof layer / sizeof *layer; i++) {
        begin();
        grid    all, one;
        int64_t copies = layer[i].copies, I = layer[i].I, O = layer[i].O;
        same_samples(SOME, copies, layer[i].side, &all, &one);
        int64_t rows = one.n_rows, x_rows = layer[i].up ? rows / 8 : rows;
        tensor  x = values(1, 2, DIMS(x_rows, I)), w = values(2, 0.2, DIMS(27, I, O)), b = values(3, 1, DIMS(O)),
               dy = values(4, 2, DIMS(rows, O)), y = arena_tensor(&host, DT_F32, DIMS(rows, O)),
               dx = arena_tensor(&host, DT_F32, x.dim, 2), dw = arena_tensor(&host, DT_F32, DIMS(27, I, O)),
               db = arena_tensor(&host, DT_F32, DIMS(O));
        conv3_args want = {.g = &one, .up = layer[i].up, .x = &x, .w = &w, .b = &b, .y = &y};
        conv3_args a = {.g = &all, .up = layer[i].up};
        memset(dw.data, 0, tensor_bytes(&dw));
        memset(db.data, 0, tensor_bytes(&db));
        tensor gx = repeated(&x, copies * x_rows), gw = sent(&w, DT_BF16), gb = sent(&b, DT_F32),
               gdy = repeated(&dy, copies * rows), gdw = sent(&dw, DT_F32), gdb = sent(&db, DT_F32),
               gy = arena_tensor(&gpu, DT_BF16, DIMS(copies * rows, O)),
               gdx = arena_tensor(&gpu, DT_BF16, DIMS(copies * x_rows, I));
        a.x = &gx;
        a.w = &gw;
        a.b = &gb;
        a.y = &gy;
        conv3_fwd(&ref, &want);
        conv3_fwd(&cuda, &a);
        want.dy = &dy;
        want.dx = &dx;
        want.dw = &dw;
        want.db = &db;
        a.dy = &gdy;
        a.dx = &gdx;
        a.dw = &gdw;
        a.db = &gdb;
        conv3_bwd(&ref, &want);
        conv3_bwd(&cuda, &a);
        expect_copies(&gy, &y, copies, "y");
        expect_copies(&gdx, &dx, copies, "dx");
        tensor back = arena_tensor(&host, DT_F32, DIMS(27, I, O));
        device_copy(back.data, gdw.data, tensor_bytes(&back), STREAM_COMPUTE);
        device_sync(STREAM_COMPUTE);
        for (int64_t j = 0; j < 27 * I * O; j++) F32(&dw)[j] *= (float)copies;
        expect_near(F32(&back), F32(&dw), 27 * I * O, "dw", -1);
    }
}

/* ---- over rows --------------------------------------------------------------------------------------------------- */

/* Two samples, the second one the last period: whole periods both, so their moments are those of one. */
static void test_group_norm(void **state) {
    (void)state;
    begin();
    tensor first = arena_tensor(&host, DT_I32, DIMS(3)), one = arena_tensor(&host, DT_I32, DIMS(2));
    memcpy(first.data, (int32_t[]){0, (int32_t)(ROWS - PERIOD_ROWS), (int32_t)ROWS}, 12);
    memcpy(one.data, (int32_t[]){0, (int32_t)PERIOD_ROWS}, 8);
    tensor x = values(1, 2, DIMS(PERIOD_ROWS, C)), gamma = values(2, 2, DIMS(C)), beta = values(3, 1, DIMS(C)),
           dy = values(4, 2, DIMS(PERIOD_ROWS, C));
    tensor y = arena_tensor(&host, DT_F32, x.dim, 2), dx = arena_tensor(&host, DT_F32, x.dim, 2),
           mean = arena_tensor(&host, DT_F32, DIMS(1, GROUPS)), rstd = arena_tensor(&host, DT_F32, DIMS(1, GROUPS)),
           dgamma = arena_tensor(&host, DT_F32, DIMS(C)), dbeta = arena_tensor(&host, DT_F32, DIMS(C));
    memset(dgamma.data, 0, tensor_bytes(&dgamma));
    memset(dbeta.data, 0, tensor_bytes(&dbeta));
    tensor gx = repeated(&x, ROWS), gdy = repeated(&dy, ROWS), gy = large(ROWS), gdx = large(ROWS),
           ggamma = sent(&gamma, DT_F32), gbeta = sent(&beta, DT_F32), gfirst = sent(&first, DT_I32),
           gmean = arena_tensor(&gpu, DT_F32, DIMS(2, GROUPS)), grstd = arena_tensor(&gpu, DT_F32, DIMS(2, GROUPS)),
           gdgamma = sent(&dgamma, DT_F32), gdbeta = sent(&dbeta, DT_F32);
    group_norm_args want = {.x = &x, .gamma = &gamma, .beta = &beta, .first = &one, .groups = GROUPS, .act = ACT_SILU};
    want.eps = 1e-5;
    want.y = &y;
    want.mean = &mean;
    want.rstd = &rstd;
    want.dy = &dy;
    want.dx = &dx;
    want.dgamma = &dgamma;
    want.dbeta = &dbeta;
    group_norm_fwd(&ref, &want);
    group_norm_bwd(&ref, &want);
    group_norm_args a = {.x = &gx,
                         .gamma = &ggamma,
                         .beta = &gbeta,
                         .first = &gfirst,
                         .groups = GROUPS,
                         .act = ACT_SILU,
                         .eps = 1e-5,
                         .y = &gy,
                         .mean = &gmean,
                         .rstd = &grstd,
                         .dy = &gdy,
                         .dx = &gdx,
                         .dgamma = &gdgamma,
                         .dbeta = &gdbeta};
    group_norm_fwd(&cuda, &a);
    group_norm_bwd(&cuda, &a);
    expect_periodic(&gy, &y, CELLS, "y");
    expect_periodic(&gdx, &dx, CELLS, "dx");
    float got[2 * C];
    device_copy(got, gdgamma.data, C * sizeof(float), STREAM_COMPUTE);
    device_copy(got + C, gdbeta.data, C * sizeof(float), STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    for (int i = 0; i < C; i++) {
        F32(&dgamma)[i] *= (float)(TILES / PERIOD);
        F32(&dbeta)[i] *= (float)(TILES / PERIOD);
    }
    expect_near(got, F32(&dgamma), C, "dgamma", -1);
    expect_near(got + C, F32(&dbeta), C, "dbeta", -1);
}

static void test_pool(void **state) {
    (void)state;
    begin();
    int64_t parents = ROWS / 8;
    tensor  first = arena_tensor(&host, DT_I32, DIMS(parents + 1)), one = tensor_rows(&first, 0, PERIOD_ROWS / 8 + 1);
    for (int64_t i = 0; i <= parents; i++) I32(&first)[i] = (int32_t)(8 * i);
    tensor x = values(1, 2, DIMS(PERIOD_ROWS, C)), dy = values(2, 2, DIMS(PERIOD_ROWS / 8, C)),
           y = arena_tensor(&host, DT_F32, DIMS(PERIOD_ROWS / 8, C)), dx = arena_tensor(&host, DT_F32, x.dim, 2);
    tensor gx = repeated(&x, ROWS), gdy = repeated(&dy, parents), gy = large(parents), gdx = large(ROWS),
           gfirst = sent(&first, DT_I32);
    pool_args want = {.x = &x, .first = &one, .add_one = true, .y = &y, .dy = &dy, .dx = &dx},
              a = {.x = &gx, .first = &gfirst, .add_one = true, .y = &gy, .dy = &gdy, .dx = &gdx};
    pool_fwd(&ref, &want);
    pool_bwd(&ref, &want);
    pool_fwd(&cuda, &a);
    pool_bwd(&cuda, &a);
    expect_periodic(&gy, &y, CELLS / 8, "pool: y");
    expect_periodic(&gdx, &dx, CELLS, "pool: dx");
    subdivide_args s = {.x = &gdy, .y = &gx, .dy = &gdx, .dx = &gy}, r = {.x = &dy, .y = &x, .dy = &dx, .dx = &y};
    subdivide_fwd(&ref, &r);
    subdivide_bwd(&ref, &r);
    subdivide_fwd(&cuda, &s);
    subdivide_bwd(&cuda, &s);
    expect_periodic(&gx, &x, CELLS, "subdivide: y");
    expect_periodic(&gy, &y, CELLS / 8, "subdivide: dx");
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_conv),       cmocka_unit_test(test_conv_up), cmocka_unit_test(test_conv_rounds),
        cmocka_unit_test(test_group_norm), cmocka_unit_test(test_pool),
    };
    const char *why = "";
    if (!hosted_there(&why)) {
        note_skip("%s", why);
        return test_exit(0);
    }
    return test_exit(cmocka_run_group_tests(all, set_up, tear_down));
}
