#include "ops/ref32.h"
#include "kernels/ref/ref.h"
#include "ref32_names.h" /* made by tests.cmake: #define NAME_ref NAME_ref32, for every op */

/* The prototypes, under these names. */
#define X(name, args) void name##_ref(ctx *, const args *);
BACKEND_OPS(X)
#undef X

#define double float
#include "ref32_sources.h" /* #include "kernels/ref/NAME.c", for every file */
#undef double

const backend backend_ref32 = {.name = "ref32",
                               .dev = DEV_CPU,
#define X(name, args) .name = name##_ref32,
                               BACKEND_OPS(X)
#undef X
};
