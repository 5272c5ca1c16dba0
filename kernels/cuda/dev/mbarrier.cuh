/* Barriers in shared memory (mbarrier) that count arrivals: when all have come, the phase ends and the next one begins.
 * Phases are told apart by their parity, 0 first. Who arrives does not wait, so that warps may run apart. What was
 * written before an arrival is seen behind the wait. For sm_90a, as the products of dev/wgmma.cuh. */
#pragma once
#include "kernels/cuda/dev/wgmma.cuh"

static constexpr int MBARRIER_BYTES = 8;

/* Arrivals of a warp that arrives as one: by its first lane, for all of them. compute-sanitizer's racecheck takes an
 * arrival for its own thread's accesses only, so in a build for it every lane arrives, in the same places. */
#ifdef D3S2_RACECHECK
static constexpr int WARP_ARRIVALS = 32;
#else
static constexpr int WARP_ARRIVALS = 1;
#endif

/* By one thread; a __syncthreads follows before anybody arrives. */
__device__ __forceinline__ void mbarrier_init(uint32_t bar, int arrivals) {
    IF_WGMMA(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(bar), "r"(arrivals) : "memory");)
}
__device__ __forceinline__ void mbarrier_arrive(uint32_t bar) {
    IF_WGMMA(asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(bar) : "memory");)
}
/* The same for a barrier at which so many warps arrive as one. */
__device__ __forceinline__ void mbarrier_init_warps(uint32_t bar, int warps) {
    mbarrier_init(bar, warps * WARP_ARRIVALS);
}
/* Behind a __syncwarp: whether this lane arrives for the warp. */
__device__ __forceinline__ bool arrives_for_warp() {
    return threadIdx.x % 32 < WARP_ARRIVALS;
}
/* The warp arrives, behind what all of its lanes did. */
__device__ __forceinline__ void mbarrier_arrive_warp(uint32_t bar) {
    __syncwarp();
    if (arrives_for_warp()) mbarrier_arrive(bar);
}
/* One arrival for this thread, when all its cp.async so far have come. */
__device__ __forceinline__ void mbarrier_arrive_copied(uint32_t bar) {
    IF_WGMMA(asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];\n" ::"r"(bar) : "memory");)
}
/* Waits for the end of the phase of this parity; a fresh barrier counts as if the phase before its first, of parity 1,
 * had ended. Nobody may be two phases behind. */
__device__ __forceinline__ void mbarrier_wait(uint32_t bar, uint32_t parity) {
    IF_WGMMA(asm volatile("{ .reg .pred done;\n"
                          "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                          "@!done bra again; }\n" ::"r"(bar),
                          "r"(parity)
                          : "memory");)
}
/* Has this phase ended? The same answer in the whole warp. */
__device__ __forceinline__ bool mbarrier_ended(uint32_t bar, uint32_t parity) {
    uint32_t done = 0;
    IF_WGMMA(asm volatile("{ .reg .pred done;\n"
                          "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
                          "selp.u32 %0, 1, 0, done; }\n"
                          : "=r"(done)
                          : "r"(bar), "r"(parity)
                          : "memory");)
    return __all_sync(0xffffffffu, done);
}

/* Bytes that a copy below will bring: one arrival, and the phase does not end before they have come. */
__device__ __forceinline__ void mbarrier_arrive_for(uint32_t bar, int bytes) {
    IF_WGMMA(asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(bar), "r"(bytes)
                          : "memory");)
}
/* One thread copies so many bytes, which the barrier counts; all in multiples of 16. What they overwrite must have been
 * read by the tensor cores or behind a barrier. */
__device__ __forceinline__ void bulk_copy(uint32_t dst, const void *src, int bytes, uint32_t bar) {
    IF_WGMMA(asm volatile(
                 "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(dst),
                 "l"(src), "r"(bytes), "r"(bar)
                 : "memory");)
}

/* Registers of the threads of a warpgroup from here on: fewer than the launch gave them, or more, of those that others
 * gave back. */
template <int N> __device__ __forceinline__ void registers_fewer() {
    IF_WGMMA(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(N));)
}
template <int N> __device__ __forceinline__ void registers_more() {
    IF_WGMMA(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(N));)
}
