/* What a checkpoint holds, for `d3s2 info`. */
#pragma once
#include "core/base.h"

/* Network, size, slabs and, if asked for, the options that are not the defaults, to stdout. */
bool checkpoint_info(const char *folder, bool with_options, status *st);
