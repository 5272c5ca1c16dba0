/* Rows of the sparse ops. Shape: one sample whose tokens are a spherical shell, as objects are; `radius` in tokens. */
#include "app/bench_rows.h"
#include "sparse/blocks.h"

#include <string.h>

#define F 4.0

/* Coordinates of all cells whose distance from the centre is within half a cell and a bit of `radius`, block-sorted. */
static tensor shell(bench_case *b, int radius, int block, tensor *first) {
    int64_t n = 0;
    tensor  coord = {0};
    for (int pass = 0; pass < 2; pass++) {
        if (pass) coord = arena_tensor(&b->memory, DT_I32, DIMS(n, 3));
        n = 0;
        for (int x = -radius - 1; x <= radius + 1; x++)
            for (int y = -radius - 1; y <= radius + 1; y++)
                for (int z = -radius - 1; z <= radius + 1; z++) {
                    int d2 = x * x + y * y + z * z;
                    if (d2 < (radius - 1) * (radius - 1) || d2 >= radius * radius) continue;
                    if (pass) {
                        I32(&coord)[3 * n] = x + radius + 1;
                        I32(&coord)[3 * n + 1] = y + radius + 1;
                        I32(&coord)[3 * n + 2] = z + radius + 1;
                    }
                    n++;
                }
    }
    *first = arena_tensor(&b->memory, DT_I32, DIMS(2));
    I32(first)[0] = 0;
    I32(first)[1] = (int32_t)n;
    int32_t *order = arena_alloc(&b->memory, (size_t)n * sizeof *order);
    tensor   sorted = arena_tensor(&b->memory, DT_I32, DIMS(n, 3));
    blocks_sort(I32(&coord), I32(first), 1, block, order);
    for (int64_t i = 0; i < n; i++) memcpy(I32(&sorted) + 3 * i, I32(&coord) + 3 * order[i], 3 * sizeof(int32_t));
    return sorted;
}

/* s: radius in tiles, cells per tile edge, channels in, channels out */
static void conv3(bench_case *b, const int *s, bool bwd) {
    tensor  first, coord = shell(b, s[0], 8, &first);
    grid   *g = arena_alloc(&b->memory, sizeof *g);
    tensor *nb = arena_alloc(&b->memory, sizeof *nb);
    *nb = tiles_neighbors(&b->memory, &coord, &first);
    *g = grid_dense(&b->memory, s[1], nb, &first);
    int64_t     n = g->n_rows;
    conv3_args *a = &b->args.conv3;
    *a = (conv3_args){
        .g = g, .x = bench_in(b, DIMS(n, s[2])), .w = bench_in(b, DIMS(27, s[2], s[3])), .b = bench_in(b, DIMS(s[3]))};
    int32_t *neighbors = arena_alloc(&b->memory, (size_t)n * 27 * sizeof *neighbors);
    double   pairs = 0;
    grid_neighbors(g, 0, n, neighbors);
    for (int64_t i = 0; i < 27 * n; i++) pairs += neighbors[i] >= 0;
    b->flops = (bwd ? 4 : 2) * pairs * s[2] * s[3];
    b->bytes = F * (double)n * (bwd ? 2 * s[2] + s[3] : s[2] + s[3]);
    if (!bwd) {
        a->y = bench_out(b, DT_F32, DIMS(n, s[3]));
        return;
    }
    a->dy = bench_in(b, DIMS(n, s[3]));
    a->dx = bench_out(b, DT_F32, DIMS(n, s[2]));
    a->dw = bench_out(b, DT_F32, DIMS(27, s[2], s[3]));
    a->db = bench_out(b, DT_F32, DIMS(s[3]));
}
static void conv3_f(bench_case *b, const int *s) {
    conv3(b, s, false);
}
static void conv3_b(bench_case *b, const int *s) {
    conv3(b, s, true);
}

/* s: parents, members of each, channels */
static void pool(bench_case *b, const int *s, bool bwd) {
    pool_args *a = &b->args.pool;
    int64_t    n = (int64_t)s[0] * s[1];
    *a = (pool_args){.x = bench_in(b, DIMS(n, s[2])), .first = bench_first(b, n, s[0]), .add_one = true};
    if (!bwd) {
        a->y = bench_out(b, DT_F32, DIMS(s[0], s[2]));
    } else {
        a->dy = bench_in(b, DIMS(s[0], s[2]));
        a->dx = bench_out(b, DT_F32, DIMS(n, s[2]));
    }
    b->bytes = F * (double)(n + s[0]) * s[2];
}
static void pool_f(bench_case *b, const int *s) {
    pool(b, s, false);
}
static void pool_b(bench_case *b, const int *s) {
    pool(b, s, true);
}

static void subdivide_f(bench_case *b, const int *s) {
    b->args.subdivide =
        (subdivide_args){.x = bench_in(b, DIMS(s[0], s[1])), .y = bench_out(b, DT_F32, DIMS(8 * s[0], s[1]))};
    b->bytes = 9 * F * s[0] * s[1];
}
static void subdivide_b(bench_case *b, const int *s) {
    b->args.subdivide =
        (subdivide_args){.dy = bench_in(b, DIMS(8 * s[0], s[1])), .dx = bench_out(b, DT_F32, DIMS(s[0], s[1]))};
    b->bytes = 9 * F * s[0] * s[1];
}

/* s: rows, segments, heads, key heads, width */
static void segment(bench_case *b, const int *s, bool bwd) {
    attn_segment_args *a = &b->args.segment;
    *a = (attn_segment_args){.q = bench_in(b, DIMS(s[0], s[2], s[4])),
                             .k = bench_in(b, DIMS(s[0], s[3], s[4])),
                             .v = bench_in(b, DIMS(s[0], s[3], s[4])),
                             .q_first = bench_first(b, s[0], s[1]),
                             .k_first = bench_first(b, s[0], s[1]),
                             .scale = 0.25f,
                             .out = bench_out(b, DT_F32, DIMS(s[0], s[2], s[4])),
                             .lse = bench_out(b, DT_F32, DIMS(s[0], s[2]))};
    double pairs = (double)s[0] * s[0] / s[1] * s[2];
    b->flops = (bwd ? 10 : 4) * pairs * s[4];
    b->bytes = F * (double)s[0] * s[4] * (bwd ? 4 * s[2] + 4 * s[3] : 2 * s[2] + 2 * s[3]);
    if (!bwd) return;
    attn_segment_fwd(b->prepare, a);
    b->n_out = 0;
    a->dout = bench_in(b, DIMS(s[0], s[2], s[4]));
    a->dq = bench_out(b, DT_F32, DIMS(s[0], s[2], s[4]));
    a->dk = bench_out(b, DT_F32, DIMS(s[0], s[3], s[4]));
    a->dv = bench_out(b, DT_F32, DIMS(s[0], s[3], s[4]));
}
static void segment_f(bench_case *b, const int *s) {
    segment(b, s, false);
}
static void segment_b(bench_case *b, const int *s) {
    segment(b, s, true);
}

/* SSA tables over a shell. s: radius, heads, key heads, width, blocks chosen; blocks of 4 for compression, 8 for
 * selection. Prepares the compression log-sum-exp that the scores need. */
static block_tables *ssa(bench_case *b, const int *s) {
    tensor        first, coord = shell(b, s[0], 8, &first);
    block_tables *t = arena_alloc(&b->memory, sizeof *t);
    *t = blocks_build(&b->memory, &coord, &first, 4, 8, false);
    int64_t          n = t->n_tokens, m = t->n_cmp;
    topk_blocks_args k = {
        .q = bench_in(b, DIMS(n, s[1], s[3])), .ck = bench_in(b, DIMS(m, s[2], s[3])), .scale = 0.25f};
    attn_segment_args c = {.q = k.q,
                           .k = k.ck,
                           .v = k.ck,
                           .q_first = &t->sample_first,
                           .k_first = &t->cmp_sample_first,
                           .scale = 0.25f,
                           .out = bench_out(b, DT_F32, DIMS(n, s[1], s[3])),
                           .lse = bench_out(b, DT_F32, DIMS(n, s[1]))};
    attn_segment_fwd(b->prepare, &c);
    b->n_out = 0;
    k.lse = c.lse;
    k.sample_first = &t->sample_first;
    k.cmp_sample_first = &t->cmp_sample_first;
    k.slc_sample_first = &t->slc_sample_first;
    k.slc_cmp_first = &t->slc_cmp_first;
    k.block = bench_out(b, DT_I32, DIMS(s[2], n, s[4]));
    b->args.topk = k;
    return t;
}

static void topk(bench_case *b, const int *s) {
    block_tables *t = ssa(b, s);
    b->flops = 2.0 * (double)t->n_tokens * (double)t->n_cmp * s[1] * s[3];
    b->bytes = F * (double)t->n_tokens * (s[1] * s[3] + s[2] * s[4]);
}

static void choose(bench_case *b, const int *s, bool bwd) {
    block_tables  *t = ssa(b, s);
    const tensor  *q = b->args.topk.q, *block = b->args.topk.block;
    const int32_t *first = I32(&t->slc_first);
    int64_t        n = t->n_tokens;
    double         pairs = 0;
    topk_blocks_fwd(b->prepare, &b->args.topk);
    b->n_out = 0;
    for (int64_t i = 0; i < tensor_count(block); i++) {
        int32_t m = I32(block)[i];
        if (m >= 0) pairs += (double)(first[m + 1] - first[m]) * s[1] / s[2];
    }
    attn_select_args *a = &b->args.select;
    *a = (attn_select_args){.q = q,
                            .k = bench_in(b, DIMS(n, s[2], s[3])),
                            .v = bench_in(b, DIMS(n, s[2], s[3])),
                            .block = block,
                            .first = &t->slc_first,
                            .scale = 0.25f,
                            .out = bench_out(b, DT_F32, DIMS(n, s[1], s[3])),
                            .lse = bench_out(b, DT_F32, DIMS(n, s[1]))};
    b->flops = (bwd ? 10 : 4) * pairs * s[3];
    b->bytes = F * (double)n * s[3] * (bwd ? 4 * s[1] + 4 * s[2] : 2 * s[1] + 2 * s[2]);
    if (!bwd) return;
    attn_select_fwd(b->prepare, a);
    b->n_out = 0;
    a->dout = bench_in(b, DIMS(n, s[1], s[3]));
    a->dq = bench_out(b, DT_F32, DIMS(n, s[1], s[3]));
    a->dk = bench_out(b, DT_F32, DIMS(n, s[2], s[3]));
    a->dv = bench_out(b, DT_F32, DIMS(n, s[2], s[3]));
}
static void select_f(bench_case *b, const int *s) {
    choose(b, s, false);
}
static void select_b(bench_case *b, const int *s) {
    choose(b, s, true);
}

#define ROW(op, setup, text, ...)                                                                                      \
    { #op, BENCH_FN(op), setup, {__VA_ARGS__ }, text }
const bench_row bench_rows_sparse[] = {
    ROW(conv3_fwd, conv3_f, "radius side I O", 5, 4, 32, 32),
    ROW(conv3_fwd, conv3_f, "radius side I O", 12, 1, 64, 64),
    ROW(conv3_bwd, conv3_b, "radius side I O", 5, 4, 32, 32),
    ROW(pool_fwd, pool_f, "P members C", 4096, 8, 64),
    ROW(pool_bwd, pool_b, "P members C", 4096, 8, 64),
    ROW(subdivide_fwd, subdivide_f, "N C", 4096, 64),
    ROW(subdivide_bwd, subdivide_b, "N C", 4096, 64),
    ROW(attn_segment_fwd, segment_f, "N segments H G D", 2048, 16, 8, 2, 32),
    ROW(attn_segment_fwd, segment_f, "N segments H G D", 1024, 1, 4, 4, 64),
    ROW(attn_segment_bwd, segment_b, "N segments H G D", 2048, 16, 8, 2, 32),
    ROW(topk_blocks_fwd, topk, "radius H G D K", 14, 8, 2, 32, 8),
    ROW(attn_select_fwd, select_f, "radius H G D K", 14, 8, 2, 32, 8),
    ROW(attn_select_bwd, select_b, "radius H G D K", 14, 8, 2, 32, 8),
    {0},
};
