#include "nn/params.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

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
    float *x = arena_alloc(a, (size_t)n * sizeof(float));
    if (!a->counting) memset(x, 0, (size_t)n * sizeof(float));
    return x;
}

void params_alloc(params *p, arena *weights, bool training, bool with_ema) {
    p->w = slab(weights, p->total);
    p->g = training ? slab(weights, p->total) : NULL;
    p->m = training ? slab(weights, p->total) : NULL;
    p->v = training ? slab(weights, p->total) : NULL;
    p->ema = with_ema ? slab(weights, p->total) : NULL;
    for (int i = 0; i < p->n; i++) {
        param *r = p->row[i];
        r->w = tensor_wrap(p->w + r->offset, DT_F32, r->dim, r->n_dims);
        if (p->g) r->g = tensor_wrap(p->g + r->offset, DT_F32, r->dim, r->n_dims);
        r->w.dev = r->g.dev = weights->dev;
    }
}

void params_randomize(params *p, uint64_t seed) {
    for (int i = 0; i < p->n; i++) {
        param  *r = p->row[i];
        float  *w = F32(&r->w);
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
            break;
        }
    }
    if (p->ema) memcpy(p->ema, p->w, (size_t)p->total * sizeof(float));
}

uint64_t params_fingerprint(const params *p) {
    uint64_t h = 0;
    for (int i = 0; i < p->n; i++) {
        const param *r = p->row[i];
        h = hash_bytes(r->name, strlen(r->name), h);
        h = hash_bytes(r->dim, sizeof r->dim, h);
        h = hash_bytes(r->w.data, (size_t)r->count * sizeof(float), h);
    }
    return h;
}
