/* The block tables and the inside of one SSA layer against a golden group that holds block_topk, ck, cv, cmp_lse,
 * compressed_coords, cu_seqblocks and cu_block_include_tokens. The file numbers selection blocks inside the sample and
 * lists compression blocks in lexicographic order; ours are global, and by selection block. Returns the worst error /
 * bound. */
#pragma once
#include "golden/net_check.h"
#include "model/ssa.h"

double ssa_check(h5_file f, const char *group, const block_tables *b, const ssa_trace *trace, double bound);
