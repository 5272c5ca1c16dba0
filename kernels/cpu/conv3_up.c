/* conv3 of the level above (`up`) on dense levels of side 4 and 8. A child with parity (px,py,pz) in its parent meets
 * 2x2x2 parents: those at p - 1 and p, where p is 0 or 1 in each direction. So the children of one parity are a
 * convolution of 2x2x2 over parents, whose weights are sums of the 27: eight products a child instead of 27.
 *
 *   forward  y[child c of P] = sum over taps t of x[P + p(c) - 1 + t] W8[c][t]
 *   dx       dx[P] = sum over c and t of dpre[child c of P - (p(c) - 1 + t)] W8[c][t]^T
 *   dw       W8's gradient, x^T dpre for each c and t, added to each of the 27 that W8[c][t] is the sum of
 *
 * Tiles are those of the level above, in raster order with a border (conv3_tiles.h). A step is one pair of taps in x
 * and y and 8 input channels; an input, once loaded, serves two outputs. Weights and partial sums of dw have one
 * layout, [c][Cout/8][step][ci 8][tap in z 2][co 8], step = (ci/8) * 4 + 2 * tap in x + tap in y. */
#include <omp.h>

#include "kernels/cpu/conv3_tiles.h"

enum {
    CHILDREN = 8,
    TAPS = 8,
    STEPS = 4,              /* pairs of taps in x and y */
    STEP_FLOATS = 8 * 2 * 8 /* weights of one step and 8 outputs */
};

/* Of child c: in x, y, z. */
static inline void parity_of(int c, int p[3]) {
    morton_decode(c, &p[0], &p[1], &p[2]);
}

/* The tap of child c that offset k of the 27 belongs to. */
static int tap_of(int c, int k) {
    int p[3], d[3] = {k % 3, k / 3 % 3, k / 9}, tap = 0;
    parity_of(c, p);
    for (int i = 0; i < 3; i++) tap = 2 * tap + (p[i] ? d[i] == 2 : d[i] > 0);
    return tap;
}

/* Distance from a unit's corner (-1,-1,-1) to where the 2x2x2 cells of parity p begin: at p - 1, or, reversed, at -p.
 */
static int32_t shift_of(const level *l, int c, bool reversed) {
    int p[3], edge = l->side + 2;
    parity_of(c, p);
    for (int i = 0; reversed && i < 3; i++) p[i] = 1 - p[i];
    return (int32_t)(((p[0] * edge + p[1]) * edge + p[2]) * 8);
}

static int32_t step_at(const level *l, int64_t step) {
    int64_t edge = l->side + 2;
    return (int32_t)(step / STEPS * l->plane + (step % STEPS / 2 * edge + step % 2) * edge * 8);
}

/* ---- forward and dx ------------------------------------------------------------------------------------------- */

/* W8 for steps of Cin channels: of W (27,I,O), or, reversed, of its transpose with the taps the other way. */
static float *pack_weights(ctx *c, const float *w, int64_t I, int64_t O, bool reversed) {
    int64_t Cin = reversed ? O : I, Cout = reversed ? I : O, n_steps = (Cin + 7) / 8 * STEPS, n_outs = (Cout + 7) / 8;
    float  *out = arena_zeros(&c->scratch, (size_t)(CHILDREN * n_outs * n_steps * STEP_FLOATS) * sizeof *out);
#pragma omp parallel for schedule(static)
    for (int child = 0; child < CHILDREN; child++)
        for (int k = 0; k < 27; k++) {
            int tap = reversed ? TAPS - 1 - tap_of(child, k) : tap_of(child, k);
            for (int64_t ci = 0; ci < Cin; ci++)
                for (int64_t co = 0; co < Cout; co++) {
                    int64_t step = ci / 8 * STEPS + tap / 2;
                    float  *to = out + ((child * n_outs + co / 8) * n_steps + step) * STEP_FLOATS;
                    to[ci % 8 * 16 + tap % 2 * 8 + co % 8] +=
                        w[(k * I + (reversed ? co : ci)) * O + (reversed ? ci : co)];
                }
        }
    return out;
}

typedef struct {
    const conv3_sum *a; /* .g is the children's level */
    const float     *w;
    int64_t          n_steps, tile_floats; /* floats of a gathered tile */
    const int32_t   *at;
    level            l; /* of the parents */
} rows_job;

static inline __attribute__((always_inline)) void add_unit(const int S, const rows_job *j, const float *x, int child,
                                                           int64_t o, bool reversed, v8f total[UNIT]) {
    const float *w = j->w + (child * ((j->a->Cout + 7) / 8) + o / 8) * j->n_steps * STEP_FLOATS;
    unit_sum(S, 2, x + shift_of(&j->l, child, reversed), j->at, (int)j->n_steps, w, total);
}

/* y of the children of n tiles; their parents' x, gathered, at x. */
static inline __attribute__((always_inline)) void batch_children(const int S, const rows_job *j, int64_t tile0,
                                                                 int64_t n, const float *x) {
    const conv3_sum *a = j->a;
    for (int child = 0; child < CHILDREN; child++)
        for (int64_t o = 0; o < a->Cout; o += 8) {
            int64_t n_o = a->Cout - o < 8 ? a->Cout - o : 8;
            float   bias[8] = {0};
            memcpy(bias, a->bias + o, (size_t)n_o * sizeof *bias);
            for (int64_t t = 0; t < n; t++)
                for (int u = 0; u < S * S * S / UNIT; u++) {
                    v8f total[UNIT];
                    for (int i = 0; i < UNIT; i++) total[i] = v8_load(bias);
                    add_unit(S, j, x + t * j->tile_floats + j->l.unit_at[u], child, o, false, total);
                    put_unit(a, (tile0 + t) * S * S * S * CHILDREN + child, j->l.morton + u * UNIT, CHILDREN, o, n_o,
                             total);
                }
        }
}

/* dx of the parents of n tiles; the children's dpre, gathered child by child, at d. */
static inline __attribute__((always_inline)) void batch_parents(const int S, const rows_job *j, int64_t tile0,
                                                                int64_t n, const float *d) {
    const conv3_sum *a = j->a;
    for (int64_t o = 0; o < a->Cout; o += 8)
        for (int64_t t = 0; t < n; t++)
            for (int u = 0; u < S * S * S / UNIT; u++) {
                v8f total[UNIT];
                for (int i = 0; i < UNIT; i++) total[i] = v8_set(0);
                for (int child = 0; child < CHILDREN; child++)
                    add_unit(S, j, d + (t * CHILDREN + child) * j->tile_floats + j->l.unit_at[u], child, o, true,
                             total);
                put_unit(a, (tile0 + t) * S * S * S, j->l.morton + u * UNIT, 1, o, a->Cout - o < 8 ? a->Cout - o : 8,
                         total);
            }
}

static rows_job *rows_new(ctx *c, const conv3_sum *a, bool reversed) {
    rows_job *j = arena_alloc(&c->scratch, sizeof *j);
    *j = (rows_job){.a = a, .n_steps = (a->Cin + 7) / 8 * STEPS, .l = level_new(a->g, a->g->side / 2)};
    int32_t *at = arena_alloc(&c->scratch, (size_t)j->n_steps * sizeof *at);
    for (int64_t s = 0; s < j->n_steps; s++) at[s] = step_at(&j->l, s);
    j->at = at;
    j->tile_floats = j->n_steps / STEPS * j->l.plane;
    j->w = pack_weights(c, a->w, reversed ? a->Cout : a->Cin, reversed ? a->Cin : a->Cout, reversed);
    return j;
}

void conv3_up_rows(ctx *c, const conv3_sum *a) {
    int       n_threads = omp_get_max_threads();
    rows_job *j = rows_new(c, a, false);
    int64_t   batch = j->l.batch, n_tiles = a->g->n_tiles;
    float    *x = arena_alloc(&c->scratch, (size_t)(n_threads * batch * j->tile_floats) * sizeof *x);
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t t0 = 0; t0 < n_tiles; t0 += batch) {
        float  *mine = x + omp_get_thread_num() * batch * j->tile_floats;
        int64_t n = n_tiles - t0 < batch ? n_tiles - t0 : batch;
        for (int64_t t = 0; t < n; t++) gather(&j->l, 1, t0 + t, a->x, a->Cin, a->Cin, mine + t * j->tile_floats);
        if (j->l.side == 4)
            batch_children(4, j, t0, n, mine);
        else
            batch_children(2, j, t0, n, mine);
    }
}

void conv3_up_dx(ctx *c, const conv3_sum *a) {
    int       n_threads = omp_get_max_threads();
    rows_job *j = rows_new(c, a, true);
    int64_t   batch = j->l.batch, n_tiles = a->g->n_tiles;
    float    *d = arena_alloc(&c->scratch, (size_t)(n_threads * batch * CHILDREN * j->tile_floats) * sizeof *d);
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t t0 = 0; t0 < n_tiles; t0 += batch) {
        float  *mine = d + omp_get_thread_num() * batch * CHILDREN * j->tile_floats;
        int64_t n = n_tiles - t0 < batch ? n_tiles - t0 : batch;
        for (int64_t i = 0; i < n * CHILDREN; i++)
            gather(&j->l, 1, t0 + i / CHILDREN, a->x + i % CHILDREN * a->Cin, a->Cin, CHILDREN * a->Cin,
                   mine + i * j->tile_floats);
        if (j->l.side == 4)
            batch_parents(4, j, t0, n, mine);
        else
            batch_parents(2, j, t0, n, mine);
    }
}

/* ---- dw ------------------------------------------------------------------------------------------------------- */

typedef struct {
    const float *x, *d;                                      /* (N/8,I), (N,O) */
    int64_t      I, O, n_steps, n_outs, n_parts, part_tiles; /* n_outs: outputs / 8 */
    float       *sum;                                        /* (parts, CHILDREN, n_outs, n_steps, STEP_FLOATS) */
    level        l;
} dw_job;

/* One child's share of a batch of n tiles, gathered at x and d. */
static inline __attribute__((always_inline)) void batch_dw(const int S, const dw_job *j, int child, int64_t n,
                                                           const float *x, const float *d, float *sum) {
    int32_t   x_at[64], d_at[64];
    const int per_tile = S * S * S / UNIT;
    int       n_units = (int)n * per_tile;
    for (int u = 0; u < n_units; u++) {
        x_at[u] = (int32_t)(u / per_tile * (j->n_steps / STEPS) * j->l.plane) + j->l.unit_at[u % per_tile] +
                  shift_of(&j->l, child, false);
        d_at[u] = (int32_t)(u / per_tile * j->n_outs * S * S * S * 8) + u % per_tile * UNIT * 8;
    }
    for (int u = 0; u < n_units; u += CHAIN_UNITS) {
        int m = n_units - u < CHAIN_UNITS ? n_units - u : CHAIN_UNITS;
        for (int64_t o = 0; o < j->n_outs; o++)
            for (int64_t s = 0; s < j->n_steps; s++) {
                const float *xs = x + step_at(&j->l, s), *ds = d + o * S * S * S * 8;
                float       *to = sum + (o * j->n_steps + s) * STEP_FLOATS;
                dw_units(S, 2, xs, x_at + u, ds, d_at + u, m, to);
                dw_units(S, 2, xs + 4, x_at + u, ds, d_at + u, m, to + STEP_FLOATS / 2);
            }
    }
}

/* Children [c0, c1) of one part of the tiles. */
static void dw_part(const dw_job *j, int64_t part, int c0, int c1, float *x, float *d) {
    const level *l = &j->l;
    int64_t      x_floats = j->n_steps / STEPS * l->plane, d_floats = j->n_outs * l->cells * 8;
    int64_t      end = (part + 1) * j->part_tiles < l->g->n_tiles ? (part + 1) * j->part_tiles : l->g->n_tiles;
    int64_t      child_floats = j->n_outs * j->n_steps * STEP_FLOATS;
    float       *sum = j->sum + part * CHILDREN * child_floats;
    memset(sum + c0 * child_floats, 0, (size_t)((c1 - c0) * child_floats) * sizeof *sum);
    for (int64_t t0 = part * j->part_tiles; t0 < end; t0 += l->batch) {
        int64_t n = end - t0 < l->batch ? end - t0 : l->batch;
        for (int64_t t = 0; t < n; t++) gather(l, 1, t0 + t, j->x, j->I, j->I, x + t * x_floats);
        for (int c = c0; c < c1; c++) {
            for (int64_t t = 0; t < n; t++)
                gather(l, 0, t0 + t, j->d + c * j->O, j->O, CHILDREN * j->O, d + t * d_floats);
            if (l->side == 4)
                batch_dw(4, j, c, n, x, d, sum + c * child_floats);
            else
                batch_dw(2, j, c, n, x, d, sum + c * child_floats);
        }
    }
}

/* dw += all parts, in order; each of W8 to the offsets it is the sum of. */
static void add_parts(const dw_job *j, float *dw) {
    int64_t n = CHILDREN * j->n_outs * j->n_steps * STEP_FLOATS;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        double all = 0;
        for (int64_t p = 0; p < j->n_parts; p++) all += (double)j->sum[p * n + i];
        j->sum[i] = (float)all;
    }
#pragma omp parallel for schedule(static)
    for (int k = 0; k < 27; k++)
        for (int64_t i = 0; i < j->I; i++)
            for (int64_t o = 0; o < j->O; o++) {
                double all = 0;
                for (int c = 0; c < CHILDREN; c++) {
                    int     tap = tap_of(c, k);
                    int64_t step = i / 8 * STEPS + tap / 2;
                    all += (double)j->sum[((c * j->n_outs + o / 8) * j->n_steps + step) * STEP_FLOATS + i % 8 * 16 +
                                          tap % 2 * 8 + o % 8];
                }
                dw[(k * j->I + i) * j->O + o] += (float)all;
            }
}

void conv3_up_dw(ctx *c, const grid *g, const float *x, const float *d, int64_t I, int64_t O, float *dw) {
    int     n_threads = omp_get_max_threads();
    dw_job *j = arena_alloc(&c->scratch, sizeof *j);
    *j = (dw_job){.x = x, .d = d, .I = I, .O = O, .n_steps = (I + 7) / 8 * STEPS, .n_outs = (O + 7) / 8};
    j->l = level_new(g, g->side / 2);
    /* The parts follow from the shapes alone; the threads only share them. */
    int64_t part = CHILDREN * j->n_outs * j->n_steps * STEP_FLOATS, n_parts = DW_PART_FLOATS / part;
    if (n_parts > DW_PARTS) n_parts = DW_PARTS;
    if (n_parts > g->n_rows / DW_PART_ROWS) n_parts = g->n_rows / DW_PART_ROWS;
    if (n_parts < 1) n_parts = 1;
    if (g->n_tiles == 0) return;
    j->part_tiles = round_up((g->n_tiles + n_parts - 1) / n_parts, j->l.batch);
    j->n_parts = (g->n_tiles + j->part_tiles - 1) / j->part_tiles;
    j->sum = arena_alloc(&c->scratch, (size_t)(j->n_parts * part) * sizeof *j->sum);
    int64_t x_floats = j->l.batch * j->n_steps / STEPS * j->l.plane, d_floats = j->l.batch * j->n_outs * j->l.cells * 8;
    float  *copy = arena_alloc(&c->scratch, (size_t)(n_threads * (x_floats + d_floats)) * sizeof *copy);
    /* Few parts: eight threads share one, each with a copy of the parents. */
    int     n_c = j->n_parts < 2 * n_threads ? 1 : CHILDREN;
#pragma omp parallel for schedule(dynamic) num_threads(n_threads) collapse(2)
    for (int64_t p = 0; p < j->n_parts; p++)
        for (int child = 0; child < CHILDREN; child += n_c) {
            float *mine = copy + omp_get_thread_num() * (x_floats + d_floats);
            dw_part(j, p, child, child + n_c, mine, mine + x_floats);
        }
    add_parts(j, dw);
}
