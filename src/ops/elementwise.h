/* Small helpers of the tape and of the models. Rows are all f32 or all bf16 (on a GPU) where nothing else is said.
 *   add:        y += x (same count)
 *   zero:       y = 0, any dtype
 *   copy:       y = x (same count), f32 or bf16 each, on any back end: the one op that casts
 *   split_cols: x (N,sum C_i) -> part i (N,C_i), up to 6 parts; merge_cols is the reverse (its backward).
 *   embed_ape:  y = x + APE(coord*factor) (R§3.5): coord (N,3) i32, C channels, 6*floor(C/6) of them filled. Its
 *               backward is the identity.
 *   embed_time: t (B) f32 in [0,1000] -> y (B,D): [cos(t f_i), sin(t f_i)], f_i = 10000^(-i/(D/2)) (R§5.2).
 *   add_table:  y = x + table[index[n]], table (K,C) f32, index (N) i32 in [0,K);
 *               bwd: dtable (K,C) f32 accumulated (dx = dy), over the rows of each index: those of k are
 *               order[first[k]] .. order[first[k+1]-1], order (N) a permutation, first (K+1).
 *   gather_rows: y[n] = x[index[n]], x (K,C), y (N,C), index (N) i32 in [0,K), none twice;
 *               bwd: dx (K,C) overwritten: dx[index[n]] = dy[n], rows that are not named get 0. */
#pragma once
#include "core/ctx.h"

typedef struct {
    const tensor *x;
    tensor       *y;
} xy_args;

typedef struct {
    const tensor *x;
    tensor       *part[6];
    int           n_parts;
} split_cols_args;

typedef struct {
    const tensor *part[6];
    int           n_parts;
    tensor       *x;
} merge_cols_args;

typedef struct {
    const tensor *x, *coord;
    float         factor;
    tensor       *y;
} embed_ape_args;

typedef struct {
    const tensor *t;
    tensor       *y;
} embed_time_args;

typedef struct {
    const tensor *x, *table, *index;
    tensor       *y;
    const tensor *dy, *order, *first;
    tensor       *dtable;
} add_table_args;

typedef struct {
    const tensor *x, *index;
    tensor       *y;
    const tensor *dy;
    tensor       *dx;
} gather_rows_args;

void add_fwd(ctx *c, const xy_args *a);
void zero_fwd(ctx *c, const xy_args *a);
void copy_fwd(ctx *c, const xy_args *a);
void split_cols_fwd(ctx *c, const split_cols_args *a);
void merge_cols_fwd(ctx *c, const merge_cols_args *a);
void embed_ape_fwd(ctx *c, const embed_ape_args *a);
void embed_time_fwd(ctx *c, const embed_time_args *a);
void add_table_fwd(ctx *c, const add_table_args *a);
void add_table_bwd(ctx *c, const add_table_args *a);
void gather_rows_fwd(ctx *c, const gather_rows_args *a);
void gather_rows_bwd(ctx *c, const gather_rows_args *a);
