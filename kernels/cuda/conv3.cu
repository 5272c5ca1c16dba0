/* Submanifold 3x3x3 convolution (ops/conv3.h): which way a level takes.
 *
 *   bf16, channels in multiples of 8   dense, side 2, 4, 8: conv3_halo.cu; side 1 and masked levels: conv3_gather.cu
 *   everything else                    conv3_general.cu: f32, odd widths
 *
 * On Hopper, layers between 32 and 64 channels at dense side 4 go to conv3_tile.cu, and multiples of 64 (and 32 in, or
 * out) to conv3_wide.cu and conv3_wide_dw.cu, but for dense side 8, and for sums over neighbours at dense side 4.
 *
 * From the level above (`up`): by the 64 matrices of dev/conv_up.cuh on Hopper (conv3_wide.cu, conv3_up.cu); elsewhere
 * as on one level, with neighbours' parents in place of neighbours, and dx piece by piece for all children, whose sums
 * follow.
 *
 * Backward makes d = dy silu'(pre) and db in one pass, then dx (the same sum over neighbours) and dw. Without an
 * activation conv3_up_dw.cu makes db with dw.
 *
 * Scratch: N*O elements for d when there is an activation (a side-8 tile of 32 bf16 channels: 32 kB); the weights in
 * the kernels' order, 27 * roundup(I,64) * roundup(O,128) bf16 (at most 14 MB for 512 x 512); 8 bytes a row of a masked
 * level; at most 96 MB (or one (27,I,O) in f32, where that is more) of partial sums of dw; some 64 MB of the children's
 * dx, where it is made. */
#include "kernels/cuda/dev/conv_parts.cuh"

/* dx of so many children at once, where they are made. */
static const int64_t CHILDREN_BYTES = (int64_t)64 << 20;

/* ---- the level --------------------------------------------------------------------------------------------------- */

/* code[row] of the rows whose cells are bits of one mask word each. */
__global__ void __launch_bounds__(256) conv_codes_kernel(const conv_grid g, int64_t *code) {
    int64_t at = (int64_t)blockIdx.x * 256 + threadIdx.x, tile = at / g.words;
    if (tile >= g.n_tiles) return;
    int     word = (int)(at % g.words);
    int64_t row = g.first[tile];
    for (int w = 0; w < word; w++) row += conv_bits(g.mask[tile * g.words + w]);
    for (uint64_t m = g.mask[at]; m; m &= m - 1) code[row++] = tile << 9 | (word * 64 + __ffsll((long long)m) - 1);
}

static conv_grid level_of(ctx *c, const grid *g, bool up) {
    conv_grid o = {};
    o.up = up ? 3 : 0;
    o.side = g->side;
    o.shift = g->side == 8 ? 9 : g->side == 4 ? 6 : g->side == 2 ? 3 : 0;
    o.words = g->side == 8 ? 8 : 1;
    o.n_tiles = g->n_tiles;
    o.n_rows = g->n_rows;
    o.nb = ptr<const int32_t>(&g->nb);
    o.first = ptr<const int32_t>(&g->first);
    o.mask = ptr<const uint64_t>(&g->mask);
    CHECK(1 << o.shift == g->side * g->side * g->side, "conv3: tiles of side %d", g->side);
    if (!o.mask) return o;
    int64_t *code = (int64_t *)arena_alloc(&c->scratch, sizeof(int64_t) * (size_t)g->n_rows);
    conv_codes_kernel<<<(unsigned)ceil_div(g->n_tiles * o.words, 256), 256, 0, stream_of(c)>>>(o, code);
    LAUNCHED(c);
    o.code = code;
    return o;
}

static bool dense_from(const conv_grid *g, int side) {
    return !g->mask && g->side >= side;
}

/* The level above a dense one. */
static conv_grid level_above(const conv_grid *g) {
    conv_grid o = *g;
    o.side = g->side / 2;
    o.shift = g->shift - 3;
    o.n_rows = g->n_rows / 8;
    o.up = 0;
    return o;
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

static void sum_rows(ctx *c, const conv_sum *a) {
    size_t mark = arena_mark(&c->scratch);
    bool   fast = a->dt == DT_BF16 && a->Cin % 8 == 0 && a->Cout % 8 == 0 && aligned16(a->x, a->pre, a->y);
    if (!fast)
        conv_general_rows(c, a);
    else if (a->g.up) {
        conv_sum s = *a;
        s.g = level_above(&a->g);
        if (a->g.mask || (!conv_wide_children(c, &s) && !conv_up_children(c, &s))) conv_gather_rows(c, a);
    } else if (!conv_tile_rows(c, a) && (dense_from(&a->g, 4) || !conv_wide_rows(c, a)) &&
               (!dense_from(&a->g, 2) || !conv_halo_rows(c, a)))
        conv_gather_rows(c, a);
    arena_reset(&c->scratch, mark);
}

extern "C" void conv3_fwd_cuda(ctx *c, const conv3_args *a) {
    int64_t I = a->w->dim[1], O = a->w->dim[2];
    if (a->g->n_rows == 0 || O == 0) return;
    conv_sum s = {};
    s.g = level_of(c, a->g, a->up);
    s.dt = a->x->dt;
    s.Cin = I;
    s.Cout = O;
    s.x = a->x->data;
    s.w = a->w->data;
    s.k_step = I * O;
    s.ci_step = O;
    s.co_step = 1;
    s.bias = ptr<const float>(a->b);
    s.act = a->act;
    s.pre = a->act == ACT_NONE ? NULL : a->pre->data;
    s.y = a->y->data;
    sum_rows(c, &s);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* dx[r] = sum_k d[r + d(k)] w_(26-k)^T */
static void input_gradient(ctx *c, const conv_grid *g, const conv3_args *a, const void *d) {
    int64_t  I = a->w->dim[1], O = a->w->dim[2];
    conv_sum s = {};
    s.g = *g;
    s.dt = a->x->dt;
    s.Cin = O;
    s.Cout = I;
    s.x = d;
    s.w = (const char *)a->w->data + (size_t)(26 * I * O) * dtype_size(s.dt);
    s.k_step = -I * O;
    s.ci_step = 1;
    s.co_step = O;
    s.act = ACT_NONE;
    s.y = a->dx->data;
    sum_rows(c, &s);
}

/* The same, of the level above. */
static void parent_gradient(ctx *c, const conv_grid *g, const conv3_args *a, const void *d) {
    size_t   mark = arena_mark(&c->scratch), item = dtype_size(a->x->dt);
    int64_t  I = a->w->dim[1], O = a->w->dim[2], cells = (int64_t)1 << g->shift;
    conv_sum s = {};
    s.g = level_above(g);
    s.dt = a->x->dt;
    s.Cin = O;
    s.Cout = I;
    s.x = d;
    s.w = a->w->data;
    s.k_step = I * O;
    s.ci_step = 1;
    s.co_step = O;
    s.act = ACT_NONE;
    s.y = a->dx->data;
    bool fast = s.dt == DT_BF16 && !g->mask && aligned16(s.x, s.y);
    if (fast && (conv_wide_parents(c, &s) || conv_up_parents(c, &s))) {
        arena_reset(&c->scratch, mark);
        return;
    }
    /* Tiles of a dense level are alike: some of them are a level, whose neighbours lie outside. */
    int64_t at_once = g->mask ? g->n_tiles : CHILDREN_BYTES / (cells * I * (int64_t)item) + 1;
    for (int64_t t = 0; t < g->n_tiles; t += at_once) {
        size_t     piece = arena_mark(&c->scratch);
        int64_t    n = g->n_tiles - t < at_once ? g->n_tiles - t : at_once, rows = g->mask ? g->n_rows : n * cells;
        conv3_args b = *a;
        conv_grid  some = *g;
        int64_t    dims[2] = {rows, I};
        tensor     dx = arena_tensor(&c->scratch, s.dt, dims, 2);
        tensor     sum = tensor_rows(a->dx, t * cells / 8, t * cells / 8 + rows / 8);
        some.nb += 27 * t;
        some.n_tiles = n;
        some.n_rows = rows;
        some.up = 0;
        b.dx = &dx;
        input_gradient(c, &some, &b, d);
        subdivide_args up = {};
        up.dy = &dx;
        up.dx = &sum;
        subdivide_bwd_cuda(c, &up);
        arena_reset(&c->scratch, piece);
    }
}

static bool on_tensor_cores(const conv_dw *s) {
    return s->dt == DT_BF16 && s->I % 8 == 0 && s->O % 8 == 0 && aligned16(s->x, s->d);
}

static conv_dw dw_of(const conv_grid *g, const conv3_args *a, const void *d) {
    conv_dw s = {};
    s.g = *g;
    s.dt = a->x->dt;
    s.I = a->w->dim[1];
    s.O = a->w->dim[2];
    s.x = a->x->data;
    s.d = d;
    s.dw = ptr<float>(a->dw);
    return s;
}

/* db comes with dw. */
static bool db_with_dw(const ctx *c, const conv_grid *g, const conv3_args *a) {
    if (!g->up || g->mask || a->act != ACT_NONE || !tensor_given(a->dw) || !tensor_given(a->db)) return false;
    conv_grid above = level_above(g);
    conv_dw   s = dw_of(&above, a, a->dy->data);
    return on_tensor_cores(&s) && conv_up_makes_db(c, &s);
}

static void weight_gradient(ctx *c, const conv_grid *g, const conv3_args *a, const void *d, float *db) {
    size_t  mark = arena_mark(&c->scratch);
    conv_dw s = dw_of(g, a, d);
    if (!on_tensor_cores(&s))
        conv_general_dw(c, &s);
    else if (g->up) {
        conv_dw u = s;
        u.g = level_above(g);
        u.db = db;
        if (g->mask || (!conv_wide_up_dw(c, &u) && !conv_up_dw(c, &u))) conv_gather_dw(c, &s);
    } else if (!conv_tile_dw(c, &s) && (dense_from(g, 8) || !conv_wide_dw(c, &s)) &&
               (!dense_from(g, 2) || !conv_halo_dw(c, &s)))
        conv_gather_dw(c, &s);
    arena_reset(&c->scratch, mark);
}

extern "C" void conv3_bwd_cuda(ctx *c, const conv3_args *a) {
    int64_t N = a->g->n_rows, O = a->w->dim[2];
    if (N == 0 || O == 0) return;
    conv_grid g = level_of(c, a->g, a->up);
    dact_args s = {};
    s.act = a->act;
    s.dy = a->dy->data;
    s.pre = a->act == ACT_NONE ? NULL : a->pre->data;
    s.dt = s.d_dt = a->dy->dt;
    if (a->act != ACT_NONE) s.d = arena_alloc(&c->scratch, (size_t)(N * O) * dtype_size(s.dt));
    float *db = tensor_given(a->db) ? ptr<float>(a->db) : NULL;
    bool   later = db_with_dw(c, &g, a);
    s.db = later ? NULL : db;
    s.rows = N;
    s.width = O;
    dact_run(c, &s);
    const void *d = a->act == ACT_NONE ? a->dy->data : s.d;
    if (tensor_given(a->dx)) {
        if (a->up)
            parent_gradient(c, &g, a, d);
        else
            input_gradient(c, &g, a, d);
    }
    if (tensor_given(a->dw)) weight_gradient(c, &g, a, d, later ? db : NULL);
}
