/* Definition of attention inside segments (ops/attn_segment.h). */
#include <string.h>

#include "kernels/backend.h"
#include "kernels/ref/attn_row.h"

static int64_t stride_of(int64_t stride, const tensor *t) {
    return stride ? stride : t->dim[1] * t->dim[2];
}

static int64_t ordered_row(const tensor *order, int64_t at) {
    return tensor_given(order) ? I32(order)[at] : at;
}

/* The keys of segment s as a list, and its length. */
static int64_t segment_keys(const attn_segment_args *a, int64_t s, int32_t *key) {
    const int32_t *first = I32(a->k_first);
    for (int64_t j = first[s]; j < first[s + 1]; j++) key[j - first[s]] = (int32_t)ordered_row(a->k_order, j);
    return first[s + 1] - first[s];
}

void attn_segment_fwd_ref(ctx *c, const attn_segment_args *a) {
    int64_t  H = a->q->dim[1], D = a->q->dim[2], M = a->k->dim[0], G = a->k->dim[1], S = a->q_first->dim[0] - 1;
    int64_t  qs = stride_of(a->q_stride, a->q), ks = stride_of(a->k_stride, a->k), vs = stride_of(a->v_stride, a->v);
    int32_t *key = arena_alloc(&c->scratch, (size_t)M * sizeof *key);
    double  *p = arena_alloc(&c->scratch, (size_t)M * sizeof *p);
    const int32_t *q_first = I32(a->q_first);
    for (int64_t s = 0; s < S; s++) {
        int64_t n_keys = segment_keys(a, s, key);
        for (int64_t i = q_first[s]; i < q_first[s + 1]; i++)
            for (int64_t h = 0; h < H; h++) {
                int64_t  n = ordered_row(a->q_order, i), g = h / (H / G);
                attn_row r = {.q = F32(a->q) + n * qs + h * D,
                              .k = F32(a->k) + g * D,
                              .v = F32(a->v) + g * D,
                              .k_stride = ks,
                              .v_stride = vs,
                              .key = key,
                              .n = n_keys,
                              .D = D,
                              .scale = (double)a->scale,
                              .p = p};
                attn_row_fwd(&r, F32(a->out) + (n * H + h) * D, F32(a->lse) + n * H + h);
            }
    }
}

void attn_segment_bwd_ref(ctx *c, const attn_segment_args *a) {
    int64_t  H = a->q->dim[1], D = a->q->dim[2], M = a->k->dim[0], G = a->k->dim[1], S = a->q_first->dim[0] - 1;
    int64_t  qs = stride_of(a->q_stride, a->q), ks = stride_of(a->k_stride, a->k), vs = stride_of(a->v_stride, a->v);
    int32_t *key = arena_alloc(&c->scratch, (size_t)M * sizeof *key);
    double  *p = arena_alloc(&c->scratch, (size_t)M * sizeof *p);
    double  *dq = arena_alloc(&c->scratch, (size_t)D * sizeof *dq);
    double  *dk = arena_alloc(&c->scratch, (size_t)(M * D) * sizeof *dk);
    double  *dv = arena_alloc(&c->scratch, (size_t)(M * D) * sizeof *dv);
    const int32_t *q_first = I32(a->q_first);
    for (int64_t g = 0; g < G; g++) {
        memset(dk, 0, (size_t)(M * D) * sizeof *dk);
        memset(dv, 0, (size_t)(M * D) * sizeof *dv);
        for (int64_t s = 0; s < S; s++) {
            int64_t n_keys = segment_keys(a, s, key);
            for (int64_t i = q_first[s]; i < q_first[s + 1]; i++)
                for (int64_t h = g * (H / G); h < (g + 1) * (H / G); h++) {
                    int64_t  n = ordered_row(a->q_order, i);
                    attn_row r = {.q = F32(a->q) + n * qs + h * D,
                                  .k = F32(a->k) + g * D,
                                  .v = F32(a->v) + g * D,
                                  .k_stride = ks,
                                  .v_stride = vs,
                                  .key = key,
                                  .n = n_keys,
                                  .D = D,
                                  .scale = (double)a->scale,
                                  .stat = tensor_given(a->stat) ? F32(a->stat) + 2 * (n * H + h) : NULL,
                                  .dq_add = a->dq_add,
                                  .p = p};
                    attn_row_bwd(&r, F32(a->dout) + (n * H + h) * D, dq, F32(a->dq) + n * qs + h * D, dk, dv);
                }
        }
        for (int64_t m = 0; m < M; m++)
            for (int64_t d = 0; d < D; d++) {
                F32(a->dk)[m * ks + g * D + d] = (float)dk[m * D + d];
                F32(a->dv)[m * vs + g * D + d] = (float)dv[m * D + d];
            }
    }
}
