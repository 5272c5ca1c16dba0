/* The rows of `d3s2 bench`: one setup per op, which makes the tensors of one shape and says what the op costs. */
#pragma once
#include "kernels/backend.h"

enum { BENCH_MAX_OUT = 8 };

typedef void (*bench_fn)(ctx *, const void *);
#define BENCH_FN(op) ((bench_fn)(void (*)(void))(op))

/* What a setup fills in. Tensors live in `memory` until the next row. */
typedef struct {
    arena memory;
    ctx  *prepare; /* to run a forward whose results a backward reads: the reference */
    union {
        linear_args        linear;
        act_args           act;
        layer_norm_args    layer_norm;
        group_norm_args    group_norm;
        rms_norm_args      rms_norm;
        gate_residual_args gate;
        xy_args            xy;
        split_cols_args    split;
        merge_cols_args    merge;
        embed_ape_args     ape;
        embed_time_args    time;
        add_table_args     table;
        conv3_args         conv3;
        pool_args          pool;
        subdivide_args     subdivide;
        attn_segment_args  segment;
        topk_blocks_args   topk;
        attn_select_args   select;
        branch_gate_args   branch;
        vae_sample_args    vae;
        sdf_loss_args      sdf;
        mse_rows_args      mse;
        flow_noise_args    flow;
        sum_squares_args   squares;
        adamw_args         adamw;
    } args;
    tensor *out[BENCH_MAX_OUT]; /* compared with the reference; f32, f64 or i32 */
    int     n_out;
    double  flops, bytes;
} bench_case;

typedef struct {
    const char *op;
    bench_fn    fn;
    void (*setup)(bench_case *, const int *shape);
    int         shape[6];
    const char *shape_text; /* names of the numbers in shape, blank between them */
} bench_row;

extern const bench_row bench_rows_dense[], bench_rows_sparse[]; /* end at op NULL */

tensor *bench_in(bench_case *b, const int64_t *dims, int n_dims);            /* f32 in [-1,1] */
tensor *bench_i32(bench_case *b, const int64_t *dims, int n_dims);           /* zeros */
tensor *bench_out(bench_case *b, dtype dt, const int64_t *dims, int n_dims); /* zeros, noted in out */
tensor *bench_first(bench_case *b, int64_t n_rows, int n_samples);           /* equal samples */
