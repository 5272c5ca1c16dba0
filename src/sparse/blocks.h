/* Block and window tables of SSA for one ragged batch of tokens (R§4.2, 4.3, 4.6). Host memory of the given arena.
 *
 * Tokens come sorted per sample by (selection block lexicographic, place in the block lexicographic), so a selection
 * block is a range of rows. Compression blocks (m_cmp divides m_slc) are listed by (selection block, place in it): the
 * compression blocks of a selection block are neighbours. (The published code lists them in plain lexicographic order;
 * softmax does not care, and tests permute.) */
#pragma once
#include "sparse/grid.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    int64_t n_tokens, n_cmp, n_slc;
    int     n_samples;
    tensor  sample_first;     /* (B+1) token rows */
    tensor  slc_first;        /* (NB+1) token rows of each selection block */
    tensor  slc_sample_first; /* (B+1) selection blocks of each sample */
    tensor  cmp_first;        /* (M+1) into cmp_order (or rows) */
    tensor  cmp_order;        /* (N) token rows grouped by compression block; data NULL when m_cmp == m_slc */
    tensor  cmp_sample_first; /* (B+1) compression blocks of each sample */
    tensor  slc_cmp_first;    /* (NB+1) compression blocks of each selection block */
    tensor  cmp_coord;        /* (M,3) */
    tensor  pe_index;         /* (N) place in the compression block: ((x mod m)*m + y mod m)*m + z mod m */
    tensor  pe_first;         /* (m^3+1) into pe_order */
    tensor  pe_order;         /* (N) token rows grouped by place, ascending in each */
    grid    cmp_grid;         /* side 1 over the compression blocks, for the v2 network; only if asked for */
    int64_t max_slc_per_sample;
} block_tables;

typedef struct {
    int64_t n_windows;
    tensor  first; /* (W+1) into order */
    tensor  order; /* (N) token rows grouped by window; data NULL when windows are row ranges (shift 0 and m_win ==
                      m_slc) */
} window_tables;

/* Visit the tensors of the tables that are there. */
void block_tensors(block_tables *t, tensor_visit f, void *user);
void window_tensors(window_tables *w, tensor_visit f, void *user);

/* Sort permutation of R§4.2 for tokens in any order inside their samples: order[i] = row that comes i-th. m = m_slc. */
void blocks_sort(const int32_t *coord, const int32_t *sample_first, int n_samples, int m, int32_t *order);

/* coord (N,3) i32 sorted as above (checked, fatal). want_grid: fill cmp_grid. */
block_tables blocks_build(arena *a, const tensor *coord, const tensor *sample_first, int m_cmp, int m_slc,
                          bool want_grid);

/* Windows of (coord + shift) div m_win, same shift on all axes, no wrap (R§4.6), ordered by (sample, wx, wy, wz). */
window_tables windows_build(arena *a, const tensor *coord, const tensor *sample_first, int m_win, int shift,
                            bool rows_are_block_sorted, int m_slc);

#ifdef __cplusplus
}
#endif
