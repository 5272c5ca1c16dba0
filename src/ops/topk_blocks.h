/* SSA block scores and selection (R§4.5), no gradient.
 *   p[n,h,j] = exp(scale <q[n,h], ck[j,g]> - lse[n,h]) over the compression blocks j of n's sample;
 *   score[g,n,B] = sum over heads h of g and over compression blocks j of selection block B of p[n,h,j];
 *   block[g,n,:] = the min(K, n_blocks) largest scores, ties to the lower index, then ascending; unused slots -1 at the
 * end. q (N,H,D), ck (M,G,D), lse (N,H) f32 as attn_segment wrote it. sample_first (B+1) token rows, cmp_sample_first
 * (B+1) compression rows, slc_sample_first (B+1) selection blocks, slc_cmp_first (NB+1): compression rows of each
 * selection block (contiguous: blocks.h order). block (G,N,K) i32: GLOBAL selection block numbers (row into slc_first).
 * q and ck are both f32 or both bf16 (on a GPU).
 * score (G,N,max blocks of a sample) f32, optional, for tests: columns past a sample's own count are 0; column 0 is the
 * sample's first block. */
#pragma once
#include "core/ctx.h"

typedef struct {
    const tensor *q, *ck, *lse;
    const tensor *sample_first, *cmp_sample_first, *slc_sample_first, *slc_cmp_first; /* i32 */
    float         scale;
    tensor       *block, *score;
} topk_blocks_args;

void topk_blocks_fwd(ctx *c, const topk_blocks_args *a);
