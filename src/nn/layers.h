/* Layers: each function runs one op forward on the tape and records its backward. Values are (N,C) rows; heads are
 * views. Index tensors (first, order, coord, block tables) are given by pointer and must outlive the micro-batch.
 * Parameters come as rows of the table; an optional one is NULL. */
#pragma once
#include "nn/tape.h"
#include "ops/act.h"
#include "sparse/blocks.h"

/* x W^T + b, W (O,I). */
var *nn_linear(tape *t, var *x, param *w, param *b, act_kind act);
/* The same with an output of dtype dt: ctx.act, or f32 (a layer whose output goes into a loss). */
var *nn_linear_as(tape *t, var *x, param *w, param *b, act_kind act, dtype dt);
/* The same of in_act(x), which is nowhere. */
var *nn_linear_of(tape *t, var *x, act_kind in_act, param *w, param *b, act_kind act, dtype dt);
/* y[i] = x w[i]^T, w[i] (O_i,I): one product, which reads x once, and one for each gradient. For layers that are thin
 * beside x: w is copied. */
enum { LINEAR_MANY = 5 };
void nn_linear_many(tape *t, var *x, int n, param *const *w, var **y);
/* nn_linear(nn_linear(x, w0, b0, act), w1, b1, ACT_NONE), whose backward makes the inner gradient in one pass. */
var *nn_mlp(tape *t, var *x, param *w0, param *b0, act_kind act, param *w1, param *b1);
/* nn_linear with W (I,O): a 1x1x1 convolution. */
var *nn_conv1(tape *t, var *x, param *w, param *b);
/* x in another float dtype; x itself when it has it. The gradient is cast back. */
var *nn_cast(tape *t, var *x, dtype dt);
var *nn_act(tape *t, var *x, act_kind act);
var *nn_layer_norm(tape *t, var *x, param *gamma, param *beta, double eps);
/* LN(x)*(1 + scale[b]) + shift[b]: scale, shift (B,C). */
var *nn_norm_modulate(tape *t, var *x, var *shift, var *scale, const tensor *first, double eps);
var *nn_group_norm(tape *t, var *x, param *gamma, param *beta, const tensor *first, int groups, act_kind act);
/* gamma (H,D), x (N,H*D). */
var *nn_rms_norm(tape *t, var *x, param *gamma);
/* x + gate[b]*h; gate NULL: x + h. */
var *nn_gate_residual(tape *t, var *x, var *h, var *gate, const tensor *first);
/* *x = nn_gate_residual(*x, h, gate, first), and the norm of it, in one pass: what nn_layer_norm(*x, ..) or
 * nn_norm_modulate(*x, ..) returns. */
var *nn_residual_layer_norm(tape *t, var **x, var *h, var *gate, const tensor *first, param *gamma, param *beta,
                            double eps);
var *nn_residual_norm_modulate(tape *t, var **x, var *h, var *gate, var *shift, var *scale, const tensor *first,
                               double eps);
void nn_split(tape *t, var *x, int n, const int64_t *width, var **out);
var *nn_embed_ape(tape *t, var *x, const tensor *coord, double factor);
/* Rows of embed_time for times (B); no gradient. */
var *nn_embed_time(tape *t, const tensor *times, int64_t width);
/* order, first: the rows of each index (ops/elementwise.h), read by backward. */
var *nn_add_table(tape *t, var *x, param *table, const tensor *index, const tensor *order, const tensor *first);
var *nn_conv3(tape *t, var *x, const grid *g, param *w, param *b, act_kind act);
/* Of x's eight children each (subdivide of ops/pool.h), which are nowhere: x is of the level above g. */
var *nn_conv3_up(tape *t, var *x, const grid *g, param *w, param *b, act_kind act);
/* order NULL: members are the rows themselves. */
var *nn_pool(tape *t, var *x, const tensor *first, const tensor *order, bool add_one);
/* nn_group_norm (SiLU) of nn_linear(v, w, b), pooled to *y, and nn_linear itself, pooled to *skip, in one op: the C
 * channels of a row of v (N,1) are nowhere (ops/lift_pool.h). */
typedef struct {
    param *w, *b, *gamma, *beta;
} lift_params;
void nn_lift_pool(tape *t, var *v, const lift_params *p, const tensor *first, const tensor *pool_first,
                  const tensor *pool_sample, int groups, bool add_one, var **y, var **skip);
/* Rows of x in groups of `group` that follow each other: group i of the result is group index[i] of x, index (n) i32 in
 * [0, N/group), none twice. */
var *nn_gather(tape *t, var *x, const tensor *index, int64_t group);

/* Segments of queries and keys; an order may be NULL. */
typedef struct {
    const tensor *q_first, *k_first, *q_order, *k_order;
} segments;

/* What an attention and the gate that takes its result tell each other of its rows. */
typedef struct {
    tensor *lse;  /* (N,heads) f32 */
    tensor *stat; /* (N,heads,2) f32, from the gate's backward on; no data before */
} attn_rows;

/* q (N,H*D), k, v (M,G*D). out (N,H*D). rows: NULL, or out is a branch of nn_branch_gate. */
var *nn_attn(tape *t, var *q, var *k, var *v, int heads, int kv_heads, segments s, attn_rows *rows);
/* qkv (N,3C): columns q, k, v: self attention in segments. */
var *nn_attn_qkv(tape *t, var *qkv, int heads, const tensor *first, const tensor *order);
/* q (N,C), kv (M,2C): columns k, v. */
var *nn_attn_cross(tape *t, var *q, var *kv, int heads, segments s);

/* Selection (no gradient): block (G,N,K) i32 in step memory. lse from nn_attn over the compression blocks. */
tensor nn_topk(tape *t, const var *q, const var *ck, const tensor *lse, int heads, int kv_heads, int k,
               const block_tables *b);
var   *nn_attn_select(tape *t, var *q, var *k, var *v, int heads, int kv_heads, const tensor *block,
                      const block_tables *b, attn_rows *rows);
/* sum_i sigmoid(z[:,i]) o_i; o (N,C) each, with their rows, and used here only; z (N,3). The gradient of o_i is not
 * made: o_i has that of the sum, and rows[i].stat the gate. */
var   *nn_branch_gate(tape *t, var *const o[3], const attn_rows rows[3], var *z);

/* z = mean + exp(logvar/2) eps (eps NULL: mean); *kl gets the f64 sum. kl_scale enters backward. */
var *nn_vae_sample(tape *t, var *moments, const tensor *eps, double kl_scale, tensor *kl);
/* Losses: sums in f64 tensors of step memory; scale enters backward (see ops/loss.h). */
void nn_sdf_loss(tape *t, var *pred, const tensor *target, const tensor *sharp, const double scale[3], tensor *sums);
void nn_mse(tape *t, var *pred, const tensor *target, const tensor *first, double scale, tensor *sums);
