/* The rows of `d3s2 bench`: one setup per op, which makes the tensors of one shape and says what the op costs. */
#pragma once
#include "ops/roles.h"

enum { BENCH_MAX_OUT = 8, BENCH_SHAPE = 7 };

/* What a setup fills in. Tensors live in `memory` until the next row. */
typedef struct {
    arena         memory;
    ctx          *prepare; /* to run a forward whose results a backward reads */
    bool          blank;   /* outputs are not cleared: nobody looks at them, and large ones cost time */
    const tensor *coord;   /* (n,3) i32 in the order of R§4.2: tokens of a shape instead of a shell; NULL: a shell */
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
        gather_rows_args   gather;
        conv3_args         conv3;
        pool_args          pool;
        subdivide_args     subdivide;
        lift_pool_args     lift;
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
        muon_args          muon;
        char               any[OP_ARGS_BYTES];
    } args;
    tensor *out[BENCH_MAX_OUT]; /* compared with the reference; f32, f64 or i32 */
    int     n_out;
    double  flops;
} bench_case;

typedef struct {
    op_id op;
    void (*setup)(bench_case *, const int *shape); /* NULL: end of a table */
    int         shape[BENCH_SHAPE];
    const char *shape_text;         /* names of the numbers in shape, blank between them */
    int         check[BENCH_SHAPE]; /* on a GPU: a smaller shape of the same kind, at which the result is checked */
} bench_row;

#define BENCH_AT(...)                                                                                                  \
    { __VA_ARGS__ }
#define BENCH_ROW(op, setup, text, at)                                                                                 \
    {                                                                                                                  \
        OP_##op, setup, at, text, {                                                                                    \
            0                                                                                                          \
        }                                                                                                              \
    }
#define BENCH_GPU_ROW(op, setup, text, at, check)                                                                      \
    { OP_##op, setup, at, text, check }

/* The branches of SSA, all at one shape "N H G D K m near". */
typedef struct {
    bench_row row;
    int       backward;
} bench_ssa_row;
extern const bench_ssa_row bench_ssa_rows[];

extern const bench_row bench_rows_dense[], bench_rows_sparse[], bench_rows_attention[];
extern const bench_row bench_gpu_dense[], bench_gpu_conv[], bench_gpu_sparse[], bench_gpu_attention[];

tensor *bench_in(bench_case *b, const int64_t *dims, int n_dims);            /* f32, standard normal */
tensor *bench_i32(bench_case *b, const int64_t *dims, int n_dims);           /* zeros */
tensor *bench_out(bench_case *b, dtype dt, const int64_t *dims, int n_dims); /* zeros, noted in out */
tensor *bench_first(bench_case *b, int64_t n_rows, int n_samples);           /* equal samples */

/* Coordinates of n tokens in blocks of `block`, a shell or the case's shape; `first`: the one sample. The radius is
 * that of a shell. */
tensor bench_tokens(bench_case *b, int n, int block, tensor *first, double *radius, int *edge);
/* The three branches of n tokens, gated. */
void   bench_branch_gate(bench_case *b, int64_t n, int64_t heads, int64_t width, bool bwd);

/* Setup of a row at a shape, in the case's memory from its start. */
void   bench_setup(bench_case *b, const bench_row *r, const int *shape);
/* Copies of the outputs, in the case's memory. */
void   bench_keep(bench_case *b, void *want[BENCH_MAX_OUT]);
void   bench_clear(const bench_case *b);
/* Largest error over largest value, worst output. NaN is infinity, and so are integers of which too many differ. */
double bench_error(const bench_case *b, void *const *want);
/* "N=45904 I=1024" */
void   bench_words(const bench_row *r, const int *shape, char out[128]);
