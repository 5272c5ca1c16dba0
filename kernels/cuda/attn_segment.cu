/* Attention inside segments (ops/attn_segment.h): entries. How it works: attn_segment.cuh and the files named there. */
#include "kernels/cuda/attn_segment.cuh"

template <class T> static segment_problem<T> new_problem(const attn_segment_args *a) {
    segment_problem<T> p = {};
    p.q = ptr<T>(a->q), p.k = ptr<T>(a->k), p.v = ptr<T>(a->v), p.dout = ptr<T>(a->dout);
    p.out = ptr<T>(a->out), p.dq = ptr<T>(a->dq), p.dk = ptr<T>(a->dk), p.dv = ptr<T>(a->dv);
    p.lse = ptr<float>(a->lse);
    p.q_order = ptr<int32_t>(a->q_order), p.k_order = ptr<int32_t>(a->k_order);
    p.q_first = ptr<int32_t>(a->q_first), p.k_first = ptr<int32_t>(a->k_first);
    p.scale = a->scale;
    p.H = (int)a->q->dim[1], p.G = (int)a->k->dim[1], p.hs = p.H / p.G, p.D = (int)a->q->dim[2];
    p.S = (int)(a->q_first->dim[0] - 1);
    CHECK(p.D <= 128, "attn_segment: heads of %d columns, the CUDA form has room for 128", p.D);
    p.qs = a->q_stride ? a->q_stride : (int64_t)p.H * p.D;
    p.ks = a->k_stride ? a->k_stride : (int64_t)p.G * p.D;
    p.vs = a->v_stride ? a->v_stride : (int64_t)p.G * p.D;
    p.n_keys = tensor_given(a->k_order) ? a->k_order->dim[0] : a->k->dim[0];
    p.by_hs = divisor_of((uint32_t)p.hs);
    int64_t os = (int64_t)p.H * p.D;
    p.wide = is_wide(p.q, p.qs, p.D) && is_wide(p.k, p.ks, p.D) && is_wide(p.v, p.vs, p.D) && is_wide(p.out, os, p.D) &&
             is_wide(p.dout, os, p.D) && is_wide(p.dq, p.qs, p.D) && is_wide(p.dk, p.ks, p.D) &&
             is_wide(p.dv, p.vs, p.D);
    int64_t most = ((int64_t)1 << 32) / sizeof(T) - 1;
    CHECK(p.qs <= most && p.ks <= most && p.vs <= most && os <= most, "attn_segment: rows of %lld, %lld, %lld elements",
          (long long)p.qs, (long long)p.ks, (long long)p.vs);
    p.q_bytes = (uint32_t)(p.qs * sizeof(T)), p.k_bytes = (uint32_t)(p.ks * sizeof(T));
    p.v_bytes = (uint32_t)(p.vs * sizeof(T)), p.o_bytes = (uint32_t)(os * sizeof(T));
    p.parts = 1;
    return p;
}

template <class T> static void bwd(ctx *c, const attn_segment_args *a) {
    segment_problem<T> p = new_problem<T>(a);
    int64_t            N = a->q->dim[0];
    segment_clear_unnamed(c, p, a->k->dim[0]);
    p.dq_add = a->dq_add;
    p.unscale = 1 / a->scale;
    p.given = ptr<const float2>(a->stat);
    if (p.given && sizeof(T) == 2)
        p.stat = (float2 *)a->stat->data;
    else
        p.stat = (float2 *)arena_alloc(&c->scratch, (size_t)(N * p.H) * sizeof *p.stat);
    segment_windows(c, &p, a);
    if (segment_fused(c, &p, a)) return;
    if (N > 0) segment_dq(c, &p, a);
    if (p.n_keys > 0 && p.S > 0) segment_dkv(c, &p, a);
}

extern "C" void attn_segment_fwd_cuda(ctx *c, const attn_segment_args *a) {
    if (a->q->dim[0] == 0) return;
    BY_ACT(a->q->dt, T, segment_problem<T> p = new_problem<T>(a); segment_fwd(c, &p, a));
}

extern "C" void attn_segment_bwd_cuda(ctx *c, const attn_segment_args *a) {
    BY_ACT(a->q->dt, T, bwd<T>(c, a));
}
