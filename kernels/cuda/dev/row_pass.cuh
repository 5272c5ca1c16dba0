/* One pass over rows (N,C) by threads that own columns, with sums over the rows of each sample.
 *
 * A thread owns V neighbouring columns and walks down rows, so what belongs to a column (scale, gate, statistics) is
 * loaded once, and a sum over rows is a register. Rows are cut into chunks of fixed length, one block each; inside a
 * chunk the rows of one sample are a run. The run of sample b in chunk j has partial sums of its own in slot j + b:
 *
 *     chunk  0        1        2
 *     rows   aaaaaaab bbbbbbbb bccccddd
 *     slot   0      1 2        34   5
 *
 * Going down the rows, every next run has a larger j, a larger b, or both. So no two runs share a slot, and
 * n_chunks + n_samples slots are enough, whatever the samples' sizes.
 *
 * The second stage adds, for each sample, the slots of the chunks it touches, in double. Nothing depends on timing, and
 * the host reads no table.
 *
 * A pass is a struct F (passed by value) with
 *     static constexpr int V, Q, UNROLL;              columns per thread; sums per column, 0: none; rows in flight
 *     typedef sum_t;                                  float or double
 *     struct column; struct in;                       what a thread keeps per run; what one row brings
 *     void begin(int b, int64_t col, column &k)       sample b, columns col .. col+V-1
 *     void load(int64_t n, int64_t col, const column &k, in &x)
 *     void use(int64_t n, int64_t col, const column &k, const in &x, sum_t (&sum)[Q or 1][V])
 * All loads of UNROLL rows go out before the first use. use() may write row n in place of what load() read there. */
#pragma once
#include "kernels/cuda/dev/vec.cuh"

enum { PASS_THREADS = 256 };

/* What a thread adds rows of T up in. */
template <class T> struct row_sum { typedef float type; };
template <> struct row_sum<float> { typedef double type; };

struct row_chunks {
    int64_t        n_rows, per_chunk;
    const int32_t *first; /* (n_samples + 1), or NULL: one sample */
    int            n_chunks, n_samples;
};

static inline row_chunks chunk_rows(int64_t n_rows, const tensor *first, int64_t want_chunks, int64_t at_least) {
    row_chunks k;
    int64_t    per = ceil_div(n_rows, want_chunks < 1 ? 1 : want_chunks);
    k.n_rows = n_rows;
    k.per_chunk = ceil_div(per < 1 ? 1 : per, at_least) * at_least;
    k.n_chunks = (int)ceil_div(n_rows, k.per_chunk);
    k.first = first ? (const int32_t *)first->data : NULL;
    k.n_samples = first ? (int)(first->dim[0] - 1) : 1;
    return k;
}

static inline int64_t slot_count(const row_chunks &k) {
    return (int64_t)k.n_chunks + k.n_samples;
}

/* body(lo, hi, sample, slot) for every run of a chunk; the same in all threads of a block, so it may synchronise. */
template <class F> __device__ __forceinline__ void for_runs(const row_chunks &k, int chunk, F body) {
    int64_t lo = chunk * k.per_chunk, end = lo + k.per_chunk < k.n_rows ? lo + k.per_chunk : k.n_rows;
    int     b = k.first ? segment_of(k.first, k.n_samples, lo) : 0;
    while (lo < end && b < k.n_samples) {
        int64_t hi = k.first && k.first[b + 1] < end ? k.first[b + 1] : end;
        if (hi > lo) {
            body(lo, hi, b, (int64_t)chunk + b);
            lo = hi;
        }
        b++;
    }
}

/* Adds the lanes threadIdx.y of a column; the result is in lane 0. `room`: V values per thread. */
template <class S, int V> __device__ __forceinline__ void add_lanes(S (&sum)[V], S *room) {
    int threads = blockDim.x * blockDim.y, t = threadIdx.y * blockDim.x + threadIdx.x, lanes = blockDim.y;
#pragma unroll
    for (int i = 0; i < V; i++) room[i * threads + t] = sum[i];
    __syncthreads();
    for (int s = 1; s < lanes; s *= 2) {
        if (threadIdx.y % (2 * s) == 0 && (int)threadIdx.y + s < lanes)
#pragma unroll
            for (int i = 0; i < V; i++) room[i * threads + t] += room[i * threads + t + s * blockDim.x];
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < V; i++) sum[i] = room[i * threads + t];
    __syncthreads();
}

/* partial: [slot][q][C] */
template <class F>
__global__ void __launch_bounds__(PASS_THREADS)
    row_pass_kernel(const row_chunks k, const int64_t C, const F f, typename F::sum_t *partial) {
    typedef typename F::sum_t S;
    constexpr int             V = F::V, Q = F::Q, U = F::UNROLL;
    extern __shared__ __align__(16) unsigned char shared_bytes[];

    S      *room = reinterpret_cast<S *>(shared_bytes);
    int64_t col = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * V;
    bool    mine = col < C;
    for_runs(k, (int)blockIdx.x, [&](int64_t lo, int64_t hi, int b, int64_t slot) {
        S sum[Q ? Q : 1][V];
#pragma unroll
        for (int q = 0; q < (Q ? Q : 1); q++)
#pragma unroll
            for (int i = 0; i < V; i++) sum[q][i] = S(0);
        if (mine) {
            typename F::column kept;
            f.begin(b, col, kept);
            for (int64_t n = lo + threadIdx.y; n < hi; n += U * blockDim.y) {
                typename F::in in[U];
#pragma unroll
                for (int u = 0; u < U; u++)
                    if (n + u * blockDim.y < hi) f.load(n + u * blockDim.y, col, kept, in[u]);
#pragma unroll
                for (int u = 0; u < U; u++)
                    if (n + u * blockDim.y < hi) f.use(n + u * blockDim.y, col, kept, in[u], sum);
            }
        }
        if constexpr (Q > 0) {
#pragma unroll
            for (int q = 0; q < Q; q++) {
                add_lanes<S, V>(sum[q], room);
                if (mine && threadIdx.y == 0)
#pragma unroll
                    for (int i = 0; i < V; i++) partial[(slot * Q + q) * C + col + i] = sum[q][i];
            }
        }
    });
}

/* Columns per block: all, or equal parts of at most PASS_THREADS threads. */
static inline int pass_width(int64_t vecs) {
    int64_t tiles = ceil_div(vecs, PASS_THREADS);
    return (int)ceil_div(vecs, tiles);
}

template <class K> static inline int resident_blocks(K kernel, int threads, size_t shared_bytes) {
    int n = 0;
    CUDA_DO(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n, kernel, threads, shared_bytes));
    return n < 1 ? 1 : n;
}

/* Runs the pass. With sums (Q > 0) *partial is their first stage, for column_sums, and *chunks how it is laid out. */
template <class F>
static inline void row_pass(ctx *c, const F &f, int64_t n_rows, int64_t C, const tensor *first, row_chunks *chunks,
                            typename F::sum_t **partial) {
    typedef typename F::sum_t S;
    int64_t                   vecs = C / F::V;
    int     width = pass_width(vecs < 1 ? 1 : vecs), lanes = PASS_THREADS / width, tiles = (int)ceil_div(vecs, width);
    size_t  shared = F::Q ? sizeof(S) * F::V * width * lanes : 0;
    /* Two waves of blocks: the second evens out what the first left uneven. More where a thread would add up more than
     * 512 rows in a register. */
    int64_t want = (int64_t)c->cuda->multiprocessors * resident_blocks(row_pass_kernel<F>, width * lanes, shared) * 2 /
                   (tiles < 1 ? 1 : tiles);
    if (F::Q > 0 && n_rows > want * lanes * 512) want = ceil_div(n_rows, (int64_t)lanes * 512);
    row_chunks k = chunk_rows(n_rows, first, want, (F::Q > 0 ? 4 : 1) * lanes);
    S         *sums = NULL;
    if (F::Q) sums = (S *)arena_alloc(&c->scratch, sizeof(S) * F::Q * (size_t)(slot_count(k) * C));
    if (chunks) *chunks = k;
    if (partial) *partial = sums;
    if (k.n_chunks == 0 || C == 0) return;
    row_pass_kernel<<<dim3((unsigned)k.n_chunks, (unsigned)tiles), dim3((unsigned)width, (unsigned)lanes), shared,
                      stream_of(c)>>>(k, C, f, sums);
    LAUNCHED(c);
}
template <class F> static inline void row_pass(ctx *c, const F &f, int64_t n_rows, int64_t C, const tensor *first) {
    row_pass(c, f, n_rows, C, first, (row_chunks *)NULL, (typename F::sum_t **)NULL);
}

/* ---- second stage --------------------------------------------------------------------------------------------- */

enum { SUMS_THREADS = 1024 };

/* A block adds the slots of blockDim.x columns of a sample: blockDim.y lanes of slots, then a tree. */
template <int Q, class S, class E>
__global__ void __launch_bounds__(SUMS_THREADS)
    column_sums_kernel(const row_chunks k, const int64_t C, const S *partial, const E e) {
    __shared__ double room[Q][SUMS_THREADS];
    int64_t           col = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int               y = threadIdx.y, columns = blockDim.x, lanes = blockDim.y, x = y * columns + threadIdx.x;
    for (int b = blockIdx.y; b < k.n_samples; b += gridDim.y) {
        int64_t lo = k.first ? k.first[b] : 0, hi = k.first ? k.first[b + 1] : k.n_rows;
        double  sum[Q] = {};
        if (hi > lo && col < C) {
            int64_t last = (hi - 1) / k.per_chunk;
            for (int64_t j = lo / k.per_chunk + y; j <= last; j += lanes)
#pragma unroll
                for (int q = 0; q < Q; q++) sum[q] += (double)partial[((j + b) * Q + q) * C + col];
        }
#pragma unroll
        for (int q = 0; q < Q; q++) room[q][x] = sum[q];
        __syncthreads();
        for (int s = lanes / 2; s > 0; s /= 2) {
            if (y < s)
#pragma unroll
                for (int q = 0; q < Q; q++) room[q][x] += room[q][x + s * columns];
            __syncthreads();
        }
        if (y == 0 && col < C) {
#pragma unroll
            for (int q = 0; q < Q; q++) sum[q] = room[q][x];
            e(b, col, sum);
        }
        __syncthreads();
    }
}

/* e(b, col, sum[Q]) once for every sample, also for those without rows (sums 0), and column. */
template <int Q, class S, class E>
static inline void column_sums(ctx *c, const row_chunks &k, int64_t C, const S *partial, const E &e) {
    if (k.n_samples == 0 || C == 0) return;
    int64_t slots = k.n_chunks / k.n_samples, samples = k.n_samples < 65535 ? k.n_samples : 65535;
    /* Blocks of few columns where there are many slots, and too few columns to fill the GPU otherwise. */
    bool    narrow = slots > 128 && ceil_div(C, 32) * samples < c->cuda->multiprocessors;
    int     columns = narrow ? 8 : 32, lanes = narrow ? 128 : slots > 16 ? 32 : 8;
    column_sums_kernel<Q><<<dim3((unsigned)ceil_div(C, columns), (unsigned)samples),
                            dim3((unsigned)columns, (unsigned)lanes), 0, stream_of(c)>>>(k, C, partial, e);
    LAUNCHED(c);
}

/* Epilogues. The sums themselves [b][q][C], and sums that are added to one parameter gradient per column. */
template <int Q> struct keep_sums {
    double *out;
    int64_t C;

    __device__ void operator()(int b, int64_t col, const double (&sum)[Q]) const {
#pragma unroll
        for (int q = 0; q < Q; q++) out[((int64_t)b * Q + q) * C + col] = sum[q];
    }
};
