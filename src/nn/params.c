#include "nn/params.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "kernels/backend.h"

enum { ROW_ALIGN = 16, MAX_ROWS = (int)(sizeof((params *)0)->row / sizeof(param *)) };

void params_init(params *p) {
    *p = (params){.rows = arena_new("parameter table", MAX_ROWS * (sizeof(param) + 64))};
}

void params_free(params *p) {
    arena_free(&p->rows);
    *p = (params){0};
}

param *params_find(const params *p, const char *name) {
    for (int i = 0; i < p->n; i++)
        if (strcmp(p->row[i]->name, name) == 0) return p->row[i];
    return NULL;
}

param *params_add(params *p, int layer, init_kind init, double arg, const int64_t *dims, int n_dims, const char *name,
                  ...) {
    CHECK(p->n < MAX_ROWS, "more than %d parameters", MAX_ROWS);
    param  *r = arena_zeros(&p->rows, sizeof *r);
    va_list ap;
    va_start(ap, name);
    int n = vsnprintf(r->name, sizeof r->name, name, ap);
    va_end(ap);
    CHECK(n > 0 && n < (int)sizeof r->name, "parameter name %s is too long", r->name);
    CHECK(!params_find(p, r->name), "parameter %s is there twice", r->name);
    tensor shape = tensor_wrap(NULL, DT_F32, dims, n_dims);
    memcpy(r->dim, shape.dim, sizeof r->dim);
    r->n_dims = n_dims;
    r->init = init;
    r->arg = arg;
    r->layer = layer;
    r->decay = n_dims >= 2 && init != INIT_ONE;
    r->count = tensor_count(&shape);
    r->offset = p->total;
    p->total += (r->count + ROW_ALIGN - 1) / ROW_ALIGN * ROW_ALIGN;
    p->row[p->n++] = r;
    return r;
}

static float *slab(arena *a, int64_t n) {
    return arena_zeros(a, (size_t)n * sizeof(float));
}

void params_alloc(params *p, arena *weights, bool training, bool with_ema) {
    CHECK(p->act == DT_F32 || p->act == DT_BF16, "activations of dtype %s", dtype_name(p->act));
    p->dev = weights->dev;
    p->w = slab(weights, p->total);
    p->w16 = p->act == DT_BF16 ? arena_zeros(weights, (size_t)p->total * sizeof *p->w16) : NULL;
    p->g = training ? slab(weights, p->total) : NULL;
    p->m = training ? slab(weights, p->total) : NULL;
    p->v = training ? slab(weights, p->total) : NULL;
    p->ema = with_ema ? slab(weights, p->total) : NULL;
    for (int i = 0; i < p->n; i++) {
        param *r = p->row[i];
        r->master = tensor_wrap(p->w + r->offset, DT_F32, r->dim, r->n_dims);
        r->master.dev = weights->dev;
        r->w = r->master;
        if (p->w16 && r->decay) {
            r->w.data = p->w16 + r->offset;
            r->w.dt = DT_BF16;
        }
        r->g = (tensor){.dev = weights->dev};
        if (p->g) r->g = tensor_wrap(p->g + r->offset, DT_F32, r->dim, r->n_dims);
        r->g.dev = weights->dev;
    }
}

/* ---- slabs on either device ------------------------------------------------------------------------------------- */

static void copy_and_wait(void *dst, const void *src, size_t bytes) {
    device_copy(dst, src, bytes, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
}

void slab_read(device_kind dev, const float *slab, int64_t first, int64_t count, float *out) {
    size_t bytes = (size_t)count * sizeof *out;
    if (dev == DEV_CUDA)
        copy_and_wait(out, slab + first, bytes);
    else
        memcpy(out, slab + first, bytes);
}

void slab_write(device_kind dev, float *slab, int64_t first, int64_t count, const float *in) {
    size_t bytes = (size_t)count * sizeof *in;
    if (dev == DEV_CUDA)
        copy_and_wait(slab + first, in, bytes);
    else
        memcpy(slab + first, in, bytes);
}

/* Host memory for any one row, where rows cannot be touched: on a GPU; otherwise NULL. */
static float *staging(const params *p) {
    int64_t most = 1;
    if (p->dev == DEV_CPU) return NULL;
    for (int i = 0; i < p->n; i++)
        if (p->row[i]->count > most) most = p->row[i]->count;
    float *room = malloc((size_t)most * sizeof *room);
    CHECK(room, "no memory for a row of %lld parameters", (long long)most);
    return room;
}

static void fill_row(const param *r, uint64_t seed, float *w) {
    rng_key key = {.seed = seed, .purpose = RNG_INIT, .sample = hash_text(r->name)};
    double  bound = r->arg;
    switch (r->init) {
    case INIT_ZERO:
    case INIT_ONE:
        for (int64_t k = 0; k < r->count; k++) w[k] = r->init == INIT_ONE ? 1.0f : 0.0f;
        break;
    case INIT_NORMAL:
        rng_fill_normal(key, 0, r->count, w);
        for (int64_t k = 0; k < r->count; k++) w[k] *= (float)r->arg;
        break;
    case INIT_XAVIER:
        CHECK(r->n_dims == 2, "Xavier init of %s with %d dims", r->name, r->n_dims);
        bound = sqrt(6.0 / (double)(r->dim[0] + r->dim[1]));
        rng_fill_uniform(key, 0, r->count, (float)-bound, (float)bound, w);
        break;
    case INIT_HALVES:
        for (int64_t k = 0; k < r->count; k++) w[k] = 2 * k < r->count ? 0.0f : (float)r->arg;
        break;
    case INIT_UNIFORM:
        rng_fill_uniform(key, 0, r->count, (float)-bound, (float)bound, w);
        if (r->centre > 0) {
            int64_t tap = r->count / r->dim[0];
            for (int64_t k = r->dim[0] / 2 * tap; k < (r->dim[0] / 2 + 1) * tap; k++)
                w[k] *= (float)(r->centre / bound);
        }
        break;
    }
}

void params_randomize(params *p, uint64_t seed) {
    float *room = staging(p);
    for (int i = 0; i < p->n; i++) {
        const param *r = p->row[i];
        fill_row(r, seed, room ? room : p->w + r->offset);
        if (room) slab_write(p->dev, p->w, r->offset, r->count, room);
    }
    free(room);
    if (p->ema && p->dev == DEV_CUDA)
        copy_and_wait(p->ema, p->w, (size_t)p->total * sizeof(float));
    else if (p->ema)
        memcpy(p->ema, p->w, (size_t)p->total * sizeof(float));
}

void params_refresh16(ctx *c, params *p) {
    if (!p->w16) return;
    tensor w = tensor_wrap(p->w, DT_F32, DIMS(p->total)), w16 = tensor_wrap(p->w16, DT_BF16, DIMS(p->total));
    w.dev = w16.dev = p->dev;
    copy_fwd(c, &(xy_args){.x = &w, .y = &w16});
}

uint64_t params_fingerprint(const params *p) {
    float   *room = staging(p);
    uint64_t h = 0;
    for (int i = 0; i < p->n; i++) {
        const param *r = p->row[i];
        if (room) slab_read(p->dev, p->w, r->offset, r->count, room);
        h = hash_bytes(r->name, strlen(r->name), h);
        h = hash_bytes(r->dim, sizeof r->dim, h);
        h = hash_bytes(room ? room : p->w + r->offset, (size_t)r->count * sizeof(float), h);
    }
    free(room);
    return h;
}

uint64_t slab_hash(device_kind dev, const float *slab, int64_t n) {
    enum { PIECE = 1 << 22 /* floats copied from a GPU at a time */ };
    uint64_t h = 0;
    if (dev == DEV_CPU) return hash_bytes(slab, (size_t)n * sizeof *slab, h);
    float *via = malloc((size_t)PIECE * sizeof *via);
    CHECK(via, "no memory to look at a slab");
    for (int64_t at = 0; at < n; at += PIECE) {
        int64_t count = n - at < PIECE ? n - at : PIECE;
        slab_read(dev, slab, at, count, via);
        h = hash_bytes(via, (size_t)count * sizeof *via, h);
    }
    free(via);
    return h;
}
