#include "data/condition.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- resampling: the 8-bit bilinear filter with antialias of the published pipeline (Pillow's): triangle filter as
 * wide as the reduction, weights in 22-bit fixed point, rows first, 8 bits in between
 * ---------------------------------- */

enum { WEIGHT_BITS = 22 };

typedef struct {
    int      taps;
    int     *first, *count; /* [n_out] */
    int32_t *weight;        /* [n_out,taps] */
} filter;

static void filter_free(filter *f) {
    free(f->first), free(f->count), free(f->weight);
    *f = (filter){0};
}

static bool filter_make(int n_in, int n_out, filter *f) {
    double scale = (double)n_in / n_out, wide = scale > 1 ? scale : 1;
    f->taps = (int)ceil(wide) * 2 + 1;
    f->first = malloc((size_t)n_out * sizeof(int));
    f->count = malloc((size_t)n_out * sizeof(int));
    f->weight = malloc((size_t)n_out * (size_t)f->taps * sizeof(int32_t));
    double *w = malloc((size_t)f->taps * sizeof *w);
    bool    good = f->first && f->count && f->weight && w;
    for (int i = 0; i < n_out && good; i++) {
        double centre = (i + 0.5) * scale, sum = 0;
        int    lo = (int)(centre - wide + 0.5), hi = (int)(centre + wide + 0.5);
        if (lo < 0) lo = 0;
        if (hi > n_in) hi = n_in;
        for (int k = lo; k < hi; k++) {
            double x = fabs((k - centre + 0.5) / wide);
            w[k - lo] = x < 1 ? 1 - x : 0;
            sum += w[k - lo];
        }
        for (int k = 0; k < hi - lo; k++)
            f->weight[(int64_t)i * f->taps + k] = (int32_t)(w[k] / sum * (1 << WEIGHT_BITS) + 0.5);
        f->first[i] = lo;
        f->count[i] = hi - lo;
    }
    free(w);
    if (!good) filter_free(f);
    return good;
}

static uint8_t rounded(int32_t sum) {
    sum >>= WEIGHT_BITS;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* One row of RGB: out[n_out]. */
static void filter_row(const filter *f, const uint8_t *in, uint8_t *out, int n_out) {
    for (int i = 0; i < n_out; i++) {
        const int32_t *w = f->weight + (int64_t)i * f->taps;
        const uint8_t *p = in + 3 * (int64_t)f->first[i];
        int32_t        r = 1 << (WEIGHT_BITS - 1), g = r, b = r;
        for (int k = 0; k < f->count[i]; k++, p += 3) {
            r += p[0] * w[k];
            g += p[1] * w[k];
            b += p[2] * w[k];
        }
        out[3 * i] = rounded(r), out[3 * i + 1] = rounded(g), out[3 * i + 2] = rounded(b);
    }
}

/* Row i of the output from rows of n bytes; sum [n]. */
static void filter_rows(const filter *f, int i, const uint8_t *in, int64_t n, int32_t *sum, uint8_t *out) {
    const int32_t *w = f->weight + (int64_t)i * f->taps;
    for (int64_t x = 0; x < n; x++) sum[x] = 1 << (WEIGHT_BITS - 1);
    for (int k = 0; k < f->count[i]; k++) {
        const uint8_t *row = in + (f->first[i] + k) * n;
        for (int64_t x = 0; x < n; x++) sum[x] += row[x] * w[k];
    }
    for (int64_t x = 0; x < n; x++) out[x] = rounded(sum[x]);
}

/* [side,side,3] to [size,size,3]. */
static bool resize_square(const uint8_t *in, int side, uint8_t *out, int size) {
    int64_t row = 3 * (int64_t)size;
    if (side == size) {
        memcpy(out, in, (size_t)(row * size));
        return true;
    }
    filter   f = {0};
    uint8_t *wide = malloc((size_t)(row * side));
    int32_t *sum = malloc((size_t)row * sizeof *sum);
    bool     good = wide && sum && filter_make(side, size, &f);
    for (int y = 0; y < side && good; y++) filter_row(&f, in + 3 * (int64_t)y * side, wide + y * row, size);
    for (int y = 0; y < size && good; y++) filter_rows(&f, y, wide, row, sum, out + y * row);
    filter_free(&f);
    free(sum);
    free(wide);
    return good;
}

static bool resize_nearest(const uint8_t *in, int side, uint8_t *out, int size) {
    double scale = (double)side / size;
    int   *from = malloc((size_t)size * sizeof *from);
    for (int x = 0; x < size && from; x++) from[x] = (int)((x + 0.5) * scale);
    for (int y = 0; y < size && from; y++)
        for (int x = 0; x < size; x++) out[(int64_t)y * size + x] = in[(int64_t)from[y] * side + from[x]];
    free(from);
    return from != NULL;
}

/* ---- steps ---------------------------------------------------------------------------------------------------- */

void preprocess_box(const image *rgba, int *x0, int *y0, int *x1, int *y1) {
    int     W = rgba->width;
    int64_t n = 0;
    *x0 = W, *y0 = rgba->height, *x1 = *y1 = 0;
    for (int y = 0; y < rgba->height; y++) {
        const uint8_t *alpha = rgba->pixel + 4 * (int64_t)y * W + 3;
        int            here = 0, low = 0, high = W;
        for (int x = 0; x < W; x++) here += alpha[4 * x] != 0;
        if (here == 0) continue;
        while (alpha[4 * low] == 0) low++;
        while (alpha[4 * high - 4] == 0) high--;
        n += here;
        if (low < *x0) *x0 = low;
        if (high > *x1) *x1 = high;
        if (y < *y0) *y0 = y;
        *y1 = y + 1;
    }
    if ((double)n < 0.001 * W * rgba->height) *x0 = *y0 = 0, *x1 = W, *y1 = rgba->height;
}

/* A product rounded on its own: fused with the sum it would be truncated to another byte where the exact result is a
 * whole number. */
static double __attribute__((noinline)) rounded_product(double a, double b) {
    return a * b;
}

static uint8_t on_white(int value, int alpha) {
    double a = alpha / 255.0;
    return (uint8_t)((rounded_product(value / 255.0, a) + (1 - a)) * 255);
}

void preprocess_composite(const image *rgba, int x0, int y0, int x1, int y1, uint8_t *rgb, uint8_t *mask) {
    uint8_t solid[256]; /* most pixels are or are clear */
    for (int v = 0; v < 256; v++) solid[v] = on_white(v, 255);
    for (int y = y0; y < y1; y++) {
        const uint8_t *p = rgba->pixel + 4 * ((int64_t)y * rgba->width + x0);
        for (int x = x0; x < x1; x++, p += 4, rgb += 3) {
            *mask++ = p[3];
            if (p[3] == 0)
                memset(rgb, 255, 3);
            else
                for (int c = 0; c < 3; c++) rgb[c] = p[3] == 255 ? solid[p[c]] : on_white(p[c], p[3]);
        }
    }
}

/* Puts in [h,w,channels] into the middle of out [side,side,channels]. */
static void pad_square(const uint8_t *in, int w, int h, int channels, uint8_t fill, uint8_t *out, int side) {
    int left = (side - w) / 2, top = (side - h) / 2;
    memset(out, fill, (size_t)side * (size_t)side * (size_t)channels);
    for (int y = 0; y < h; y++)
        memcpy(out + ((int64_t)(top + y) * side + left) * channels, in + (int64_t)y * w * channels,
               (size_t)w * (size_t)channels);
}

bool preprocess(const image *rgba, int size, int pad, image *rgb, uint8_t *mask, status *st) {
    CHECK(rgba->channels == 4 && size > 0 && pad >= 0, "%d channels, size %d, pad %d", rgba->channels, size, pad);
    int x0, y0, x1, y1;
    preprocess_box(rgba, &x0, &y0, &x1, &y1);
    int w = x1 - x0, h = y1 - y0, side = w > h ? w : h, padded = size + 2 * pad, most = side > padded ? side : padded;
    size_t   pixels = (size_t)most * (size_t)most;
    uint8_t *a = malloc(3 * pixels), *b = malloc(3 * pixels), *m = malloc(pixels), *k = malloc(pixels);
    *rgb = (image){size, size, 3, malloc(3 * (size_t)size * (size_t)size)};
    bool good = a && b && m && k && rgb->pixel;
    if (good) {
        preprocess_composite(rgba, x0, y0, x1, y1, a, m);
        pad_square(a, w, h, 3, 255, b, side);
        pad_square(m, w, h, 1, 0, k, side);
        good = resize_square(b, side, rgb->pixel, size) && resize_nearest(k, side, mask, size);
    }
    if (good && pad > 0) {
        pad_square(rgb->pixel, size, size, 3, 255, b, padded);
        pad_square(mask, size, size, 1, 0, k, padded);
        good = resize_square(b, padded, rgb->pixel, size) && resize_nearest(k, padded, mask, size);
    }
    free(a), free(b), free(m), free(k);
    if (good) return true;
    free(rgb->pixel);
    *rgb = (image){0};
    return status_set(st, ST_DATA, "out of memory for an image of %d x %d", most, most);
}

/* ---- tokens --------------------------------------------------------------------------------------------------- */

void patch_mask(const uint8_t *mask, int width, int height, uint8_t *patch) {
    CHECK(width % PATCH_SIDE == 0 && height % PATCH_SIDE == 0, "mask of %d x %d", width, height);
    int columns = width / PATCH_SIDE;
    memset(patch, 0, (size_t)(columns * (height / PATCH_SIDE)));
    for (int y = 0; y < height; y++)
        for (int column = 0; column < columns; column++) {
            const uint8_t *m = mask + (int64_t)y * width + column * PATCH_SIDE;
            uint8_t        any = 0;
            for (int x = 0; x < PATCH_SIDE; x++) any |= m[x];
            if (any) patch[y / PATCH_SIDE * columns + column] = 1;
        }
}

static void put_coord(int32_t *coord, int64_t n, int x, int y, int z) {
    if (coord) coord[3 * n] = x, coord[3 * n + 1] = y, coord[3 * n + 2] = z;
}

int64_t tokens_extract(const float *tokens, int n_special, int rows, int columns, int width, const uint8_t *patch,
                       float *out, int32_t *coord) {
    int64_t n = 0;
    for (int i = 0; i < n_special + rows * columns; i++) {
        int p = i - n_special;
        if (p >= 0 && !patch[p]) continue;
        if (out) memcpy(out + n * width, tokens + (int64_t)i * width, (size_t)width * sizeof(float));
        if (p < 0)
            put_coord(coord, n, 0, 0, 1);
        else
            put_coord(coord, n, p % columns, p / columns, 0);
        n++;
    }
    return n;
}

int64_t patches_count(const uint8_t *mask, int size, bool sparse) {
    int side = size / PATCH_SIDE;
    CHECK(size > 0 && size % PATCH_SIDE == 0, "image side %d is not a multiple of %d", size, PATCH_SIDE);
    if (!sparse) return (int64_t)side * side;
    uint8_t *patch = malloc((size_t)(side * side));
    CHECK(patch, "no memory for %d patches", side * side);
    patch_mask(mask, size, size, patch);
    int64_t n = tokens_extract(NULL, 1, side, side, PATCH_WIDTH, patch, NULL, NULL);
    free(patch);
    return n;
}

/* What each byte becomes, by channel: ImageNet's mean and standard deviation. */
typedef struct {
    float of[3][256];
} pixel_numbers;

static void pixel_numbers_init(pixel_numbers *n) {
    static const float mean[3] = {0.485f, 0.456f, 0.406f}, std[3] = {0.229f, 0.224f, 0.225f};
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++) n->of[c][v] = ((float)v / 255.0f - mean[c]) / std[c];
}

static void patch_pixels(const image *rgb, const pixel_numbers *number, int row, int column, float *out) {
    for (int y = 0; y < PATCH_SIDE; y++) {
        const uint8_t *p = rgb->pixel + 3 * ((int64_t)(row * PATCH_SIDE + y) * rgb->width + column * PATCH_SIDE);
        for (int c = 0; c < 3; c++) {
            float *to = out + (c * PATCH_SIDE + y) * PATCH_SIDE;
            for (int x = 0; x < PATCH_SIDE; x++) to[x] = number->of[c][p[3 * x + c]];
        }
    }
}

void patches_fill(const image *rgb, const uint8_t *mask, bool sparse, float *tokens, int32_t *coord) {
    int           side = rgb->width / PATCH_SIDE;
    pixel_numbers number;
    pixel_numbers_init(&number);
    CHECK(rgb->width == rgb->height && rgb->width % PATCH_SIDE == 0 && rgb->channels == 3,
          "image of %d x %d, %d channels", rgb->width, rgb->height, rgb->channels);
    uint8_t *patch = malloc((size_t)(side * side));
    CHECK(patch, "no memory for %d patches", side * side);
    memset(patch, 1, (size_t)(side * side));
    int64_t n = 0;
    if (sparse) {
        patch_mask(mask, rgb->width, rgb->height, patch);
        memset(tokens, 0, PATCH_WIDTH * sizeof(float));
        put_coord(coord, n++, 0, 0, 1);
    }
    for (int p = 0; p < side * side; p++) {
        if (!patch[p]) continue;
        patch_pixels(rgb, &number, p / side, p % side, tokens + n * PATCH_WIDTH);
        put_coord(coord, n++, p % side, p / side, 0);
    }
    free(patch);
}
