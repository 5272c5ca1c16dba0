/* Blocks of a cluster: they run at the same time and reach each other's shared memory. For sm_90a, as the products of
 * dev/wgmma.cuh. */
#pragma once
#include "kernels/cuda/dev/wgmma.cuh"
#include "kernels/cuda/state.h"

/* The place in block `rank` of the cluster that `addr` is in this one. */
__device__ __forceinline__ uint32_t cluster_place(uint32_t addr, int rank) {
    uint32_t there = addr;
    IF_WGMMA(asm volatile("mapa.shared::cluster.u32 %0, %1, %2;\n" : "=r"(there) : "r"(addr), "r"(rank));)
    return there;
}
/* Seen by that block behind a cluster_sync. */
__device__ __forceinline__ void cluster_store(uint32_t place, float4 x) {
    IF_WGMMA(asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"r"(place), "f"(x.x), "f"(x.y),
                          "f"(x.z), "f"(x.w)
                          : "memory");)
}
/* All threads of all blocks meet. A block must not leave before others are done with its shared memory. */
__device__ __forceinline__ void cluster_sync() {
    __syncwarp();
    IF_WGMMA(asm volatile("barrier.cluster.arrive.release.aligned;\n"
                          "barrier.cluster.wait.acquire.aligned;\n" ::
                              : "memory");)
}

/* Launches `clusters` clusters of `blocks` blocks. */
template <class... P, class... A>
static inline void launch_clusters(ctx *c, void (*kernel)(P...), int64_t clusters, int blocks, int threads,
                                   size_t bytes, A... args) {
    cudaLaunchAttribute cluster = {};
    cudaLaunchConfig_t  config = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = (unsigned)blocks, cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    config.gridDim = dim3((unsigned)(clusters * blocks)), config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = bytes, config.stream = stream_of(c);
    config.attrs = &cluster, config.numAttrs = 1;
    CUDA_DO(cudaLaunchKernelEx(&config, kernel, args...));
}
