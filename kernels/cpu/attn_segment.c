/* Attention inside segments, tile by tile (attn_tile.h). Work is cut into items that write disjoint rows:
 *   forward   (segment, key head, tile of rows)
 *   backward  small segments: (segment, key head) whole, 5 products a tile pair; large ones: a tile of rows for dq and
 * a tile of keys for dk, dv, 7 products, but as many items as there are tiles. The cut depends on shapes only, so
 * results do not depend on the number of threads. */
#include <omp.h>

#include "kernels/backend.h"
#include "kernels/cpu/attn_tile.h"

/* Pairs of rows and keys above which a segment's backward is shared out: about 4 ms on a core at D = 32. */
static const int64_t WHOLE_PAIRS = 1 << 20;

typedef struct {
    const attn_segment_args *a;
    int64_t                  N, H, M, G, D, S, hs; /* hs: heads of a key head */
    int64_t                  qs, ks, vs;
    const int32_t           *q_first, *k_first, *q_order, *k_order;
    attn_stats               stats;
} segment_job;

typedef enum { ITEM_ROWS = 1, ITEM_KEYS = 2, ITEM_BOTH = 3 } item_kind;

typedef struct {
    int32_t   segment, g, tile;
    item_kind kind;
} segment_item;

static segment_job new_job(const attn_segment_args *a) {
    segment_job j = {.a = a,
                     .N = a->q->dim[0],
                     .H = a->q->dim[1],
                     .D = a->q->dim[2],
                     .M = a->k->dim[0],
                     .G = a->k->dim[1],
                     .S = a->q_first->dim[0] - 1,
                     .q_first = I32(a->q_first),
                     .k_first = I32(a->k_first),
                     .q_order = tensor_given(a->q_order) ? I32(a->q_order) : NULL,
                     .k_order = tensor_given(a->k_order) ? I32(a->k_order) : NULL};
    j.hs = j.H / j.G;
    j.qs = a->q_stride ? a->q_stride : j.H * j.D;
    j.ks = a->k_stride ? a->k_stride : j.G * j.D;
    j.vs = a->v_stride ? a->v_stride : j.G * j.D;
    return j;
}

static int64_t n_rows_of(const segment_job *j, int64_t s) {
    return (j->q_first[s + 1] - j->q_first[s]) * j->hs;
}
static int64_t n_keys_of(const segment_job *j, int64_t s) {
    return j->k_first[s + 1] - j->k_first[s];
}
static int64_t n_tiles(int64_t n, int64_t size) {
    return (n + size - 1) / size;
}

/* Row r of segment s in group g: the query row and the head. */
static inline void row_at(const segment_job *j, int64_t s, int64_t g, int64_t r, int64_t *n, int64_t *h) {
    int64_t at = j->q_first[s] + r / j->hs;
    *n = j->q_order ? j->q_order[at] : at;
    *h = g * j->hs + r % j->hs;
}

static inline int64_t key_at(const segment_job *j, int64_t s, int64_t i) {
    int64_t at = j->k_first[s] + i;
    return j->k_order ? j->k_order[at] : at;
}

static void load_keys(const segment_job *j, attn_tile *t, int64_t s, int64_t g, int64_t k0, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        int64_t row = key_at(j, s, k0 + i);
        attn_row_in(t, t->k + i * t->W, F32(j->a->k) + row * j->ks + g * j->D);
        attn_row_in(t, t->v + i * t->W, F32(j->a->v) + row * j->vs + g * j->D);
    }
    attn_transpose(t, t->kt, TILE_KEYS, t->k, n);
}

static void load_rows(const segment_job *j, attn_tile *t, int64_t s, int64_t g, int64_t r0, int64_t rows, bool bwd) {
    for (int64_t r = 0; r < rows; r++) {
        int64_t n, h;
        row_at(j, s, g, r0 + r, &n, &h);
        attn_row_in(t, t->q + r * t->W, F32(j->a->q) + n * j->qs + h * j->D);
        if (!bwd) continue;
        attn_row_in(t, t->dout + r * t->W, F32(j->a->dout) + (n * j->H + h) * j->D);
        attn_stats_in(t, r, &j->stats, n * j->H + h);
    }
}

static void fwd_item(const segment_job *j, attn_tile *t, const segment_item *it) {
    int64_t s = it->segment, g = it->g, r0 = (int64_t)it->tile * TILE_ROWS, n_keys = n_keys_of(j, s);
    int64_t rows = n_rows_of(j, s) - r0 < TILE_ROWS ? n_rows_of(j, s) - r0 : TILE_ROWS;
    load_rows(j, t, s, g, r0, rows, false);
    attn_fwd_begin(t, rows);
    for (int64_t k0 = 0; k0 < n_keys; k0 += TILE_KEYS) {
        int64_t n = n_keys - k0 < TILE_KEYS ? n_keys - k0 : TILE_KEYS;
        load_keys(j, t, s, g, k0, n);
        attn_fwd_step(t, rows, t->kt, TILE_KEYS, t->v, t->W, n);
    }
    for (int64_t r = 0; r < rows; r++) {
        int64_t n, h;
        row_at(j, s, g, r0 + r, &n, &h);
        attn_fwd_end(t, r, F32(j->a->out) + (n * j->H + h) * j->D, F32(j->a->lse) + n * j->H + h);
    }
}

/* Rows [r0, r1) against keys [k0, k1) of the segment; dq of the rows and/or dk, dv of the keys are complete then. */
static void bwd_item(const segment_job *j, attn_tile *t, const segment_item *it) {
    int64_t s = it->segment, g = it->g, D = j->D, r0 = 0, r1 = n_rows_of(j, s), k0 = 0, k1 = n_keys_of(j, s);
    if (it->kind == ITEM_ROWS) {
        r0 = (int64_t)it->tile * TILE_ROWS;
        if (r1 > r0 + TILE_ROWS) r1 = r0 + TILE_ROWS;
    } else if (it->kind == ITEM_KEYS) {
        k0 = (int64_t)it->tile * TILE_KEYS;
        if (k1 > k0 + TILE_KEYS) k1 = k0 + TILE_KEYS;
    }
    for (int64_t r = r0; r < r1 && it->kind & ITEM_ROWS && !j->a->dq_add; r++) {
        int64_t n, h;
        row_at(j, s, g, r, &n, &h);
        memset(F32(j->a->dq) + n * j->qs + h * D, 0, (size_t)D * sizeof(float));
    }
    for (int64_t kt = k0; kt < k1; kt += TILE_KEYS) {
        int64_t n_keys = k1 - kt < TILE_KEYS ? k1 - kt : TILE_KEYS;
        load_keys(j, t, s, g, kt, n_keys);
        attn_transpose(t, t->vt, TILE_KEYS, t->v, n_keys);
        memset(t->dk, 0, (size_t)(n_keys * t->W) * sizeof(float));
        memset(t->dv, 0, (size_t)(n_keys * t->W) * sizeof(float));
        for (int64_t rt = r0; rt < r1; rt += TILE_ROWS) {
            int64_t rows = r1 - rt < TILE_ROWS ? r1 - rt : TILE_ROWS;
            load_rows(j, t, s, g, rt, rows, true);
            attn_bwd_scores(t, rows, t->kt, t->vt, TILE_KEYS, n_keys);
            if (it->kind & ITEM_KEYS) attn_bwd_keys(t, rows, n_keys);
            if (!(it->kind & ITEM_ROWS)) continue;
            memset(t->sum, 0, (size_t)(rows * t->W) * sizeof(float));
            attn_bwd_rows(t, rows, t->k, t->W, n_keys);
            for (int64_t r = 0; r < rows; r++) {
                int64_t n, h;
                row_at(j, s, g, rt + r, &n, &h);
                float *dq = F32(j->a->dq) + n * j->qs + h * D;
                for (int64_t d = 0; d < D; d++) dq[d] += t->sum[r * t->W + d];
            }
        }
        for (int64_t i = 0; i < n_keys && it->kind & ITEM_KEYS; i++) {
            int64_t row = key_at(j, s, kt + i);
            memcpy(F32(j->a->dk) + row * j->ks + g * D, t->dk + i * t->W, (size_t)D * sizeof(float));
            memcpy(F32(j->a->dv) + row * j->vs + g * D, t->dv + i * t->W, (size_t)D * sizeof(float));
        }
    }
}

/* Counts the items, or writes them when `out` is given. */
static int64_t list_items(const segment_job *j, bool bwd, segment_item *out) {
    int64_t count = 0;
    for (int64_t s = 0; s < j->S; s++)
        for (int64_t g = 0; g < j->G; g++) {
            int64_t row_tiles = n_tiles(n_rows_of(j, s), TILE_ROWS), key_tiles = n_tiles(n_keys_of(j, s), TILE_KEYS);
            bool    whole = n_rows_of(j, s) * n_keys_of(j, s) <= WHOLE_PAIRS;
            if (bwd && whole) {
                if (out) out[count] = (segment_item){(int32_t)s, (int32_t)g, 0, ITEM_BOTH};
                count++;
                continue;
            }
            for (int64_t i = 0; i < row_tiles; i++, count++)
                if (out) out[count] = (segment_item){(int32_t)s, (int32_t)g, (int32_t)i, ITEM_ROWS};
            for (int64_t i = 0; bwd && i < key_tiles; i++, count++)
                if (out) out[count] = (segment_item){(int32_t)s, (int32_t)g, (int32_t)i, ITEM_KEYS};
        }
    return count;
}

static void run_items(ctx *c, const segment_job *j, bool bwd) {
    int           n_threads = omp_get_max_threads();
    int64_t       n_items = list_items(j, bwd, NULL);
    segment_item *item = arena_alloc(&c->scratch, (size_t)n_items * sizeof *item);
    attn_tile    *tile = arena_alloc(&c->scratch, (size_t)n_threads * sizeof *tile);
    list_items(j, bwd, item);
    for (int t = 0; t < n_threads; t++) tile[t] = attn_tile_new(&c->scratch, j->D, j->a->scale);
#pragma omp parallel for schedule(dynamic, 2) num_threads(n_threads)
    for (int64_t i = 0; i < n_items; i++) {
        attn_tile *t = &tile[omp_get_thread_num()];
        if (bwd)
            bwd_item(j, t, &item[i]);
        else
            fwd_item(j, t, &item[i]);
    }
}

void attn_segment_fwd_cpu(ctx *c, const attn_segment_args *a) {
    segment_job j = new_job(a);
    run_items(c, &j, false);
}

void attn_segment_bwd_cpu(ctx *c, const attn_segment_args *a) {
    segment_job j = new_job(a);
    j.stats = attn_stats_of(&c->scratch, a->stat, a->lse, a->out, a->dout);
    /* Key rows that no segment names: rare, so all rows are cleared only then. */
    if (j.k_first[j.S] < j.M)
        for (int64_t m = 0; m < j.M; m++) {
            memset(F32(a->dk) + m * j.ks, 0, (size_t)(j.G * j.D) * sizeof(float));
            memset(F32(a->dv) + m * j.vs, 0, (size_t)(j.G * j.D) * sizeof(float));
        }
    run_items(c, &j, true);
}
