/* Submanifold convolution on dense levels of side 2, 4 and 8, on tiles in raster order (conv3_tiles.h). A step is one
 * pair (dx,dy) and 8 input channels. Inside it an input, once loaded, serves the three outputs at dz = -1, 0, 1: 24
 * multiply-adds with 10 to 16 loads of x and 3 of w.
 *
 * Weights and partial sums of dw have one layout, [Cout/8][step][ci 8][dz 3][co 8], step = (ci/8) * 9 + 3 (dx+1) +
 * dy+1. */
#include <omp.h>
#include <string.h>

#include "kernels/cpu/conv3_tiles.h"

enum { STEP_FLOATS = 8 * 3 * 8 /* weights of one step and 8 outputs */ };

/* Offset k of a step's (dx,dy) at dz. */
static inline int step_offset(int64_t step, int dz) {
    int g = (int)(step % 9);
    return g / 3 + 3 * (g % 3) + 9 * dz;
}

/* Distance of a step's cell (dx,dy,-1) from the corner (-1,-1,-1) of a tile with n planes. */
static int32_t step_at(const level *l, int64_t step) {
    int64_t edge = l->side + 2;
    return (int32_t)(step / 9 * l->plane + (step % 9 / 3 * edge + step % 3) * edge * 8);
}

/* ---- forward and dx ------------------------------------------------------------------------------------------- */

typedef struct {
    const conv3_sum *a;
    const float     *w; /* packed */
    int64_t          n_steps;
    const int32_t   *at; /* (n_steps) */
    level            l;
} rows_job;

static float *pack_weights(ctx *c, const conv3_sum *a, int64_t n_steps) {
    int64_t n = (a->Cout + 7) / 8 * n_steps;
    float  *out = arena_zeros(&c->scratch, (size_t)(n * STEP_FLOATS) * sizeof *out);
#pragma omp parallel for schedule(static)
    for (int64_t s = 0; s < n; s++) {
        int64_t i0 = s % n_steps / 9 * 8, o0 = s / n_steps * 8, i_step = a->ci_step, o_step = a->co_step;
        int64_t n_i = a->Cin - i0 < 8 ? a->Cin - i0 : 8, n_o = a->Cout - o0 < 8 ? a->Cout - o0 : 8;
        for (int dz = 0; dz < 3; dz++) {
            const float *w = a->w + step_offset(s % n_steps, dz) * a->k_step + i0 * i_step + o0 * o_step;
            float       *to = out + s * STEP_FLOATS + dz * 8;
            for (int64_t i = 0; i < n_i; i++, to += 24, w += i_step)
                for (int64_t o = 0; o < n_o; o++) to[o] = w[o * o_step];
        }
    }
    return out;
}

/* The tiles tile0 .. of one batch, gathered at x: eight outputs at a time, so that their weights stay in the cache. */
static inline __attribute__((always_inline)) void batch_rows(const int S, const rows_job *j, int64_t tile0, int64_t n,
                                                             const float *x) {
    const conv3_sum *a = j->a;
    int64_t          tile_floats = j->n_steps / 9 * j->l.plane;
    for (int64_t o = 0; o < a->Cout; o += 8) {
        int64_t      n_o = a->Cout - o < 8 ? a->Cout - o : 8;
        const float *w = j->w + o / 8 * j->n_steps * STEP_FLOATS;
        float        bias[8] = {0};
        if (a->bias) memcpy(bias, a->bias + o, (size_t)n_o * sizeof *bias);
        for (int64_t t = 0; t < n; t++)
            for (int u = 0; u < S * S * S / UNIT; u++) {
                v8f total[UNIT];
                for (int i = 0; i < UNIT; i++) total[i] = v8_load(bias);
                unit_sum(S, 3, x + t * tile_floats + j->l.unit_at[u], j->at, (int)j->n_steps, w, total);
                put_unit(a, (tile0 + t) * S * S * S, j->l.morton + u * UNIT, 1, o, n_o, total);
            }
    }
}

void conv3_dense_rows(ctx *c, const conv3_sum *a) {
    int64_t   n_steps = (a->Cin + 7) / 8 * 9, n_tiles = a->g->n_tiles;
    int       n_threads = omp_get_max_threads();
    rows_job *j = arena_alloc(&c->scratch, sizeof *j);
    int32_t  *at = arena_alloc(&c->scratch, (size_t)n_steps * sizeof *at);
    j->l = level_new(a->g, a->g->side);
    for (int64_t s = 0; s < n_steps; s++) at[s] = step_at(&j->l, s);
    j->a = a;
    j->w = pack_weights(c, a, n_steps);
    j->n_steps = n_steps;
    j->at = at;
    int64_t batch = j->l.batch, tile_floats = n_steps / 9 * j->l.plane;
    float  *x = arena_alloc(&c->scratch, (size_t)(n_threads * batch * tile_floats) * sizeof *x);
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t t0 = 0; t0 < n_tiles; t0 += batch) {
        float  *mine = x + omp_get_thread_num() * batch * tile_floats;
        int64_t n = n_tiles - t0 < batch ? n_tiles - t0 : batch;
        for (int64_t t = 0; t < n; t++) gather(&j->l, 1, t0 + t, a->x, a->Cin, a->Cin, mine + t * tile_floats);
        if (a->g->side == 8)
            batch_rows(8, j, t0, n, mine);
        else if (a->g->side == 4)
            batch_rows(4, j, t0, n, mine);
        else
            batch_rows(2, j, t0, n, mine);
    }
}

/* ---- dw ------------------------------------------------------------------------------------------------------- */

typedef struct {
    const float *x, *d;                                      /* (N,I), (N,O) */
    int64_t      I, O, n_steps, n_outs, n_parts, part_tiles; /* n_outs: outputs / 8 */
    float       *sum;                                        /* (parts, n_outs, n_steps, STEP_FLOATS) */
    level        l;
} dw_job;

/* Steps with dx in [dx0, dx1) (counted from 0) over one batch of n tiles, gathered at x and d. */
static inline __attribute__((always_inline)) void batch_dw(const int S, const dw_job *j, int dx0, int dx1, int64_t n,
                                                           const float *x, const float *d, float *sum) {
    int32_t   x_at[64], d_at[64];
    const int per_tile = S * S * S / UNIT;
    int       n_units = (int)n * per_tile;
    for (int u = 0; u < n_units; u++) {
        x_at[u] = (int32_t)(u / per_tile * (j->n_steps / 9) * j->l.plane) + j->l.unit_at[u % per_tile];
        d_at[u] = (int32_t)(u / per_tile * j->n_outs * S * S * S * 8) + u % per_tile * UNIT * 8;
    }
    for (int u = 0; u < n_units; u += CHAIN_UNITS) {
        int m = n_units - u < CHAIN_UNITS ? n_units - u : CHAIN_UNITS;
        for (int64_t o = 0; o < j->n_outs; o++)
            for (int64_t i = 0; i < j->n_steps; i += 9)
                for (int64_t s = i + 3 * dx0; s < i + 3 * dx1; s++) {
                    const float *xs = x + step_at(&j->l, s), *ds = d + o * S * S * S * 8;
                    float       *to = sum + (o * j->n_steps + s) * STEP_FLOATS;
                    dw_units(S, 3, xs, x_at + u, ds, d_at + u, m, to);
                    dw_units(S, 3, xs + 4, x_at + u, ds, d_at + u, m, to + STEP_FLOATS / 2);
                }
    }
}

static void dw_part(const dw_job *j, int64_t part, int dx0, int dx1, float *x, float *d) {
    const level *l = &j->l;
    int64_t      x_floats = j->n_steps / 9 * l->plane, d_floats = j->n_outs * l->cells * 8;
    int64_t      end = (part + 1) * j->part_tiles < l->g->n_tiles ? (part + 1) * j->part_tiles : l->g->n_tiles;
    float       *sum = j->sum + part * j->n_outs * j->n_steps * STEP_FLOATS;
    for (int64_t i = 0; i < j->n_outs * j->n_steps; i += 9)
        memset(sum + (i + 3 * dx0) * STEP_FLOATS, 0, (size_t)(3 * (dx1 - dx0) * STEP_FLOATS) * sizeof *sum);
    for (int64_t t0 = part * j->part_tiles; t0 < end; t0 += l->batch) {
        int64_t n = end - t0 < l->batch ? end - t0 : l->batch;
        for (int64_t t = 0; t < n; t++) {
            gather(l, 1, t0 + t, j->x, j->I, j->I, x + t * x_floats);
            gather(l, 0, t0 + t, j->d, j->O, j->O, d + t * d_floats);
        }
        if (l->side == 8)
            batch_dw(8, j, dx0, dx1, n, x, d, sum);
        else if (l->side == 4)
            batch_dw(4, j, dx0, dx1, n, x, d, sum);
        else
            batch_dw(2, j, dx0, dx1, n, x, d, sum);
    }
}

/* dw += all parts, in order. */
static void add_parts(const dw_job *j, float *dw) {
    int64_t n = j->n_outs * j->n_steps;
#pragma omp parallel for schedule(static)
    for (int64_t s = 0; s < n; s++) {
        double all[STEP_FLOATS] = {0};
        for (int64_t p = 0; p < j->n_parts; p++)
            for (int i = 0; i < STEP_FLOATS; i++) all[i] += (double)j->sum[(p * n + s) * STEP_FLOATS + i];
        int64_t i0 = s % j->n_steps / 9 * 8, o0 = s / j->n_steps * 8;
        for (int t = 0; t < STEP_FLOATS; t++) {
            int64_t i = i0 + t / 24, o = o0 + t % 8, k = step_offset(s % j->n_steps, t / 8 % 3);
            if (i < j->I && o < j->O) dw[(k * j->I + i) * j->O + o] += (float)all[t];
        }
    }
}

void conv3_dense_dw(ctx *c, const grid *g, const float *x, const float *d, int64_t I, int64_t O, float *dw) {
    int     n_threads = omp_get_max_threads();
    dw_job *j = arena_alloc(&c->scratch, sizeof *j);
    *j = (dw_job){.x = x, .d = d, .I = I, .O = O, .n_steps = (I + 7) / 8 * 9, .n_outs = (O + 7) / 8};
    j->l = level_new(g, g->side);
    /* The parts follow from the shapes alone; the threads only share them. */
    int64_t part = j->n_outs * j->n_steps * STEP_FLOATS, n_parts = DW_PART_FLOATS / part;
    if (n_parts > DW_PARTS) n_parts = DW_PARTS;
    if (n_parts > g->n_rows / DW_PART_ROWS) n_parts = g->n_rows / DW_PART_ROWS;
    if (n_parts < 1) n_parts = 1;
    j->part_tiles = round_up((g->n_tiles + n_parts - 1) / n_parts, j->l.batch);
    j->n_parts = j->part_tiles ? (g->n_tiles + j->part_tiles - 1) / j->part_tiles : 0;
    j->sum = arena_alloc(&c->scratch, (size_t)(j->n_parts * part) * sizeof *j->sum);
    int64_t x_floats = j->l.batch * j->n_steps / 9 * j->l.plane, d_floats = j->l.batch * j->n_outs * j->l.cells * 8;
    float  *copy = arena_alloc(&c->scratch, (size_t)(n_threads * (x_floats + d_floats)) * sizeof *copy);
    /* Few parts: three threads share one, each with a copy of the tiles. */
    int     n_dx = j->n_parts < 2 * n_threads ? 1 : 3;
#pragma omp parallel for schedule(dynamic) num_threads(n_threads) collapse(2)
    for (int64_t p = 0; p < j->n_parts; p++)
        for (int dx = 0; dx < 3; dx += n_dx) {
            float *mine = copy + omp_get_thread_num() * (x_floats + d_floats);
            dw_part(j, p, dx, dx + n_dx, mine, mine + x_floats);
        }
    add_parts(j, dw);
}
