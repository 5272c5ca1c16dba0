/* Rows of the auto-encoder's sparse ops. One sample whose tiles are a spherical shell, as objects are (bench_shell.h).
 */
#include "app/bench_rows.h"
#include "app/bench_shell.h"

#include <math.h>
#include <string.h>

/* Cells of a tile that lie within `band` voxels of the sphere, of the 8^3. */
static void mask_tile(const int32_t *tile, double radius, int edge, double band, uint64_t *mask) {
    for (int c = 0; c < 512; c++) {
        int    cell[3];
        double d = 0;
        morton_decode(c, &cell[0], &cell[1], &cell[2]);
        for (int k = 0; k < 3; k++) {
            double at = 8 * (tile[k] - edge / 2) + cell[k] - 3.5; /* the sphere is one of tiles' middles */
            d += at * at;
        }
        if (fabs(sqrt(d) - 8 * radius) < band) mask[c / 64] |= UINT64_C(1) << c % 64;
    }
    if (!(mask[0] | mask[1] | mask[2] | mask[3] | mask[4] | mask[5] | mask[6] | mask[7])) mask[0] = 1;
}

/* s: tiles, cells per tile edge, channels in, channels out, 1: only cells near the surface (the encoder's levels), 1:
 * of the level above, 1: with SiLU behind */
static void conv3(bench_case *b, const int *s, bool bwd) {
    double  radius;
    int     edge;
    tensor  first, coord = bench_tokens(b, s[0], 8, &first, &radius, &edge);
    grid   *g = arena_alloc(&b->memory, sizeof *g);
    tensor *nb = arena_alloc(&b->memory, sizeof *nb);
    *nb = tiles_neighbors(&b->memory, &coord, &first);
    if (s[4]) {
        tensor mask = arena_tensor(&b->memory, DT_U64, DIMS(s[0], 8)), pool_first[3];
        grid   level[4];
        memset(mask.data, 0, tensor_bytes(&mask));
        for (int64_t t = 0; t < s[0]; t++) mask_tile(I32(&coord) + 3 * t, radius, edge, 4, U64(&mask) + 8 * t);
        grid_pyramid(&b->memory, &mask, nb, &first, level, pool_first);
        *g = level[s[1] == 8 ? 0 : s[1] == 4 ? 1 : s[1] == 2 ? 2 : 3];
    } else {
        *g = grid_dense(&b->memory, s[1], nb, &first);
    }
    int64_t     n = g->n_rows, n_x = s[5] ? n / 8 : n;
    conv3_args *a = &b->args.conv3;
    *a = (conv3_args){.g = g,
                      .x = bench_in(b, DIMS(n_x, s[2])),
                      .w = bench_in(b, DIMS(27, s[2], s[3])),
                      .b = bench_in(b, DIMS(s[3])),
                      .up = s[5],
                      .act = s[6] ? ACT_SILU : ACT_NONE};
    /* A child has eight parents where it has 27 neighbours. */
    b->flops = (bwd ? 4 : 2) * level_pairs(g) * s[2] * s[3] * (s[5] ? 8.0 / 27 : 1);
    if (!bwd) {
        a->y = bench_out(b, DT_F32, DIMS(n, s[3]));
        if (s[6]) a->pre = bench_out(b, DT_F32, DIMS(n, s[3]));
        return;
    }
    if (s[6]) a->pre = bench_in(b, DIMS(n, s[3]));
    a->dy = bench_in(b, DIMS(n, s[3]));
    a->dx = bench_out(b, DT_F32, DIMS(n_x, s[2]));
    a->dw = bench_out(b, DT_F32, DIMS(27, s[2], s[3]));
    a->db = bench_out(b, DT_F32, DIMS(s[3]));
}
static void conv3_f(bench_case *b, const int *s) {
    conv3(b, s, false);
}
static void conv3_b(bench_case *b, const int *s) {
    conv3(b, s, true);
}

#define CONV_TEXT "tiles side I O masked up silu"

/* s: parents, members of each, channels */
static void pool(bench_case *b, const int *s, bool bwd) {
    pool_args *a = &b->args.pool;
    int64_t    n = (int64_t)s[0] * s[1];
    *a = (pool_args){.x = bench_in(b, DIMS(n, s[2])), .first = bench_first(b, n, s[0]), .add_one = true};
    if (!bwd) {
        a->y = bench_out(b, DT_F32, DIMS(s[0], s[2]));
    } else {
        a->dy = bench_in(b, DIMS(s[0], s[2]));
        a->dx = bench_out(b, DT_F32, DIMS(n, s[2]));
    }
}
static void pool_f(bench_case *b, const int *s) {
    pool(b, s, false);
}
static void pool_b(bench_case *b, const int *s) {
    pool(b, s, true);
}

static void subdivide_f(bench_case *b, const int *s) {
    b->args.subdivide =
        (subdivide_args){.x = bench_in(b, DIMS(s[0], s[1])), .y = bench_out(b, DT_F32, DIMS(8 * s[0], s[1]))};
}
static void subdivide_b(bench_case *b, const int *s) {
    b->args.subdivide =
        (subdivide_args){.dy = bench_in(b, DIMS(8 * s[0], s[1])), .dx = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
}

/* s: parents, members of each, channels, groups; one sample */
static void lift(bench_case *b, const int *s, bool bwd) {
    int64_t         n = (int64_t)s[0] * s[1];
    lift_pool_args *a = &b->args.lift;
    *a = (lift_pool_args){.v = bench_in(b, DIMS(n, 1)),
                          .w = bench_in(b, DIMS(s[2], 1)),
                          .b = bench_in(b, DIMS(s[2])),
                          .gamma = bench_in(b, DIMS(s[2])),
                          .beta = bench_in(b, DIMS(s[2])),
                          .first = bench_first(b, n, 1),
                          .pool_first = bench_first(b, n, s[0]),
                          .pool_sample = bench_first(b, s[0], 1),
                          .groups = s[3],
                          .eps = 1e-5,
                          .add_one = true,
                          .y = bench_out(b, DT_F32, DIMS(s[0], s[2])),
                          .skip = bench_out(b, DT_F32, DIMS(s[0], s[2])),
                          .moments = bench_out(b, DT_F64, DIMS(1, 2))};
    if (!bwd) return;
    lift_pool_fwd(b->prepare, a);
    b->n_out = 0;
    a->dy = bench_in(b, DIMS(s[0], s[2]));
    a->dskip = bench_in(b, DIMS(s[0], s[2]));
    a->dw = bench_out(b, DT_F32, DIMS(s[2], 1));
    a->db = bench_out(b, DT_F32, DIMS(s[2]));
    a->dgamma = bench_out(b, DT_F32, DIMS(s[2]));
    a->dbeta = bench_out(b, DT_F32, DIMS(s[2]));
}
static void lift_f(bench_case *b, const int *s) {
    lift(b, s, false);
}
static void lift_b(bench_case *b, const int *s) {
    lift(b, s, true);
}

#define LIFT_TEXT "P members C groups"

const bench_row bench_rows_sparse[] = {
    BENCH_ROW(conv3_fwd, conv3_f, CONV_TEXT, BENCH_AT(300, 4, 32, 32, 0, 0, 0)),
    BENCH_ROW(conv3_fwd, conv3_f, CONV_TEXT, BENCH_AT(1700, 1, 64, 64, 0, 0, 0)),
    BENCH_ROW(conv3_fwd, conv3_f, CONV_TEXT, BENCH_AT(300, 4, 32, 32, 1, 0, 0)),
    BENCH_ROW(conv3_bwd, conv3_b, CONV_TEXT, BENCH_AT(300, 4, 32, 32, 0, 0, 0)),
    BENCH_ROW(conv3_fwd, conv3_f, CONV_TEXT, BENCH_AT(300, 4, 32, 32, 0, 1, 1)),
    BENCH_ROW(conv3_bwd, conv3_b, CONV_TEXT, BENCH_AT(300, 4, 32, 32, 0, 1, 1)),
    BENCH_ROW(pool_fwd, pool_f, "P members C", BENCH_AT(4096, 8, 64)),
    BENCH_ROW(pool_bwd, pool_b, "P members C", BENCH_AT(4096, 8, 64)),
    BENCH_ROW(subdivide_fwd, subdivide_f, "N C", BENCH_AT(4096, 64)),
    BENCH_ROW(subdivide_bwd, subdivide_b, "N C", BENCH_AT(4096, 64)),
    BENCH_ROW(lift_pool_fwd, lift_f, LIFT_TEXT, BENCH_AT(4096, 7, 32, 32)),
    BENCH_ROW(lift_pool_bwd, lift_b, LIFT_TEXT, BENCH_AT(4096, 7, 32, 32)),
    {0},
};

/* A convolution forward and backward. */
#define CONV_LAYER(check, ...)                                                                                         \
    BENCH_GPU_ROW(conv3_fwd, conv3_f, CONV_TEXT, BENCH_AT(45904, __VA_ARGS__), BENCH_AT(check, __VA_ARGS__)),          \
        BENCH_GPU_ROW(conv3_bwd, conv3_b, CONV_TEXT, BENCH_AT(45904, __VA_ARGS__), BENCH_AT(check, __VA_ARGS__))

/* Those of the auto-encoder in the order of its forward pass, at R = 1024. */
const bench_row bench_gpu_conv[] = {
    CONV_LAYER(40, 4, 32, 64, 1, 0, 0),
    CONV_LAYER(40, 4, 64, 64, 1, 0, 0),
    CONV_LAYER(100, 2, 64, 128, 1, 0, 0),
    CONV_LAYER(100, 2, 128, 128, 1, 0, 0),
    CONV_LAYER(130, 1, 128, 512, 1, 0, 0),
    CONV_LAYER(130, 1, 512, 512, 1, 0, 0),
    CONV_LAYER(300, 1, 512, 128, 0, 0, 1),
    CONV_LAYER(100, 2, 128, 128, 0, 1, 1),
    CONV_LAYER(100, 2, 128, 64, 0, 0, 1),
    CONV_LAYER(40, 4, 64, 64, 0, 1, 1),
    CONV_LAYER(40, 4, 64, 32, 0, 0, 1),
    CONV_LAYER(12, 8, 32, 32, 0, 1, 1),
    {0},
};

const bench_row bench_gpu_sparse[] = {
    BENCH_GPU_ROW(lift_pool_fwd, lift_f, LIFT_TEXT, BENCH_AT(1663256, 7, 32, 32), BENCH_AT(4096, 7, 32, 32)),
    BENCH_GPU_ROW(lift_pool_bwd, lift_b, LIFT_TEXT, BENCH_AT(1663256, 7, 32, 32), BENCH_AT(4096, 7, 32, 32)),
    BENCH_GPU_ROW(pool_fwd, pool_f, "P members C", BENCH_AT(1000000, 8, 32), BENCH_AT(4096, 8, 32)),
    BENCH_GPU_ROW(pool_bwd, pool_b, "P members C", BENCH_AT(1000000, 8, 32), BENCH_AT(4096, 8, 32)),
    BENCH_GPU_ROW(pool_fwd, pool_f, "P members C", BENCH_AT(1000, 45, 64), BENCH_AT(100, 45, 64)),
    BENCH_GPU_ROW(pool_bwd, pool_b, "P members C", BENCH_AT(1000, 45, 64), BENCH_AT(100, 45, 64)),
    BENCH_GPU_ROW(subdivide_fwd, subdivide_f, "N C", BENCH_AT(2937856, 32), BENCH_AT(4096, 32)),
    BENCH_GPU_ROW(subdivide_bwd, subdivide_b, "N C", BENCH_AT(2937856, 32), BENCH_AT(4096, 32)),
    {0},
};
