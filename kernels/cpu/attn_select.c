/* Attention over selected blocks. Keys and values are packed once a call: keys transposed block by block, (W, block
 * length rounded up to 8), so that every product reads contiguous memory.
 *   forward, dq   one query and key head at a time: its group's heads are the rows of a tile, its blocks the keys
 *   dk, dv        one block at a time over the list of queries that selected it (a counting sort), so nothing is added
 *                 by two threads and the order of additions is that of the queries. */
#include <omp.h>

#include "kernels/backend.h"
#include "kernels/cpu/attn_tile.h"

typedef struct {
    const attn_select_args *a;
    int64_t                 N, H, G, D, W, K, hs, n_blocks, columns;
    const int32_t          *block, *first;
    int64_t                *column;  /* (n_blocks) first packed column of each block */
    float                  *k, *v;   /* (G,N,W) */
    float                  *kt, *vt; /* (G, W * columns): block m is (W, len) at W * column[m] */
    attn_stats              stats;
    attn_tile              *tile; /* one per thread */
} select_job;

static int64_t block_wide(const select_job *j, int64_t m) {
    return round_up(j->first[m + 1] - j->first[m], 8);
}

static select_job new_job(ctx *c, const attn_select_args *a, bool bwd) {
    select_job j = {.a = a,
                    .N = a->q->dim[0],
                    .H = a->q->dim[1],
                    .D = a->q->dim[2],
                    .G = a->k->dim[1],
                    .K = a->block->dim[2],
                    .n_blocks = a->first->dim[0] - 1,
                    .block = I32(a->block),
                    .first = I32(a->first)};
    int        n_threads = omp_get_max_threads();
    j.hs = j.H / j.G;
    j.W = round_up(j.D, 8);
    j.tile = arena_alloc(&c->scratch, (size_t)n_threads * sizeof *j.tile);
    for (int t = 0; t < n_threads; t++) j.tile[t] = attn_tile_new(&c->scratch, j.D, a->scale);
    j.column = arena_alloc(&c->scratch, (size_t)j.n_blocks * sizeof *j.column);
    for (int64_t m = 0; m < j.n_blocks; m++) {
        j.column[m] = j.columns;
        j.columns += block_wide(&j, m);
    }
    j.v = arena_alloc(&c->scratch, (size_t)(j.G * j.N * j.W) * sizeof(float));
    j.k = arena_alloc(&c->scratch, (size_t)(j.G * j.N * j.W) * sizeof(float));
    j.kt = arena_alloc(&c->scratch, (size_t)(j.G * j.W * j.columns) * sizeof(float));
    if (bwd) j.vt = arena_alloc(&c->scratch, (size_t)(j.G * j.W * j.columns) * sizeof(float));
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t g = 0; g < j.G; g++)
        for (int64_t m = 0; m < j.n_blocks; m++) {
            int64_t row0 = j.first[m], n = j.first[m + 1] - row0, at = j.W * (g * j.columns + j.column[m]);
            float  *k = j.k + (g * j.N + row0) * j.W, *v = j.v + (g * j.N + row0) * j.W;
            for (int64_t i = 0; i < n; i++) {
                attn_row_in(j.tile, k + i * j.W, F32(a->k) + ((row0 + i) * j.G + g) * j.D);
                attn_row_in(j.tile, v + i * j.W, F32(a->v) + ((row0 + i) * j.G + g) * j.D);
            }
            attn_transpose(j.tile, j.kt + at, block_wide(&j, m), k, n);
            if (bwd) attn_transpose(j.tile, j.vt + at, block_wide(&j, m), v, n);
        }
    return j;
}

/* A piece of at most TILE_KEYS keys of a block in group g. */
typedef struct {
    const float *k, *v, *kt, *vt;
    int64_t      ld, row0, n;
} key_piece;

static key_piece piece_of(const select_job *j, int64_t g, int64_t m, int64_t k0) {
    int64_t len = j->first[m + 1] - j->first[m], row = g * j->N + j->first[m] + k0;
    int64_t at = j->W * (g * j->columns + j->column[m]) + k0;
    return (key_piece){.k = j->k + row * j->W,
                       .v = j->v + row * j->W,
                       .kt = j->kt + at,
                       .vt = j->vt ? j->vt + at : NULL,
                       .ld = block_wide(j, m),
                       .row0 = j->first[m] + k0,
                       .n = len - k0 < TILE_KEYS ? len - k0 : TILE_KEYS};
}

static void load_row(const select_job *j, attn_tile *t, int64_t r, int64_t n, int64_t h, bool bwd) {
    int64_t at = n * j->H + h;
    attn_row_in(t, t->q + r * t->W, F32(j->a->q) + at * j->D);
    if (!bwd) return;
    attn_row_in(t, t->dout + r * t->W, F32(j->a->dout) + at * j->D);
    attn_stats_in(t, r, &j->stats, at);
}

/* Query n, heads [h0, h0 + rows) of group g: out and lse, or dq. */
static void query_item(const select_job *j, attn_tile *t, int64_t n, int64_t g, int64_t h0, int64_t rows, bool bwd) {
    const int32_t *block = j->block + (g * j->N + n) * j->K;
    for (int64_t r = 0; r < rows; r++) load_row(j, t, r, n, h0 + r, bwd);
    attn_fwd_begin(t, rows);
    for (int64_t s = 0; s < j->K; s++)
        for (int64_t k0 = 0; block[s] >= 0 && k0 < j->first[block[s] + 1] - j->first[block[s]]; k0 += TILE_KEYS) {
            key_piece p = piece_of(j, g, block[s], k0);
            if (bwd) {
                attn_bwd_scores(t, rows, p.kt, p.vt, p.ld, p.n);
                attn_bwd_rows(t, rows, p.k, t->W, p.n);
            } else {
                attn_fwd_step(t, rows, p.kt, p.ld, p.v, t->W, p.n);
            }
        }
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = n * j->H + h0 + r;
        float  *dq = bwd ? F32(j->a->dq) + at * j->D : NULL;
        if (bwd)
            for (int64_t d = 0; d < j->D; d++) dq[d] = (j->a->dq_add ? dq[d] : 0) + t->sum[r * t->W + d];
        else
            attn_fwd_end(t, r, F32(j->a->out) + at * j->D, F32(j->a->lse) + at);
    }
}

static void all_queries(const select_job *j, bool bwd) {
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t i = 0; i < j->N * j->G; i++) {
        attn_tile *t = &j->tile[omp_get_thread_num()];
        int64_t    n = i / j->G, g = i % j->G;
        for (int64_t h = 0; h < j->hs; h += TILE_ROWS)
            query_item(j, t, n, g, g * j->hs + h, j->hs - h < TILE_ROWS ? j->hs - h : TILE_ROWS, bwd);
    }
}

/* Queries that selected block m in group g: list[start[g * n_blocks + m] ..], ascending. */
static void invert(ctx *c, const select_job *j, int64_t **start_out, int32_t **list_out) {
    int64_t  n_lists = j->G * j->n_blocks, per_group = j->N * j->K;
    int64_t *start = arena_zeros(&c->scratch, (size_t)(n_lists + 2) * sizeof *start);
    /* Counts two places ahead: filling then moves start[i + 1] from the start of list i to its end. */
    for (int64_t i = 0; i < j->G * per_group; i++)
        if (j->block[i] >= 0) start[i / per_group * j->n_blocks + j->block[i] + 2]++;
    for (int64_t i = 0; i <= n_lists; i++) start[i + 1] += start[i];
    int32_t *list = arena_alloc(&c->scratch, (size_t)start[n_lists + 1] * sizeof *list);
    for (int64_t i = 0; i < j->G * per_group; i++)
        if (j->block[i] >= 0)
            list[start[i / per_group * j->n_blocks + j->block[i] + 1]++] = (int32_t)(i % per_group / j->K);
    *start_out = start;
    *list_out = list;
}

/* dk, dv of one piece of a block from all rows (query of the list, head of the group). */
static void key_item(const select_job *j, attn_tile *t, int64_t g, const key_piece *p, const int32_t *list,
                     int64_t n_list) {
    memset(t->dk, 0, (size_t)(p->n * t->W) * sizeof(float));
    memset(t->dv, 0, (size_t)(p->n * t->W) * sizeof(float));
    for (int64_t r0 = 0; r0 < n_list * j->hs; r0 += TILE_ROWS) {
        int64_t rows = n_list * j->hs - r0 < TILE_ROWS ? n_list * j->hs - r0 : TILE_ROWS;
        for (int64_t r = 0; r < rows; r++)
            load_row(j, t, r, list[(r0 + r) / j->hs], g * j->hs + (r0 + r) % j->hs, true);
        attn_bwd_scores(t, rows, p->kt, p->vt, p->ld, p->n);
        attn_bwd_keys(t, rows, p->n);
    }
    for (int64_t i = 0; i < p->n; i++) {
        int64_t at = ((p->row0 + i) * j->G + g) * j->D;
        memcpy(F32(j->a->dk) + at, t->dk + i * t->W, (size_t)j->D * sizeof(float));
        memcpy(F32(j->a->dv) + at, t->dv + i * t->W, (size_t)j->D * sizeof(float));
    }
}

void attn_select_fwd_cpu(ctx *c, const attn_select_args *a) {
    select_job j = new_job(c, a, false);
    all_queries(&j, false);
}

void attn_select_bwd_cpu(ctx *c, const attn_select_args *a) {
    select_job j = new_job(c, a, true);
    int64_t   *start;
    int32_t   *list;
    j.stats = attn_stats_of(&c->scratch, a->stat, a->lse, a->out, a->dout);
    all_queries(&j, true);
    invert(c, &j, &start, &list);
#pragma omp parallel for schedule(dynamic) collapse(2)
    for (int64_t g = 0; g < j.G; g++)
        for (int64_t m = 0; m < j.n_blocks; m++) {
            int64_t at = g * j.n_blocks + m;
            for (int64_t k0 = 0; k0 < j.first[m + 1] - j.first[m]; k0 += TILE_KEYS) {
                key_piece p = piece_of(&j, g, m, k0);
                key_item(&j, &j.tile[omp_get_thread_num()], g, &p, list + start[at], start[at + 1] - start[at]);
            }
        }
}
