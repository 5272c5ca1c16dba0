/* Definition of block scores and selection (ops/topk_blocks.h). */
#include <math.h>

#include "kernels/backend.h"

/* score[g,n,B] of one block: sum over the group's heads and the block's compression blocks. */
static double block_score(const topk_blocks_args *a, int64_t n, int64_t g, int64_t block) {
    int64_t        H = a->q->dim[1], D = a->q->dim[2], G = a->ck->dim[1];
    const int32_t *first = I32(a->slc_cmp_first);
    double         sum = 0;
    for (int64_t h = g * (H / G); h < (g + 1) * (H / G); h++)
        for (int64_t j = first[block]; j < first[block + 1]; j++) {
            double s = 0;
            for (int64_t d = 0; d < D; d++)
                s += (double)F32(a->q)[(n * H + h) * D + d] * (double)F32(a->ck)[(j * G + g) * D + d];
            sum += exp(s * (double)a->scale - (double)F32(a->lse)[n * H + h]);
        }
    return sum;
}

void topk_blocks_fwd_ref(ctx *c, const topk_blocks_args *a) {
    int64_t        N = a->q->dim[0], G = a->ck->dim[1], K = a->block->dim[2], B = a->sample_first->dim[0] - 1;
    const int32_t *sample = I32(a->sample_first), *slc = I32(a->slc_sample_first);
    double        *score = arena_alloc(&c->scratch, (size_t)(a->slc_cmp_first->dim[0]) * sizeof *score);
    for (int64_t b = 0; b < B; b++)
        for (int64_t g = 0; g < G; g++)
            for (int64_t n = sample[b]; n < sample[b + 1]; n++) {
                int64_t n_blocks = slc[b + 1] - slc[b], found = 0;
                for (int64_t j = 0; j < n_blocks; j++) score[j] = block_score(a, n, g, slc[b] + j);
                if (tensor_given(a->score))
                    for (int64_t j = 0, wide = a->score->dim[2]; j < wide; j++)
                        F32(a->score)[(g * N + n) * wide + j] = j < n_blocks ? (float)score[j] : 0;
                /* Block j is kept when fewer than K blocks beat it: larger, or equal and before it. NaN loses. */
                int32_t *out = I32(a->block) + (g * N + n) * K;
                for (int64_t j = 0; j < n_blocks; j++) {
                    int64_t better = 0;
                    for (int64_t i = 0; i < n_blocks; i++)
                        better += !(score[i] <= score[j]) || (score[i] == score[j] && i < j);
                    if (better < K) out[found++] = (int32_t)(slc[b] + j);
                }
                for (; found < K; found++) out[found] = -1;
            }
}
