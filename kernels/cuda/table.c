/* The CUDA back end: every op has a kernel of its own. */
#include "kernels/backend.h"
#include "kernels/cuda/state.h"

const backend backend_cuda = {.name = "cuda",
                              .dev = DEV_CUDA,
#ifdef D3S2_RACECHECK
                              .built_for = "racecheck",
#endif
                              .open = cuda_open,
                              .close = cuda_close,
#define X(op, args) .op = op##_cuda,
                              BACKEND_OPS(X)
#undef X
};
