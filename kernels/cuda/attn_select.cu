/* Attention over selected blocks (ops/attn_select.h): entries. How it works: dev/select_attn.cuh and the files named
 * there. */
#include "kernels/cuda/dev/select_attn.cuh"

static select_view view_of(const attn_select_args *a) {
    select_view v = {};
    v.q = a->q->data, v.k = a->k->data, v.v = a->v->data, v.o = v.out = a->out->data;
    v.lse = ptr<float>(a->lse), v.block = ptr<int32_t>(a->block), v.first = ptr<int32_t>(a->first);
    v.N = a->q->dim[0], v.H = (int)a->q->dim[1], v.D = (int)a->q->dim[2], v.G = (int)a->k->dim[1];
    v.hs = v.H / v.G, v.K = (int)a->block->dim[2], v.NB = (int)a->first->dim[0] - 1, v.scale = a->scale;
    CHECK(v.N * v.H < INT32_MAX && v.N * v.G * v.K < INT32_MAX && v.N + 16 * (int64_t)v.NB < INT32_MAX,
          "attn_select: %lld queries of %d heads that choose %d of %d blocks are too many", (long long)v.N, v.H, v.K,
          v.NB);
    CHECK(v.D <= 128, "attn_select: heads of %d columns, the CUDA form has room for 128", v.D);
    return v;
}

static bool in_chunks(const void *p) {
    return (uintptr_t)p % 16 == 0;
}
/* The form with tensor cores has its rows in 16-byte chunks, and takes the largest product for the largest score. */
static bool has_tiles(const attn_select_args *a, const select_view &v) {
    return a->q->dt == DT_BF16 && v.D % 8 == 0 && v.scale > 0 && in_chunks(v.q) && in_chunks(v.k) && in_chunks(v.v) &&
           in_chunks(v.out);
}

extern "C" void attn_select_fwd_cuda(ctx *c, const attn_select_args *a) {
    if (a->q->dim[0] == 0) return;
    select_view v = view_of(a);
    if (has_tiles(a, v))
        select_tiles_fwd(c, v);
    else
        BY_ACT(a->q->dt, T, select_loops_fwd<T>(c, v));
}

extern "C" void attn_select_bwd_cuda(ctx *c, const attn_select_args *a) {
    if (a->q->dim[0] == 0) return;
    select_view v = view_of(a);
    v.dout = a->dout->data, v.dq = a->dq->data, v.dk = a->dk->data, v.dv = a->dv->data;
    v.given = ptr<const float2>(a->stat), v.dq_add = a->dq_add;
    bool tiles = has_tiles(a, v) && in_chunks(v.dout) && in_chunks(v.dq) && in_chunks(v.dk) && in_chunks(v.dv);
    if (tiles && v.given)
        v.stat = (float2 *)a->stat->data;
    else
        v.stat = (float2 *)arena_alloc(&c->scratch, (size_t)(v.N * v.H) * sizeof *v.stat);
    select_lists lists = select_make_lists(c, v);
    if (tiles) {
        if (!v.given) select_find_stat(c, v);
        const size_t  mark = arena_mark(&c->scratch);
        select_packed p = select_pack(c, v, true);
        select_tiles_dq(c, v, p);
        if (!select_dkv_wants_packed(c, v)) arena_reset(&c->scratch, mark); /* its place is for the sums */
        select_tiles_dkv(c, v, p, lists);
    } else
        BY_ACT(a->q->dt, T, select_loops_bwd<T>(c, v, lists));
}
