/* How much more memory this process may take: the least of what the host has left, what its control group (cgroup
 * v2 or v1, with all groups above it) leaves and what its limit of address space leaves. Page cache counts as free. */
#pragma once
#include "core/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes; SIZE_MAX where nothing tells. */
size_t host_memory_left(void);
/* The same for files below `root` instead of / ("": /), without the limit of address space. */
size_t host_memory_left_under(const char *root);

#ifdef __cplusplus
}
#endif
