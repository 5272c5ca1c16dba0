/* Rows of attention: segments, windows, and the branches of SSA. One sample whose tokens are a spherical shell, as
 * objects are (bench_shell.h), or a shape that is given. */
#include "app/bench_rows.h"
#include "app/bench_shell.h"
#include "sparse/blocks.h"

#include <math.h>
#include <string.h>

tensor bench_tokens(bench_case *b, int n, int block, tensor *first, double *radius, int *edge) {
    tensor coord = arena_tensor(&b->memory, DT_I32, DIMS(n, 3));
    *edge = shell_edge(n);
    if (b->coord)
        memcpy(coord.data, b->coord->data, tensor_bytes(&coord));
    else
        *radius = shell_cells(n, *edge, block, I32(&coord));
    *first = arena_tensor(&b->memory, DT_I32, DIMS(2));
    I32(first)[0] = 0;
    I32(first)[1] = n;
    return coord;
}

/* What a gate of weight 1/2 leaves for the backward of a branch. */
static const tensor *gated_stat(bench_case *b, const tensor *lse, const tensor *out, const tensor *dout) {
    tensor *stat = bench_in(b, DIMS(out->dim[0], out->dim[1], 2));
    int64_t D = out->dim[2];
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < out->dim[0] * out->dim[1]; r++) {
        double dot = 0;
        for (int64_t d = r * D; d < (r + 1) * D; d++) dot += (double)F32(out)[d] * (double)F32(dout)[d];
        F32(stat)[2 * r] = (float)(1.44269504088896340736 * (double)F32(lse)[r] + 1);
        F32(stat)[2 * r + 1] = (float)-dot;
    }
    return stat;
}

/* Whose backward it is: of an attention of its own, or of a branch of SSA, whose dq is the first or is added. */
typedef enum { OF_ITSELF, OF_BRANCH, OF_BRANCH_ADD } whose;

/* Outputs of an attention whose inputs are there; for the backward after a forward. */
static void finish_segment(bench_case *b, double pairs, bool bwd, whose of) {
    attn_segment_args *a = &b->args.segment;
    a->out = bench_out(b, DT_F32, a->q->dim, 3);
    a->lse = bench_out(b, DT_F32, a->q->dim, 2);
    b->flops = (bwd ? 10 : 4) * pairs * (double)a->q->dim[2];
    if (!bwd) return;
    attn_segment_fwd(b->prepare, a);
    b->n_out = 0;
    a->dout = bench_in(b, a->q->dim, 3);
    if (of != OF_ITSELF) a->stat = gated_stat(b, a->lse, a->out, a->dout);
    a->dq_add = of == OF_BRANCH_ADD;
    a->dq = bench_out(b, DT_F32, a->q->dim, 3);
    a->dk = bench_out(b, DT_F32, a->k->dim, 3);
    a->dv = bench_out(b, DT_F32, a->k->dim, 3);
}

/* s: rows, segments, heads, key heads, width */
static void segment(bench_case *b, const int *s, bool bwd) {
    b->args.segment = (attn_segment_args){.q = bench_in(b, DIMS(s[0], s[2], s[4])),
                                          .k = bench_in(b, DIMS(s[0], s[3], s[4])),
                                          .v = bench_in(b, DIMS(s[0], s[3], s[4])),
                                          .q_first = bench_first(b, s[0], s[1]),
                                          .k_first = bench_first(b, s[0], s[1]),
                                          .scale = (float)(1 / sqrt(s[4]))};
    finish_segment(b, (double)s[0] * s[0] / s[1] * s[2], bwd, OF_ITSELF);
}
static void segment_f(bench_case *b, const int *s) {
    segment(b, s, false);
}
static void segment_b(bench_case *b, const int *s) {
    segment(b, s, true);
}

/* s: tokens, window edge in tokens, shift, heads, key heads, width */
static void window(bench_case *b, const int *s, bool bwd, whose of) {
    double         radius, pairs = 0;
    int            edge;
    tensor         first, coord = bench_tokens(b, s[0], 8, &first, &radius, &edge);
    window_tables *w = arena_alloc(&b->memory, sizeof *w);
    *w = windows_build(&b->memory, &coord, &first, s[1], s[2], true, 8);
    const tensor *order = w->order.data ? &w->order : NULL;
    for (int64_t i = 0; i < w->n_windows; i++) {
        double n = I32(&w->first)[i + 1] - I32(&w->first)[i];
        pairs += n * n * s[3];
    }
    attn_segment_args *a = &b->args.segment;
    *a = (attn_segment_args){.q = bench_in(b, DIMS(s[0], s[3], s[5])),
                             .k = bench_in(b, DIMS(s[0], s[4], s[5])),
                             .v = bench_in(b, DIMS(s[0], s[4], s[5])),
                             .q_first = &w->first,
                             .k_first = &w->first,
                             .q_order = order,
                             .k_order = order,
                             .scale = (float)(1 / sqrt(s[5]))};
    finish_segment(b, pairs, bwd, of);
}
static void window_f(bench_case *b, const int *s) {
    window(b, s, false, OF_ITSELF);
}
static void window_b(bench_case *b, const int *s) {
    window(b, s, true, OF_ITSELF);
}

/* s: queries, keys, heads, key heads, width; one segment: condition tokens, or compressed blocks */
static void cross(bench_case *b, const int *s, bool bwd) {
    b->args.segment = (attn_segment_args){.q = bench_in(b, DIMS(s[0], s[2], s[4])),
                                          .k = bench_in(b, DIMS(s[1], s[3], s[4])),
                                          .v = bench_in(b, DIMS(s[1], s[3], s[4])),
                                          .q_first = bench_first(b, s[0], 1),
                                          .k_first = bench_first(b, s[1], 1),
                                          .scale = (float)(1 / sqrt(s[4]))};
    finish_segment(b, (double)s[0] * s[1] * s[2], bwd, OF_ITSELF);
}
static void cross_f(bench_case *b, const int *s) {
    cross(b, s, false);
}
static void cross_b(bench_case *b, const int *s) {
    cross(b, s, true);
}

/* Adds 2^0.5 amp cos(w_d <u_d, position> + phase_d) to column d of every head: rows that lie near each other get a
 * large product, as in trained models, whose neighbouring queries choose similar blocks. position: (n,3). */
static void add_places(tensor *x, const float *position, float amp) {
    int64_t n = x->dim[0], heads = x->dim[1], width = x->dim[2];
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        for (int64_t d = 0; d < width; d++) { /* directions spread over the sphere */
            const float *p = position + 3 * i;
            float phase = 2.39996f * (float)d, z = 2 * ((float)d + 0.5f) / (float)width - 1, r = sqrtf(1 - z * z);
            float along = r * cosf(phase) * p[0] + r * sinf(phase) * p[1] + z * p[2];
            float s = 1.41421356f * amp * cosf(0.2f * along + 7 * phase);
            for (int64_t h = 0; h < heads; h++) F32(x)[(i * heads + h) * width + d] += s;
        }
}

/* SSA tables over a shell. s: tokens, heads, key heads, width, blocks chosen, edge of a compression block, 1: queries
 * and blocks know where they are, 0: all rows are noise and every query chooses for itself; selection blocks of 8.
 * Prepares the compression log-sum-exp that the scores need. */
static block_tables *ssa(bench_case *b, const int *s) {
    double        radius;
    int           edge;
    float         scale = (float)(1 / sqrt(s[3]));
    tensor        first, coord = bench_tokens(b, s[0], 8, &first, &radius, &edge);
    block_tables *t = arena_alloc(&b->memory, sizeof *t);
    *t = blocks_build(&b->memory, &coord, &first, s[5], 8, false);
    int64_t          n = t->n_tokens, m = t->n_cmp;
    topk_blocks_args k = {
        .q = bench_in(b, DIMS(n, s[1], s[3])), .ck = bench_in(b, DIMS(m, s[2], s[3])), .scale = scale};
    if (s[6]) {
        float *place = arena_alloc(&b->memory, (size_t)(3 * (n > m ? n : m)) * sizeof *place);
        for (int64_t i = 0; i < 3 * n; i++) place[i] = (float)I32(&coord)[i];
        add_places((tensor *)(uintptr_t)k.q, place, 1.2f);
        for (int64_t i = 0; i < 3 * m; i++) place[i] = ((float)I32(&t->cmp_coord)[i] + 0.5f) * (float)s[5];
        add_places((tensor *)(uintptr_t)k.ck, place, 1.2f);
    }
    attn_segment_args c = {.q = k.q,
                           .k = k.ck,
                           .v = k.ck,
                           .q_first = &t->sample_first,
                           .k_first = &t->cmp_sample_first,
                           .scale = scale,
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
}

static void choose(bench_case *b, const int *s, bool bwd, whose of) {
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
                            .scale = (float)(1 / sqrt(s[3])),
                            .out = bench_out(b, DT_F32, DIMS(n, s[1], s[3])),
                            .lse = bench_out(b, DT_F32, DIMS(n, s[1]))};
    b->flops = (bwd ? 10 : 4) * pairs * s[3];
    if (!bwd) return;
    attn_select_fwd(b->prepare, a);
    b->n_out = 0;
    a->dout = bench_in(b, DIMS(n, s[1], s[3]));
    if (of != OF_ITSELF) a->stat = gated_stat(b, a->lse, a->out, a->dout);
    a->dq_add = of == OF_BRANCH_ADD;
    a->dq = bench_out(b, DT_F32, DIMS(n, s[1], s[3]));
    a->dk = bench_out(b, DT_F32, DIMS(n, s[2], s[3]));
    a->dv = bench_out(b, DT_F32, DIMS(n, s[2], s[3]));
}
static void select_f(bench_case *b, const int *s) {
    choose(b, s, false, OF_ITSELF);
}
static void select_b(bench_case *b, const int *s) {
    choose(b, s, true, OF_ITSELF);
}

const bench_row bench_rows_attention[] = {
    BENCH_ROW(attn_segment_fwd, segment_f, "N segments H G D", BENCH_AT(2048, 16, 8, 2, 32)),
    BENCH_ROW(attn_segment_fwd, segment_f, "N segments H G D", BENCH_AT(1024, 1, 4, 4, 64)),
    BENCH_ROW(attn_segment_bwd, segment_b, "N segments H G D", BENCH_AT(2048, 16, 8, 2, 32)),
    BENCH_ROW(topk_blocks_fwd, topk, "N H G D K m near", BENCH_AT(2400, 8, 2, 32, 8, 4, 1)),
    BENCH_ROW(attn_select_fwd, select_f, "N H G D K m near", BENCH_AT(2400, 8, 2, 32, 8, 4, 1)),
    BENCH_ROW(attn_select_bwd, select_b, "N H G D K m near", BENCH_AT(2400, 8, 2, 32, 8, 4, 1)),
    {0},
};

/* The transformer's attention at R = 1024 and at 131,072 tokens, in the released configuration (compression blocks of
 * 8, 8 chosen) and the older one (of 4, 32 chosen). */
const bench_row bench_gpu_attention[] = {
    BENCH_GPU_ROW(attn_segment_fwd, window_f, "N window shift H G D", BENCH_AT(45904, 8, 0, 32, 2, 32),
                  BENCH_AT(700, 8, 0, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_bwd, window_b, "N window shift H G D", BENCH_AT(45904, 8, 0, 32, 2, 32),
                  BENCH_AT(700, 8, 0, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_fwd, window_f, "N window shift H G D", BENCH_AT(45904, 8, 4, 32, 2, 32),
                  BENCH_AT(700, 8, 4, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_bwd, window_b, "N window shift H G D", BENCH_AT(45904, 8, 4, 32, 2, 32),
                  BENCH_AT(700, 8, 4, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_fwd, window_f, "N window shift H G D", BENCH_AT(131072, 8, 0, 32, 2, 32),
                  BENCH_AT(700, 8, 0, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_bwd, window_b, "N window shift H G D", BENCH_AT(131072, 8, 0, 32, 2, 32),
                  BENCH_AT(700, 8, 0, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_fwd, window_f, "N window shift H G D", BENCH_AT(131072, 8, 4, 32, 2, 32),
                  BENCH_AT(700, 8, 4, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_bwd, window_b, "N window shift H G D", BENCH_AT(131072, 8, 4, 32, 2, 32),
                  BENCH_AT(700, 8, 4, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_fwd, window_f, "N window shift H G D", BENCH_AT(45904, 8, 4, 8, 8, 64),
                  BENCH_AT(700, 8, 4, 8, 8, 64)),
    BENCH_GPU_ROW(attn_segment_bwd, window_b, "N window shift H G D", BENCH_AT(45904, 8, 4, 8, 8, 64),
                  BENCH_AT(700, 8, 4, 8, 8, 64)),
    BENCH_GPU_ROW(attn_segment_fwd, cross_f, "N M H G D", BENCH_AT(45904, 1374, 32, 32, 32),
                  BENCH_AT(300, 1374, 4, 4, 32)),
    BENCH_GPU_ROW(attn_segment_bwd, cross_b, "N M H G D", BENCH_AT(45904, 1374, 32, 32, 32),
                  BENCH_AT(300, 1374, 4, 4, 32)),
    BENCH_GPU_ROW(attn_segment_fwd, cross_f, "N M H G D", BENCH_AT(45904, 490, 32, 2, 32),
                  BENCH_AT(700, 300, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_bwd, cross_b, "N M H G D", BENCH_AT(45904, 490, 32, 2, 32),
                  BENCH_AT(700, 300, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_fwd, cross_f, "N M H G D", BENCH_AT(45904, 2100, 32, 2, 32),
                  BENCH_AT(700, 300, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_bwd, cross_b, "N M H G D", BENCH_AT(45904, 2100, 32, 2, 32),
                  BENCH_AT(700, 300, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_fwd, cross_f, "N M H G D", BENCH_AT(131072, 1390, 32, 2, 32),
                  BENCH_AT(700, 300, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_bwd, cross_b, "N M H G D", BENCH_AT(131072, 1390, 32, 2, 32),
                  BENCH_AT(700, 300, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_fwd, cross_f, "N M H G D", BENCH_AT(131072, 6300, 32, 2, 32),
                  BENCH_AT(700, 300, 32, 2, 32)),
    BENCH_GPU_ROW(attn_segment_bwd, cross_b, "N M H G D", BENCH_AT(131072, 6300, 32, 2, 32),
                  BENCH_AT(700, 300, 32, 2, 32)),
    BENCH_GPU_ROW(topk_blocks_fwd, topk, "N H G D K m near", BENCH_AT(45904, 32, 2, 32, 8, 8, 1),
                  BENCH_AT(700, 32, 2, 32, 8, 8, 1)),
    BENCH_GPU_ROW(attn_select_fwd, select_f, "N H G D K m near", BENCH_AT(45904, 32, 2, 32, 8, 8, 1),
                  BENCH_AT(700, 32, 2, 32, 8, 8, 1)),
    BENCH_GPU_ROW(attn_select_bwd, select_b, "N H G D K m near", BENCH_AT(45904, 32, 2, 32, 8, 8, 1),
                  BENCH_AT(700, 32, 2, 32, 8, 8, 1)),
    BENCH_GPU_ROW(topk_blocks_fwd, topk, "N H G D K m near", BENCH_AT(45904, 32, 2, 32, 32, 4, 1),
                  BENCH_AT(700, 32, 2, 32, 32, 4, 1)),
    BENCH_GPU_ROW(attn_select_fwd, select_f, "N H G D K m near", BENCH_AT(45904, 32, 2, 32, 32, 4, 1),
                  BENCH_AT(700, 32, 2, 32, 32, 4, 1)),
    BENCH_GPU_ROW(attn_select_bwd, select_b, "N H G D K m near", BENCH_AT(45904, 32, 2, 32, 32, 4, 1),
                  BENCH_AT(700, 32, 2, 32, 32, 4, 1)),
    BENCH_GPU_ROW(topk_blocks_fwd, topk, "N H G D K m near", BENCH_AT(131072, 32, 2, 32, 8, 8, 1),
                  BENCH_AT(700, 32, 2, 32, 8, 8, 1)),
    BENCH_GPU_ROW(attn_select_fwd, select_f, "N H G D K m near", BENCH_AT(131072, 32, 2, 32, 8, 8, 1),
                  BENCH_AT(700, 32, 2, 32, 8, 8, 1)),
    BENCH_GPU_ROW(attn_select_bwd, select_b, "N H G D K m near", BENCH_AT(131072, 32, 2, 32, 8, 8, 1),
                  BENCH_AT(700, 32, 2, 32, 8, 8, 1)),
    BENCH_GPU_ROW(topk_blocks_fwd, topk, "N H G D K m near", BENCH_AT(131072, 32, 2, 32, 32, 4, 1),
                  BENCH_AT(700, 32, 2, 32, 32, 4, 1)),
    BENCH_GPU_ROW(attn_select_fwd, select_f, "N H G D K m near", BENCH_AT(131072, 32, 2, 32, 32, 4, 1),
                  BENCH_AT(700, 32, 2, 32, 32, 4, 1)),
    BENCH_GPU_ROW(attn_select_bwd, select_b, "N H G D K m near", BENCH_AT(131072, 32, 2, 32, 32, 4, 1),
                  BENCH_AT(700, 32, 2, 32, 32, 4, 1)),
    BENCH_GPU_ROW(topk_blocks_fwd, topk, "N H G D K m near", BENCH_AT(131072, 32, 2, 32, 8, 8, 0),
                  BENCH_AT(700, 32, 2, 32, 8, 8, 0)),
    BENCH_GPU_ROW(attn_select_fwd, select_f, "N H G D K m near", BENCH_AT(131072, 32, 2, 32, 8, 8, 0),
                  BENCH_AT(700, 32, 2, 32, 8, 8, 0)),
    BENCH_GPU_ROW(attn_select_bwd, select_b, "N H G D K m near", BENCH_AT(131072, 32, 2, 32, 8, 8, 0),
                  BENCH_AT(700, 32, 2, 32, 8, 8, 0)),
    {0},
};

/* ---- the core of SSA, all branches at one shape ----------------------------------------------------------------- */

/* Compression attention over the blocks of the shape. */
static void compressed(bench_case *b, const int *s, bool bwd) {
    block_tables *t = ssa(b, s);
    tensor       *v = bench_in(b, DIMS(t->n_cmp, s[2], s[3]));
    b->n_out = 0;
    b->args.segment = (attn_segment_args){.q = b->args.topk.q,
                                          .k = b->args.topk.ck,
                                          .v = v,
                                          .q_first = &t->sample_first,
                                          .k_first = &t->cmp_sample_first,
                                          .scale = b->args.topk.scale};
    finish_segment(b, (double)t->n_tokens * (double)t->n_cmp * s[1], bwd, OF_BRANCH_ADD);
}
static void compressed_f(bench_case *b, const int *s) {
    compressed(b, s, false);
}
static void compressed_b(bench_case *b, const int *s) {
    compressed(b, s, true);
}

/* Windows of odd blocks, which are shifted and need an order of their own. */
static void window_of_f(bench_case *b, const int *s) {
    window(b, (int[]){s[0], 8, 4, s[1], s[2], s[3]}, false, OF_BRANCH);
}
static void window_of_b(bench_case *b, const int *s) {
    window(b, (int[]){s[0], 8, 4, s[1], s[2], s[3]}, true, OF_BRANCH);
}

/* In the order of a step's backward windows are the first, compression the last. */
static void select_of_b(bench_case *b, const int *s) {
    choose(b, s, true, OF_BRANCH_ADD);
}

static void gate_f(bench_case *b, const int *s) {
    bench_branch_gate(b, s[0], s[1], s[3], false);
}
static void gate_b(bench_case *b, const int *s) {
    bench_branch_gate(b, s[0], s[1], s[3], true);
}

#define SSA_ROW(op, setup, backward)                                                                                   \
    { BENCH_GPU_ROW(op, setup, "N H G D K m near", {0}, {0}), backward }
const bench_ssa_row bench_ssa_rows[] = {
    SSA_ROW(attn_segment_fwd, compressed_f, 0), SSA_ROW(topk_blocks_fwd, topk, 0),
    SSA_ROW(attn_select_fwd, select_f, 0),      SSA_ROW(attn_segment_fwd, window_of_f, 0),
    SSA_ROW(branch_gate_fwd, gate_f, 0),        SSA_ROW(attn_segment_bwd, compressed_b, 1),
    SSA_ROW(attn_select_bwd, select_of_b, 1),   SSA_ROW(attn_segment_bwd, window_of_b, 1),
    SSA_ROW(branch_gate_bwd, gate_b, 1),        {.row = {0}},
};
