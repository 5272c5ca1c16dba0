/* y = act(x) and dx = dy act'(x) (ops/act.h): one pass, bound by memory. */
#include "kernels/cuda/dev/act.cuh"
#include "kernels/cuda/dev/vec.cuh"

template <class T, int A> struct act_forward {
    const T *x;
    T       *y;

    template <int V> __device__ void at(int64_t i) const {
        float v[V];
        load_vec<T, V>(x + i, v);
#pragma unroll
        for (int j = 0; j < V; j++) v[j] = act_value<A, T>(v[j]);
        store_vec<T, V>(y + i, v);
    }
};

template <class T, int A> struct act_backward {
    const T *x, *dy;
    T       *dx;

    template <int V> __device__ void at(int64_t i) const {
        float v[V], g[V];
        load_vec<T, V>(x + i, v);
        load_vec<T, V>(dy + i, g);
#pragma unroll
        for (int j = 0; j < V; j++) v[j] = g[j] * act_slope<A, T>(v[j]);
        store_vec<T, V>(dx + i, v);
    }
};

template <class T> static void forward(ctx *c, const act_args *a) {
    const T *x = ptr<const T>(a->x);
    T       *y = ptr<T>(a->y);
    BY_KIND(a->act, A, act_forward<T, A> f = {x, y};
            BY_WIDTH(T, aligned16(x, y), V, flat_pass<V>(c, tensor_count(a->x), f)));
}

template <class T> static void backward(ctx *c, const act_args *a) {
    const T *x = ptr<const T>(a->x), *dy = ptr<const T>(a->dy);
    T       *dx = ptr<T>(a->dx);
    BY_KIND(a->act, A, act_backward<T, A> f = {x, dy, dx};
            BY_WIDTH(T, aligned16(x, dy, dx), V, flat_pass<V>(c, tensor_count(a->x), f)));
}

extern "C" void act_fwd_cuda(ctx *c, const act_args *a) {
    BY_ACT(a->x->dt, T, forward<T>(c, a));
}
extern "C" void act_bwd_cuda(ctx *c, const act_args *a) {
    BY_ACT(a->x->dt, T, backward<T>(c, a));
}
