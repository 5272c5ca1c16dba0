/* The block tables and the inside of one SSA layer against a golden group that holds block_topk, ck, cv, cmp_lse,
 * compressed_coords, cu_seqblocks and cu_block_include_tokens. The file numbers selection blocks inside the sample and
 * lists compression blocks in lexicographic order; ours are global, and by selection block. */
#pragma once
#include "golden/net_check.h"
#include "model/ssa.h"

/* b: the tables in host memory. Returns the worst error / bound. */
double ssa_check(rig *n, h5_file f, const char *group, const block_tables *b, const ssa_trace *trace, double bound);

/* In the bf16 form the selection cannot be that of the file: scores are closer than their roundings. Then the rig's
 * back end takes the selections of the groups, one for each layer in the order of the forward pass, instead of its own.
 * Does nothing in the other forms. */
void ssa_fix_selection(rig *n, h5_file f, const char *const *group, int n_groups, const block_tables *b);
