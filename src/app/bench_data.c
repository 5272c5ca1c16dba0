#include "app/bench_data.h"
#include "app/bench_shell.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "core/rng.h"
#include "data/latents.h"
#include "data/shard.h"
#include "io/atomic_file.h"
#include "io/image.h"
#include "sparse/grid.h"

enum { VIEW_SIDE = 64 };
/* Voxels. The band is a little thicker than tau: every tile of a shell has cells in it, the last ones chosen, too. */
static const double TAU = 4, BAND = 4.5;

static char *text_of(const char *t) {
    char *c = malloc(strlen(t) + 1);
    CHECK(c, "no memory for a name");
    return strcpy(c, t);
}

/* Of the standard normal distribution. */
static double quantile(double share) {
    double low = -40, high = 40;
    for (int i = 0; i < 100; i++) {
        double middle = (low + high) / 2;
        if (erfc(-middle / sqrt(2)) / 2 < share)
            low = middle;
        else
            high = middle;
    }
    return low;
}

void bench_sizes(double spread, int64_t mean, int64_t n, int64_t *out) {
    enum { LEAST = 8, CUT = 12 };
    double  all = 0, before = 0;
    int64_t placed = 0, too_many;
    double *x = malloc((size_t)n * sizeof *x);
    CHECK(x && mean >= LEAST, "%lld shapes of %lld tokens", (long long)n, (long long)mean);
    for (int64_t i = 0; i < n; i++) {
        x[i] = fmin(exp(spread * quantile(((double)i + 0.5) / (double)n)), CUT);
        all += x[i];
    }
    for (int64_t i = 0; i < n; i++) { /* rounded so that the sum is kept */
        before += x[i] / all * (double)n * (double)mean;
        int64_t end = i + 1 < n ? llround(before) : n * mean;
        out[i] = end - placed < LEAST ? LEAST : end - placed;
        placed = end;
    }
    too_many = -n * mean;
    for (int64_t i = 0; i < n; i++) too_many += out[i];
    for (int64_t i = n - 1; i >= 0 && too_many > 0; i--) {
        int64_t take = out[i] - LEAST < too_many ? out[i] - LEAST : too_many;
        out[i] -= take;
        too_many -= take;
    }
    free(x);
}

void        bench_data_values(const int32_t *coord, int64_t n, int edge, double radius, float *value) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n * TILE_CELLS; i++) {
        int    cell[3];
        double d = 0;
        morton_decode((int)(i % TILE_CELLS), &cell[0], &cell[1], &cell[2]);
        for (int k = 0; k < 3; k++) {
            double at = 8 * (coord[3 * (i / TILE_CELLS) + k] - edge / 2) + cell[k] - 3.5;
            d += at * at;
        }
        d = (sqrt(d) - 8 * radius) / BAND;
        value[i] = (float)(d > 1 ? 1 : d < -1 ? -1 : d);
    }
}

static bool add_view(sample *s, status *st) {
    image im = {.width = VIEW_SIDE, .height = VIEW_SIDE, .channels = 4, .pixel = malloc(VIEW_SIDE * VIEW_SIDE * 4)};
    s->n_views = 1;
    s->camera = calloc(1, VIEW_CAMERA_FLOATS * sizeof(float));
    s->png = malloc(sizeof *s->png);
    s->png_size = malloc(sizeof *s->png_size);
    CHECK(im.pixel && s->camera && s->png && s->png_size, "no memory for a view");
    for (int i = 0; i < VIEW_SIDE * VIEW_SIDE; i++)
        memcpy(im.pixel + 4 * i, (uint8_t[]){(uint8_t)(4 * (i % VIEW_SIDE)), (uint8_t)(4 * (i / VIEW_SIDE)), 128, 255},
               4);
    bool ok = image_encode_png(&im, &s->png[0], &s->png_size[0], st);
    image_free(&im);
    return ok;
}

/* values: else all of them are 0, and nothing is counted. */
static sample make_sample(int64_t k, int64_t tokens, int edge, bool values) {
    char     name[32];
    int32_t *coord = malloc((size_t)tokens * 3 * sizeof *coord + 1);
    sample   s = {.n_tiles = tokens, .scale = 1, .category = text_of("shell"), .report = text_of("{}")};
    snprintf(name, sizeof name, "shell-%lld", (long long)k);
    s.id = hash_text(name);
    s.source = text_of(name);
    s.coord = malloc((size_t)tokens * 3 * sizeof *s.coord + 1);
    s.value = calloc((size_t)tokens * TILE_CELLS + 1, sizeof *s.value);
    s.sharp = calloc((size_t)tokens + 1, TILE_SHARP_BYTES);
    CHECK(coord && s.coord && s.value && s.sharp, "no memory for %lld tiles", (long long)tokens);
    double radius = shell_cells(tokens, edge, 8, coord);
    for (int64_t i = 0; i < 3 * tokens; i++) s.coord[i] = (uint16_t)coord[i];
    if (values) {
        float *value = malloc((size_t)tokens * TILE_CELLS * sizeof *value + 1);
        CHECK(value, "no memory for %lld tiles", (long long)tokens);
        bench_data_values(coord, tokens, edge, radius, value);
        for (int64_t i = 0; i < tokens * TILE_CELLS; i++) s.value[i] = f32_to_f16(value[i]);
        memset(s.sharp, 0x11, (size_t)tokens * TILE_SHARP_BYTES); /* a quarter of the cells */
        free(value);
        sample_count(&s);
    }
    free(coord);
    return s;
}

static bool add_latents(latents_writer *w, const sample *s, int channels, status *st) {
    int64_t n = s->n_tiles * channels;
    float  *mean = malloc((size_t)n * sizeof *mean + 1), *logvar = malloc((size_t)n * sizeof *logvar + 1);
    CHECK(mean && logvar, "no memory for %lld latents", (long long)n);
    rng_fill_normal((rng_key){.purpose = RNG_TEST, .sample = s->id}, 0, n, mean);
    for (int64_t i = 0; i < n; i++) logvar[i] = -4;
    bool ok = latents_append(w, s->id, s->n_tiles, s->coord, mean, logvar, st);
    free(mean);
    free(logvar);
    return ok;
}

bool bench_data_write(const char *folder, const int64_t *tokens, int64_t n, int edge, int channels, bool values,
                      status *st) {
    char       path[PATH_CAP], shards[PATH_CAP], lat[PATH_CAP];
    shard_meta meta = {.resolution = 8 * edge, .tau_voxels = TAU};
    latents about = {.vae = 1, .channels = channels, .resolution = 8 * edge, .tau_voxels = TAU, .shard = "part-0.h5"};
    if (!join_path(folder, "shards", shards, st) || !join_path(folder, "latents", lat, st) ||
        !make_folder(shards, st) || !make_folder(lat, st) || !join_path(shards, "part-0.h5", path, st))
        return false;
    shard_writer   *w = shard_create(path, &meta, st);
    latents_writer *l = w && join_path(lat, "part-0.h5", path, st) ? latents_create(path, &about, st) : NULL;
    bool            ok = w && l;
    for (int64_t k = 0; ok && k < n; k++) {
        sample s = make_sample(k, tokens[k], edge, values);
        ok = add_view(&s, st) && shard_append(w, &s, st) && add_latents(l, &s, channels, st);
        sample_free(&s);
    }
    if (ok) return shard_finish(w, st) & latents_finish(l, st);
    if (w) shard_abandon(w);
    if (l) latents_abandon(l);
    return false;
}
