/* The reference back end: the definition of every op, plain loops, double precision inside. */
#include "kernels/backend.h"

const backend backend_ref = {.name = "ref",
                             .dev = DEV_CPU,
#define X(name, args) .name = name##_ref,
                             BACKEND_OPS(X)
#undef X
};
