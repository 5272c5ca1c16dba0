#include "train/image_encoder.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "train/upload.h"

enum { SCRATCH_PER_TOKEN = 16 << 10 }; /* on a GPU; attention lists its tiles there */

bool image_encoder_open(image_encoder *e, const char *weights, int size, const place *where, status *st) {
    *e = (image_encoder){.where = *where, .size = size};
    if (!weights[0])
        return status_set(st, ST_USAGE,
                          "cond.encoder=dinov2 needs its weights: give --weights FILE.safetensors (cond.weights)");
    if (size % PATCH_SIDE != 0)
        return status_set(st, ST_CONFIG, "cond.size is %d, it must be a multiple of %d", size, PATCH_SIDE);
    engine_init(&e->e, where, 0, RECOMPUTE_OFF);
    e->e.gpu_per_tile = SCRATCH_PER_TOKEN;
    if (dinov2_load(weights, size / PATCH_SIDE, &e->e.c, &e->m, &e->weights, st)) {
        e->fingerprint = params_fingerprint(&e->m.p);
        return true;
    }
    engine_free(&e->e);
    *e = (image_encoder){0};
    return false;
}

void image_encoder_close(image_encoder *e) {
    if (!e->m.block) return;
    dinov2_free(&e->m);
    arena *all[] = {&e->weights, &e->host, &e->copy};
    for (int i = 0; i < 3; i++)
        if (all[i]->base) arena_free(all[i]);
    engine_free(&e->e);
    *e = (image_encoder){0};
}

static const float *forward(image_encoder *e, dinov2_batch *b) {
    int64_t rows = b->images * dinov2_tokens(&e->m.cfg);
    tensor  out = {0};
    if (e->where.dev != DEV_CPU) {
        memory_move to = upload_once(e->where.dev, &e->host, &e->copy);
        dinov2_batch_tensors(b, tensor_move, &to);
    }
    for (int pass = 0; pass < 2; pass++) {
        arena counting = arena_counting_on("step", e->where.dev);
        tape  t = {.c = &e->e.c, .step = pass == 0 ? &counting : &e->e.step, .book = &e->e.book};
        e->e.c.dry = pass == 0;
        tape_begin(&t);
        out = dinov2_forward(&t, &e->m, b, NULL)->v;
        if (pass == 0) engine_room(&e->e, counting.peak, rows);
    }
    return download_f32(&out, &e->host);
}

static void take(const image_encoder *e, view_input *v, const float *rows, bool sparse) {
    const dinov2_config *c = &e->m.cfg;
    int                  special = 1 + c->registers, S = c->side;
    uint8_t             *patch = malloc((size_t)(S * S));
    CHECK(patch, "no memory for %d patches", S * S);
    memset(patch, 1, (size_t)(S * S));
    if (sparse) patch_mask(v->mask, e->size, e->size, patch);
    v->n_tokens = tokens_extract(rows, special, S, S, c->width, patch, NULL, NULL);
    v->width = c->width;
    v->token = malloc((size_t)v->n_tokens * (size_t)c->width * sizeof *v->token);
    v->coord = malloc((size_t)v->n_tokens * 3 * sizeof *v->coord);
    CHECK(v->token && v->coord, "no memory for %lld tokens", (long long)v->n_tokens);
    tokens_extract(rows, special, S, S, c->width, patch, v->token, v->coord);
    free(patch);
}

void image_encoder_run(image_encoder *e, view_input *const *v, int n, bool sparse) {
    const dinov2_config *c = &e->m.cfg;
    int64_t              one = dinov2_tokens(c);
    int                  most = omp_get_max_threads(), threads = n < most ? n : most; /* an image each */
    size_t               bytes = ((size_t)1 << 20) + (size_t)(n * one) * (PATCH_WIDTH + (size_t)c->width + 16) * 4;
    if (e->host.size < bytes) {
        if (e->host.base) arena_free(&e->host);
        e->host = e->where.dev == DEV_CPU ? arena_new("host images", bytes) : arena_new_pinned("host images", bytes);
    }
    arena_reset(&e->host, 0);
    dinov2_batch b = dinov2_batch_build(&e->host, c, n);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int i = 0; i < n; i++) {
        CHECK(v[i]->rgb.width == e->size, "an image of %d pixels, %d are wanted", v[i]->rgb.width, e->size);
        patches_fill(&v[i]->rgb, v[i]->mask, false, dinov2_pixels(&b, c, i), NULL);
    }
    const float *rows = forward(e, &b);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int i = 0; i < n; i++) take(e, v[i], rows + i * one * c->width, sparse);
}
