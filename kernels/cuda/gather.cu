/* y[n] = x[index[n]], and backward dx[index[n]] = dy[n] with zeros elsewhere (ops/elementwise.h). No index comes twice.
 */
#include "kernels/cuda/dev/row_pass.cuh"

template <class T, int V_, bool SCATTER> struct indexed_rows {
    static constexpr int V = V_, Q = 0, UNROLL = 4;
    typedef float        sum_t;
    struct column {};
    struct in {
        pack<T, V> x;
        int64_t    to;
    };
    const T       *from;
    const int32_t *index;
    T             *to;
    int64_t        C;

    __device__ void begin(int, int64_t, column &) const {}
    __device__ void load(int64_t n, int64_t col, const column &, in &r) const {
        int64_t other = index[n];
        r.x = load_raw<T, V>(from + (SCATTER ? n : other) * C + col);
        r.to = SCATTER ? other : n;
    }
    __device__ void use(int64_t, int64_t col, const column &, const in &r, float (&)[1][V]) const {
        store_raw<T, V>(to + r.to * C + col, r.x);
    }
};

template <class T, bool SCATTER> static void move_rows(ctx *c, const tensor *from, const tensor *index, tensor *to) {
    int64_t        N = index->dim[0], C = from->dim[1];
    const T       *x = ptr<const T>(from);
    const int32_t *i = ptr<const int32_t>(index);
    T             *y = ptr<T>(to);
    BY_WIDTH(T, wide_rows<T>(C, x, y), V, indexed_rows<T, V, SCATTER> f = {x, i, y, C}; row_pass(c, f, N, C, NULL));
}

extern "C" void gather_rows_fwd_cuda(ctx *c, const gather_rows_args *a) {
    BY_ACT(a->x->dt, T, move_rows<T, false>(c, a->x, a->index, a->y));
}
extern "C" void gather_rows_bwd_cuda(ctx *c, const gather_rows_args *a) {
    if (tensor_bytes(a->dx) > 0) CUDA_DO(cudaMemsetAsync(a->dx->data, 0, tensor_bytes(a->dx), stream_of(c)));
    BY_ACT(a->dy->dt, T, move_rows<T, true>(c, a->dy, a->index, a->dx));
}
