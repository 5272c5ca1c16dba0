/* Definition of attention over selected blocks (ops/attn_select.h). */
#include <string.h>

#include "kernels/backend.h"
#include "kernels/ref/attn_row.h"

/* The keys of query n in group g as a list, and its length. */
static int64_t selected_keys(const attn_select_args *a, int64_t g, int64_t n, int32_t *key) {
    int64_t        N = a->q->dim[0], K = a->block->dim[2], count = 0;
    const int32_t *block = I32(a->block) + (g * N + n) * K, *first = I32(a->first);
    for (int64_t s = 0; s < K; s++)
        for (int32_t t = block[s] < 0 ? 0 : first[block[s]]; block[s] >= 0 && t < first[block[s] + 1]; t++)
            key[count++] = t;
    return count;
}

void attn_select_fwd_ref(ctx *c, const attn_select_args *a) {
    int64_t  N = a->q->dim[0], H = a->q->dim[1], D = a->q->dim[2], G = a->k->dim[1];
    int32_t *key = arena_alloc(&c->scratch, (size_t)N * sizeof *key);
    double  *p = arena_alloc(&c->scratch, (size_t)N * sizeof *p);
    for (int64_t n = 0; n < N; n++)
        for (int64_t h = 0; h < H; h++) {
            int64_t  g = h / (H / G);
            attn_row r = {.q = F32(a->q) + (n * H + h) * D,
                          .k = F32(a->k) + g * D,
                          .v = F32(a->v) + g * D,
                          .k_stride = G * D,
                          .v_stride = G * D,
                          .key = key,
                          .n = selected_keys(a, g, n, key),
                          .D = D,
                          .scale = (double)a->scale,
                          .p = p};
            attn_row_fwd(&r, F32(a->out) + (n * H + h) * D, F32(a->lse) + n * H + h);
        }
}

void attn_select_bwd_ref(ctx *c, const attn_select_args *a) {
    int64_t  N = a->q->dim[0], H = a->q->dim[1], D = a->q->dim[2], G = a->k->dim[1];
    int32_t *key = arena_alloc(&c->scratch, (size_t)N * sizeof *key);
    double  *p = arena_alloc(&c->scratch, (size_t)N * sizeof *p);
    double  *dq = arena_alloc(&c->scratch, (size_t)D * sizeof *dq);
    double  *dk = arena_alloc(&c->scratch, (size_t)(N * D) * sizeof *dk);
    double  *dv = arena_alloc(&c->scratch, (size_t)(N * D) * sizeof *dv);
    for (int64_t g = 0; g < G; g++) {
        memset(dk, 0, (size_t)(N * D) * sizeof *dk);
        memset(dv, 0, (size_t)(N * D) * sizeof *dv);
        for (int64_t n = 0; n < N; n++)
            for (int64_t h = g * (H / G); h < (g + 1) * (H / G); h++) {
                attn_row r = {.q = F32(a->q) + (n * H + h) * D,
                              .k = F32(a->k) + g * D,
                              .v = F32(a->v) + g * D,
                              .k_stride = G * D,
                              .v_stride = G * D,
                              .key = key,
                              .n = selected_keys(a, g, n, key),
                              .D = D,
                              .scale = (double)a->scale,
                              .stat = tensor_given(a->stat) ? F32(a->stat) + 2 * (n * H + h) : NULL,
                              .dq_add = a->dq_add,
                              .p = p};
                attn_row_bwd(&r, F32(a->dout) + (n * H + h) * D, dq, F32(a->dq) + (n * H + h) * D, dk, dv);
            }
        for (int64_t n = 0; n < N; n++)
            for (int64_t d = 0; d < D; d++) {
                F32(a->dk)[(n * G + g) * D + d] = (float)dk[n * D + d];
                F32(a->dv)[(n * G + g) * D + d] = (float)dv[n * D + d];
            }
    }
}
