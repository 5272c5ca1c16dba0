/* Which geometry a data set has already, over all ranks of a run and over its restarts: OUT/geometry.txt, one line
 * "HASH NAME" per shape, appended under the kernel's lock. The first shape with a hash keeps it. */
#pragma once
#include "core/base.h"

typedef struct claims claims;

/* The file is made when it is missing. NULL: *st says why. */
claims     *claims_open(const char *path, status *st);
void        claims_close(claims *c);
/* NULL: the hash is `name`'s from now on (or was before). Otherwise the name that has it. A failure is in *st. */
const char *claims_take(claims *c, uint64_t hash, const char *name, status *st);
