/* Which shapes are set aside for evaluation. Only a shape's source name decides, so all ranks, grids and restarts
 * agree, and shapes that are added do not move those that were there (split_lowest: few of them). */
#pragma once
#include "core/base.h"

/* Is set aside when a share in [0,1) of all shapes is. */
bool split_in_share(const char *name, double share);
/* held[i]: name[i] is one of the `count` names with the lowest hash. */
void split_lowest(char *const *name, int64_t n, int64_t count, bool *held);
