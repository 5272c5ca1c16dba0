/* SS-DiT: the diffusion transformer with Spatial Sparse Attention (R§4, R§5). Parameter names as R§10.1. */
#pragma once
#include "nn/layers.h"

typedef enum { COMPRESSION_V1, COMPRESSION_V2 } compression_kind;

/* Window shift of a block: ALTERNATE is 0 in even and m_win/2 in odd blocks (released models), NONE is 0 everywhere,
 * ALWAYS is m_win/2 everywhere (what the published code does with use_shift off, R§11 Q6). */
typedef enum { SHIFT_ALTERNATE, SHIFT_NONE, SHIFT_ALWAYS } shift_rule;

/* One SSA layer (R§4.1); also usable alone (golden ssa_module). */
typedef struct {
    int              width, heads, kv_heads, m_cmp, m_slc, m_win, top_k;
    int              head_dim; /* 0: width/heads */
    int              groups;   /* GroupNorm groups of the v2 compression network */
    compression_kind compression;
    bool             pool_add_one;
} ssa_config;

typedef struct {
    ssa_config ssa;
    int        blocks, mlp_ratio, in_channels, out_channels, cond_width;
    bool       sparse_cond; /* cond_proj + APE at the condition's coordinates */
    bool       share_mod;   /* one modulation layer for all blocks */
    bool       cross_norm;  /* RMS norm of queries and keys in cross attention */
    shift_rule shift;
    int        time_width; /* of the sinusoidal time embedding; 0: 256 */
    int        resolution; /* latent grid L: coordinates lie in [0,L) */
    double     factor;     /* APE multiplier */
} ssdit_config;

typedef struct ssdit_layers ssdit_layers;

typedef struct {
    ssdit_config  cfg;
    params        p;
    ssdit_layers *l;
} ssdit;

/* Adds all rows; slabs come from params_alloc(&m->p, ...). Layer ids: blocks 0 .. blocks-1, the output layer `blocks`;
 * what every block's backward adds to (embeddings, condition, a shared modulation) is -1: complete at the end. */
void ssdit_init(ssdit *m, const ssdit_config *cfg);
void ssdit_free(ssdit *m);
int  ssdit_n_layers(const ssdit_config *cfg);

/* Index tables of a ragged batch. coord, sample_first, cond_coord and cond_first are the caller's memory. */
typedef struct {
    int           n_samples;
    int64_t       n_tokens, n_cond;
    tensor        coord, sample_first; /* (N,3), (B+1) i32 */
    block_tables  blocks;
    window_tables window[2];              /* shift 0, m_win/2; only what the shift rule uses */
    tensor        cond_coord, cond_first; /* (Lc,3) (only sparse_cond), (B+1) i32 */
} ssdit_batch;

/* coord in R§4.2 order (m_slc); a coordinate outside [0, resolution) is fatal. cond_first (B+1): condition rows of each
 * sample; cond_coord (Lc,3), NULL or a null tensor with a dense condition. */
ssdit_batch ssdit_batch_build(arena *host, const ssdit_config *cfg, const tensor *coord, const tensor *sample_first,
                              const tensor *cond_first, const tensor *cond_coord);

/* Visits every tensor of the batch that the forward pass hands to ops, each once; some are views of one memory. */
void ssdit_batch_tensors(ssdit_batch *b, tensor_visit f, void *user);

/* x (N,in) noisy latents, time (B) f32 in [0,1000], cond (Lc,cond_width) -> velocity (N,out) f32. x and cond are f32
 * (or ctx.act already). `time` lives as long as the micro-batch. */
var *ssdit_forward(tape *t, ssdit *m, const ssdit_batch *b, var *x, const tensor *time, var *cond);

/* The same, and what happened inside (step memory; without recompute). ssa and out have one entry per block. */
struct ssa_trace;
typedef struct {
    struct ssa_trace *ssa;
    var             **out;
    var              *time, *in; /* time embedding (B,C); input of block 0 */
} ssdit_trace;

var *ssdit_forward_traced(tape *t, ssdit *m, const ssdit_batch *b, var *x, const tensor *time, var *cond,
                          ssdit_trace *trace);
