/* Block scores and selection: probabilities of a tile of queries against all compression blocks of the sample, summed
 * over heads and over selection blocks at once; only the indices leave. */
#include <omp.h>

#include "kernels/backend.h"
#include "kernels/cpu/attn_tile.h"

typedef struct {
    attn_tile t;
    float    *column, *score; /* (queries of a tile, compression blocks), (selection blocks) */
    float    *best;           /* (K) scores of the kept blocks, descending */
    int32_t  *kept;
} topk_buffers;

typedef struct {
    int32_t sample, g, n0, n1;
} topk_item;

/* column[q] += probabilities of rows [r0, r0 + rows) (query r / hs, head r mod hs) over all compression blocks. */
static void add_probabilities(const topk_blocks_args *a, topk_buffers *b, const topk_item *it, int64_t r0,
                              int64_t rows) {
    int64_t    H = a->q->dim[1], D = a->q->dim[2], G = a->ck->dim[1], hs = H / G;
    int64_t    m0 = I32(a->cmp_sample_first)[it->sample], M = I32(a->cmp_sample_first)[it->sample + 1] - m0;
    attn_tile *t = &b->t;
    for (int64_t r = 0; r < rows; r++) {
        int64_t n = it->n0 + (r0 + r) / hs, h = it->g * hs + (r0 + r) % hs;
        attn_row_in(t, t->q + r * t->W, F32(a->q) + (n * H + h) * D);
        t->lse[r] = F32(a->lse)[n * H + h];
    }
    for (int64_t j0 = 0; j0 < M; j0 += TILE_KEYS) {
        int64_t n_keys = M - j0 < TILE_KEYS ? M - j0 : TILE_KEYS;
        for (int64_t j = 0; j < n_keys; j++)
            attn_row_in(t, t->k + j * t->W, F32(a->ck) + ((m0 + j0 + j) * G + it->g) * D);
        attn_transpose(t, t->kt, TILE_KEYS, t->k, n_keys);
        attn_scores(t, rows, t->kt, TILE_KEYS, n_keys);
        for (int64_t r = 0; r < rows; r++) {
            float *p = t->p + r * TILE_KEYS, *sum = b->column + (r0 + r) / hs * M + j0;
            for (int64_t j = 0; j < n_keys; j++) p[j] = p[j] * t->scale - t->lse[r];
            vexp_array(p, p, n_keys);
            for (int64_t j = 0; j < n_keys; j++) sum[j] += p[j];
        }
    }
}

/* The K largest of score[0..n), ties to the lower index, ascending; global numbers from `base`; -1 behind the last. */
static void keep_best(topk_buffers *b, int64_t n, int64_t K, int64_t base, int32_t *out) {
    int64_t found = 0;
    for (int64_t j = 0; j < n; j++) {
        float s = b->score[j];
        /* Later blocks have to be larger, not equal; a NaN never is. */
        if (!(found < K ? s == s : s > b->best[K - 1])) continue;
        int64_t at = found < K ? found++ : K - 1;
        for (; at > 0 && b->best[at - 1] < s; at--) {
            b->best[at] = b->best[at - 1];
            b->kept[at] = b->kept[at - 1];
        }
        b->best[at] = s;
        b->kept[at] = (int32_t)j;
    }
    for (int64_t i = 0; i < K; i++) out[i] = -1;
    for (int64_t i = 0; i < found; i++) { /* insertion sort by index */
        int32_t v = (int32_t)(base + b->kept[i]);
        int64_t at = i;
        for (; at > 0 && out[at - 1] > v; at--) out[at] = out[at - 1];
        out[at] = v;
    }
}

static void topk_tile(const topk_blocks_args *a, topk_buffers *b, const topk_item *it) {
    int64_t        N = a->q->dim[0], G = a->ck->dim[1], hs = a->q->dim[1] / G, K = a->block->dim[2];
    const int32_t *cmp = I32(a->cmp_sample_first), *slc = I32(a->slc_sample_first), *first = I32(a->slc_cmp_first);
    int64_t M = cmp[it->sample + 1] - cmp[it->sample], base = slc[it->sample], n_blocks = slc[it->sample + 1] - base;
    int64_t rows = (it->n1 - it->n0) * hs;
    memset(b->column, 0, (size_t)((it->n1 - it->n0) * M) * sizeof *b->column);
    for (int64_t r = 0; r < rows; r += TILE_ROWS)
        add_probabilities(a, b, it, r, rows - r < TILE_ROWS ? rows - r : TILE_ROWS);
    for (int64_t n = it->n0; n < it->n1; n++) {
        const float *column = b->column + (n - it->n0) * M;
        for (int64_t j = 0; j < n_blocks; j++) {
            float sum = 0;
            for (int32_t i = first[base + j]; i < first[base + j + 1]; i++) sum += column[i - cmp[it->sample]];
            b->score[j] = sum;
        }
        if (tensor_given(a->score)) {
            int64_t wide = a->score->dim[2];
            float  *out = F32(a->score) + (it->g * N + n) * wide;
            memcpy(out, b->score, (size_t)n_blocks * sizeof *out);
            memset(out + n_blocks, 0, (size_t)(wide - n_blocks) * sizeof *out);
        }
        keep_best(b, n_blocks, K, base, I32(a->block) + (it->g * N + n) * K);
    }
}

void topk_blocks_fwd_cpu(ctx *c, const topk_blocks_args *a) {
    int64_t        G = a->ck->dim[1], hs = a->q->dim[1] / G, K = a->block->dim[2], B = a->sample_first->dim[0] - 1;
    int64_t        per_tile = hs < TILE_ROWS ? TILE_ROWS / hs : 1, n_items = 0, max_cmp = 0, max_slc = 0;
    const int32_t *sample = I32(a->sample_first), *cmp = I32(a->cmp_sample_first), *slc = I32(a->slc_sample_first);
    for (int64_t s = 0; s < B; s++) {
        n_items += G * ((sample[s + 1] - sample[s] + per_tile - 1) / per_tile);
        if (cmp[s + 1] - cmp[s] > max_cmp) max_cmp = cmp[s + 1] - cmp[s];
        if (slc[s + 1] - slc[s] > max_slc) max_slc = slc[s + 1] - slc[s];
    }
    topk_item *item = arena_alloc(&c->scratch, (size_t)n_items * sizeof *item);
    int64_t    at = 0;
    for (int64_t s = 0; s < B; s++)
        for (int64_t g = 0; g < G; g++)
            for (int64_t n = sample[s]; n < sample[s + 1]; n += per_tile)
                item[at++] = (topk_item){(int32_t)s, (int32_t)g, (int32_t)n,
                                         (int32_t)(n + per_tile < sample[s + 1] ? n + per_tile : sample[s + 1])};
    int           n_threads = omp_get_max_threads();
    topk_buffers *b = arena_alloc(&c->scratch, (size_t)n_threads * sizeof *b);
    for (int t = 0; t < n_threads; t++) {
        b[t].t = attn_tile_new(&c->scratch, a->q->dim[2], a->scale);
        b[t].column = arena_alloc(&c->scratch, (size_t)(per_tile * max_cmp) * sizeof(float));
        b[t].score = arena_alloc(&c->scratch, (size_t)max_slc * sizeof(float));
        b[t].best = arena_alloc(&c->scratch, (size_t)K * sizeof(float));
        b[t].kept = arena_alloc(&c->scratch, (size_t)K * sizeof(int32_t));
    }
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t i = 0; i < n_items; i++) topk_tile(a, &b[omp_get_thread_num()], &item[i]);
}
