/* The parameter table of a model: name, shape, init, decay flag, layer. Weights, gradients, moments and EMA are slabs
 * with equal offsets, so update, clip, reduction, checkpoint are loops over ranges. Names and storage are those of the
 * published state dict (R§10), so weights move in both directions. */
#pragma once
#include "core/ctx.h"
#include "core/rng.h"

typedef enum {
    INIT_ZERO,
    INIT_ONE,
    INIT_XAVIER,  /* uniform, bound sqrt(6/(fan_in + fan_out)), shape (out,in) */
    INIT_NORMAL,  /* normal, standard deviation `arg` */
    INIT_UNIFORM, /* uniform in +-arg */
    INIT_HALVES   /* 0 in the first half, `arg` in the second: the bias of (mean, log-variance) */
} init_kind;

typedef struct {
    char      name[112];
    int64_t   dim[TENSOR_MAX_DIMS];
    int       n_dims;
    init_kind init;
    double    arg;
    double    centre; /* INIT_UNIFORM of a (27,in,out) kernel: bound of the centre tap; 0: arg */
    bool      decay;  /* weight decay applies: matrices and kernels, not biases, norms or tables */
    int       layer; /* segment whose backward completes this gradient; -1: complete at the end of the whole backward */
    int64_t   offset, count;
    /* Views into the slabs, after params_alloc. w is what ops read: the bf16 copy of a matrix or kernel (a row with
     * `decay`) when activations are bf16, else the same as master. */
    tensor    w, master, g;
} param;

typedef struct {
    param      *row[4096];
    int         n;
    int64_t     total;               /* floats per slab, padding included */
    float      *w, *g, *m, *v, *ema; /* f32; g, m, v, ema NULL without training */
    /* Of activations (ctx.act); set before params_alloc. DT_BF16 adds w16, the bf16 copy of w, with its offsets. */
    dtype       act;
    uint16_t   *w16;
    device_kind dev;  /* where the slabs are */
    arena       rows; /* owns the rows */
} params;

/* An optional parameter as an op argument; the gradient is NULL outside training. */
static inline tensor *param_value(param *p) {
    return p ? &p->w : NULL;
}
static inline tensor *param_grad(param *p) {
    return p && p->g.data ? &p->g : NULL;
}

void params_init(params *p);
void params_free(params *p);

/* Adds a row; the name is printf-style and unique (checked). Returns the row, which stays where it is. */
param *params_add(params *p, int layer, init_kind init, double arg, const int64_t *dims, int n_dims, const char *name,
                  ...) PRINTF_LIKE(7, 8);
param *params_find(const params *p, const char *name); /* NULL when absent */

/* Slabs from `weights` (counting arenas and a GPU's welcome): w (and w16) always, the rest for training. All start at
 * zero. */
void     params_alloc(params *p, arena *weights, bool training, bool with_ema);
/* Initial weights: pure function of (seed, name). EMA = w. */
void     params_randomize(params *p, uint64_t seed);
/* w16 = w: after w came from params_randomize or a checkpoint (adamw keeps both in step). Nothing without w16. */
void     params_refresh16(ctx *c, params *p);
/* Hash of names, shapes and (f32) weights: says which weights latents were made with. */
uint64_t params_fingerprint(const params *p);

/* Floats [first, first + count) of a slab on `dev` to and from host memory. On a GPU in order with the compute stream;
 * both return when the copy is done. */
void     slab_read(device_kind dev, const float *slab, int64_t first, int64_t count, float *out);
/* XXH3 of its first n floats. */
uint64_t slab_hash(device_kind dev, const float *slab, int64_t n);
void     slab_write(device_kind dev, float *slab, int64_t first, int64_t count, const float *in);
