/* y = x + table[index[n]] and the gradient of the table (ops/elementwise.h).
 *
 * Backward sums the rows of each index in a fixed order, without atomics: a stable radix sort brings the rows of an
 * index together, which makes the indices the samples of a row pass over the sorted order. */
#include "kernels/cuda/dev/row_pass.cuh"

#include <cub/device/device_radix_sort.cuh>

template <class T, int V_> struct table_forward {
    static constexpr int V = V_, Q = 0, UNROLL = 2;
    typedef float        sum_t;
    struct column {};
    struct in {
        pack<T, V> x;
        float      add[V];
    };
    const T       *x;
    const float   *table;
    const int32_t *index;
    T             *y;
    int64_t        C;

    __device__ void begin(int, int64_t, column &) const {}
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.x = load_raw<T, V>(x + n * C + col);
        load_vec<float, V>(table + index[n] * C + col, r.add);
    }
    __device__ void use(int64_t n, int64_t col, const column &, const in &r, float (&)[1][V]) const {
        float v[V];
#pragma unroll
        for (int i = 0; i < V; i++) v[i] = to_float(r.x.v[i]) + r.add[i];
        store_vec<T, V>(y + n * C + col, v);
    }
};

template <class T, int V_> struct ordered_sums {
    static constexpr int V = V_, Q = 1, UNROLL = 4;
    typedef float        sum_t;
    struct column {};
    struct in {
        pack<T, V> dy;
    };
    const T       *dy;
    const int32_t *order;
    int64_t        C;

    __device__ void begin(int, int64_t, column &) const {}
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
        r.dy = load_raw<T, V>(dy + order[n] * C + col);
    }
    __device__ void use(int64_t, int64_t, const column &, const in &r, float (&sum)[1][V]) const {
#pragma unroll
        for (int i = 0; i < V; i++) sum[0][i] += to_float(r.dy.v[i]);
    }
};

struct table_gradient {
    float  *dtable;
    int64_t C;

    __device__ void operator()(int k, int64_t col, const double (&sum)[1]) const {
        dtable[k * C + col] = (float)(dtable[k * C + col] + sum[0]);
    }
};

static __global__ void row_numbers_kernel(int32_t *row, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) row[i] = i;
}

/* first[k] = number of keys below k, for k = 0..K; keys (n) ascending. */
static __global__ void key_starts_kernel(const int32_t *keys, int n, int K, int32_t *first) {
    int k = blockIdx.x * blockDim.x + threadIdx.x;
    if (k > K) return;
    int lo = 0, hi = n;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        if (keys[mid] < k)
            lo = mid + 1;
        else
            hi = mid;
    }
    first[k] = lo;
}

/* order (N): the rows by index, those of one index ascending. first (K+1): where each index starts. */
static void sort_rows(ctx *c, const int32_t *index, int N, int K, int32_t *order, int32_t *first) {
    int32_t *rows = (int32_t *)arena_alloc(&c->scratch, sizeof(int32_t) * (size_t)N);
    int32_t *keys = (int32_t *)arena_alloc(&c->scratch, sizeof(int32_t) * (size_t)N);
    size_t   bytes = 0;
    int      bits = 1;
    while (bits < 31 && K > 1 << bits) bits++;
    CUDA_DO(cub::DeviceRadixSort::SortPairs(NULL, bytes, index, keys, rows, order, N, 0, bits, stream_of(c)));
    void *room = arena_alloc(&c->scratch, bytes);
    row_numbers_kernel<<<(unsigned)ceil_div(N, 256), 256, 0, stream_of(c)>>>(rows, N);
    LAUNCHED(c);
    CUDA_DO(cub::DeviceRadixSort::SortPairs(room, bytes, index, keys, rows, order, N, 0, bits, stream_of(c)));
    key_starts_kernel<<<(unsigned)ceil_div(K + 1, 128), 128, 0, stream_of(c)>>>(keys, N, K, first);
    LAUNCHED(c);
}

template <class T> static void forward(ctx *c, const add_table_args *a) {
    int64_t      N = a->x->dim[0], C = a->x->dim[1];
    const T     *x = ptr<const T>(a->x);
    const float *table = ptr<const float>(a->table);
    T           *y = ptr<T>(a->y);
    BY_WIDTH(T, wide_rows<T>(C, x, table, y), V, table_forward<T, V> f = {x, table, ptr<const int32_t>(a->index), y, C};
             row_pass(c, f, N, C, NULL));
}

template <class T> static void backward(ctx *c, const add_table_args *a) {
    int64_t        N = a->dy->dim[0], C = a->dy->dim[1], K = a->dtable->dim[0];
    const T       *dy = ptr<const T>(a->dy);
    table_gradient e = {ptr<float>(a->dtable), C};
    row_chunks     k;
    float         *partial;
    if (N * C == 0) return;
    CHECK(N < INT32_MAX && K < INT32_MAX, "add_table: %lld rows, %lld table rows", (long long)N, (long long)K);
    int32_t *order = (int32_t *)arena_alloc(&c->scratch, sizeof(int32_t) * (size_t)N);
    int32_t *first = (int32_t *)arena_alloc(&c->scratch, sizeof(int32_t) * (size_t)(K + 1));
    sort_rows(c, ptr<const int32_t>(a->index), (int)N, (int)K, order, first);
    tensor starts = *a->index;
    starts.data = first;
    starts.dim[0] = K + 1;
    BY_WIDTH(T, wide_rows<T>(C, dy), V, ordered_sums<T, V> f = {dy, order, C};
             row_pass(c, f, N, C, &starts, &k, &partial));
    column_sums<1>(c, k, C, partial, e);
}

extern "C" void add_table_fwd_cuda(ctx *c, const add_table_args *a) {
    BY_ACT(a->x->dt, T, forward<T>(c, a));
}
extern "C" void add_table_bwd_cuda(ctx *c, const add_table_args *a) {
    BY_ACT(a->dy->dt, T, backward<T>(c, a));
}
