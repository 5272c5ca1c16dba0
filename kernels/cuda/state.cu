/* Opening the CUDA back end: what launches need to know of the GPU, and whether this program has code for it. */
#include <stdlib.h>

#include "core/device.h"
#include "kernels/cuda/dev/common.cuh"
#include "kernels/cuda/state.h"

/* Its presence for the GPU at hand stands for that of all kernels: they are compiled for the same architectures. */
__global__ void present_kernel() {}

static int attribute(cudaDeviceAttr what, int device) {
    int value = 0;
    CUDA_DO(cudaDeviceGetAttribute(&value, what, device));
    return value;
}

extern "C" void cuda_open(ctx *c) {
    CHECK(device_is_open(), "no GPU is open");
    CHECK(!c->cuda, "this ctx has opened the back end already");
    cuda_state *s = (cuda_state *)calloc(1, sizeof *s);
    CHECK(s, "no memory for the state of the CUDA back end");
    c->stream = device_stream(STREAM_COMPUTE); /* makes the GPU current in this thread, too */
    int device = 0;
    CUDA_DO(cudaGetDevice(&device));
    s->major = attribute(cudaDevAttrComputeCapabilityMajor, device);
    s->minor = attribute(cudaDevAttrComputeCapabilityMinor, device);
    s->multiprocessors = attribute(cudaDevAttrMultiProcessorCount, device);
    s->shared_limit = (size_t)attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    cudaFuncAttributes code;
    cudaError_t        e = cudaFuncGetAttributes(&code, present_kernel);
    CHECK(e == cudaSuccess,
          "GPU %d has compute capability %d.%d, for which this program has no code (%s): configure it with "
          "-DCMAKE_CUDA_ARCHITECTURES=%d%d-real",
          device, s->major, s->minor, cudaGetErrorString(e), s->major, s->minor);
    s->matmul = matmul_cache_new();
    c->cuda = s;
}

extern "C" void cuda_close(ctx *c) {
    if (!c->cuda) return;
    matmul_cache_free(c->cuda->matmul);
    free(c->cuda);
    c->cuda = NULL;
    c->stream = NULL;
}
