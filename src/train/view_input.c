#include "train/view_input.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t view_most_tokens(const options *o) {
    int64_t side = o->cond.size / PATCH_SIDE;
    return side * side + 1;
}

bool view_check(const options *o, status *st) {
    if (o->cond.encoder == opt_cond_encoder_patches && o->dit.cond_width != PATCH_WIDTH)
        return status_set(st, ST_CONFIG,
                          "dit.cond_width is %lld, the patches encoder gives tokens of %d numbers: set it to %d",
                          (long long)o->dit.cond_width, PATCH_WIDTH, PATCH_WIDTH);
    if (o->cond.size % PATCH_SIDE != 0)
        return status_set(st, ST_CONFIG, "cond.size is %lld, it must be a multiple of %d", (long long)o->cond.size,
                          PATCH_SIDE);
    return true;
}

void view_free(view_input *v) {
    image_free(&v->rgb);
    free(v->mask);
    free(v->token);
    free(v->coord);
    *v = (view_input){0};
}

static const uint8_t *pixel_at(const image *im, int64_t x, int64_t y) {
    static const uint8_t clear[4] = {255, 255, 255, 0};
    return x >= 0 && y >= 0 && x < im->width && y < im->height ? im->pixel + 4 * (y * im->width + x) : clear;
}

/* Bilinear, colours weighted by alpha so that what is transparent does not bleed in. */
static void sample_rgba(const image *im, double x, double y, uint8_t out[4]) {
    double  fx = floor(x), fy = floor(y), sum[4] = {0};
    int64_t ix = (int64_t)fx, iy = (int64_t)fy;
    for (int k = 0; k < 4; k++) {
        const uint8_t *p = pixel_at(im, ix + (k & 1), iy + (k >> 1));
        double         w = (k & 1 ? x - fx : 1 - x + fx) * (k >> 1 ? y - fy : 1 - y + fy) * p[3];
        for (int c = 0; c < 3; c++) sum[c] += w * p[c];
        sum[3] += w;
    }
    for (int c = 0; c < 3; c++) out[c] = (uint8_t)(sum[3] > 0 ? sum[c] / sum[3] + 0.5 : 255);
    out[3] = (uint8_t)(sum[3] + 0.5);
}

/* Each with probability 0.1: a rotation by U(-10,10) degrees, a random square crop of U(0.9,1) of the side. The frame
 * is the square around the object's bounding box, as it is when the reference augments. */
static bool augment(image *im, rng_key key) {
    bool rotate = rng_uniform(key, 0) < 0.1, crop = rng_uniform(key, 1) < 0.1;
    if (!rotate && !crop) return true;
    int x0, y0, x1, y1;
    preprocess_box(im, &x0, &y0, &x1, &y1);
    int    whole = x1 - x0 > y1 - y0 ? x1 - x0 : y1 - y0, side = whole;
    double angle = rotate ? (2 * rng_uniform(key, 2) - 1) * 10 * M_PI / 180 : 0, left = 0, top = 0;
    if (crop) {
        side = (int)(whole * (0.9 + 0.1 * rng_uniform(key, 3)));
        if (side < 1) side = 1;
        left = floor(rng_uniform(key, 4) * (whole - side + 1));
        top = floor(rng_uniform(key, 5) * (whole - side + 1));
    }
    image  out = {.width = side, .height = side, .channels = 4, .pixel = malloc((size_t)side * (size_t)side * 4)};
    double cx = 0.5 * (x0 + x1 - 1), cy = 0.5 * (y0 + y1 - 1), half = 0.5 * (whole - 1), c = cos(angle), s = sin(angle);
    if (!out.pixel) return false;
    for (int y = 0; y < side; y++)
        for (int x = 0; x < side; x++) {
            double dx = x + left - half, dy = y + top - half;
            sample_rgba(im, cx + c * dx - s * dy, cy + s * dx + c * dy, out.pixel + 4 * ((int64_t)y * side + x));
        }
    image_free(im);
    *im = out;
    return true;
}

bool view_prepare(const options *o, const uint8_t *png, int64_t png_size, const char *name, const rng_key *key,
                  view_input *v, status *st) {
    image im = {0};
    int   size = (int)o->cond.size, pad = (int)o->cond.pad_max / 2;
    *v = (view_input){0};
    if (!image_decode(png, png_size, name, &im, st)) return false;
    bool ok = true;
    if (im.channels != 4)
        ok = status_set(st, ST_DATA, "%s: has no alpha (%d channels): a view is a PNG whose alpha is the foreground",
                        name, im.channels);
    if (ok && key) {
        if (o->cond.augment) ok = augment(&im, *key) || status_set(st, ST_INTERNAL, "%s: no memory for a view", name);
        pad = (int)(rng_uniform(*key, 6) * (double)(o->cond.pad_max + 1));
    }
    v->mask = malloc((size_t)size * (size_t)size);
    if (!v->mask) ok = status_set(st, ST_INTERNAL, "%s: no memory for a view", name);
    ok = ok && preprocess(&im, size, pad, &v->rgb, v->mask, st);
    image_free(&im);
    if (ok)
        v->n_tokens = patches_count(v->mask, size, o->dit.sparse_cond);
    else
        view_free(v);
    return ok;
}

void view_tokens(const options *o, const view_input *v, float *token, int32_t *coord) {
    if (!v->token) {
        patches_fill(&v->rgb, v->mask, o->dit.sparse_cond, token, coord);
        return;
    }
    CHECK(v->width == o->dit.cond_width, "tokens of %d numbers, dit.cond_width is %lld", v->width,
          (long long)o->dit.cond_width);
    memcpy(token, v->token, (size_t)v->n_tokens * (size_t)v->width * sizeof *token);
    memcpy(coord, v->coord, (size_t)v->n_tokens * 3 * sizeof *coord);
}
