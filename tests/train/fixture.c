#include "fixture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "core/rng.h"
#include "data/latents.h"
#include "data/shard.h"
#include "io/atomic_file.h"
#include "io/image.h"
#include "sparse/blocks.h"

enum { CHANNELS = 4, VIEWS = 2, VIEW_SIDE = 32 };

/* Signed distance of shape k: spheres and boxes in turn, each of its own size. *edge: near an edge of the box. */
static double distance(int k, const double p[3], bool *edge) {
    double size = 0.2 + 0.025 * (k % 7);
    *edge = false;
    if (k % 2 == 0) return sqrt(p[0] * p[0] + p[1] * p[1] + p[2] * p[2]) - size;
    double out = 0, in = -1;
    int    near = 0;
    for (int i = 0; i < 3; i++) {
        double d = fabs(p[i]) - size * (i == 2 ? 0.7 : 1.0);
        out += d > 0 ? d * d : 0;
        if (d > in) in = d;
        near += fabs(d) < 0.05;
    }
    *edge = near >= 2;
    return out > 0 ? sqrt(out) : in;
}

static void make_tiles(int k, int R, double tau, sample *s) {
    int      L = R / 8;
    int32_t *coord = malloc((size_t)(L * L * L) * 3 * sizeof *coord);
    s->coord = malloc((size_t)(L * L * L) * 3 * sizeof *s->coord);
    s->value = malloc((size_t)(L * L * L) * TILE_CELLS * sizeof *s->value);
    s->sharp = calloc((size_t)(L * L * L), TILE_SHARP_BYTES);
    for (int t = 0; t < L * L * L; t++) {
        int32_t   at[3] = {t / (L * L), t / L % L, t % L};
        uint16_t *value = s->value + s->n_tiles * TILE_CELLS;
        uint8_t  *sharp = s->sharp + s->n_tiles * TILE_SHARP_BYTES;
        bool      active = false;
        memset(sharp, 0, TILE_SHARP_BYTES);
        for (int c = 0; c < TILE_CELLS; c++) {
            int    cell[3];
            double p[3];
            bool   edge;
            morton_decode(c, &cell[0], &cell[1], &cell[2]);
            for (int i = 0; i < 3; i++) p[i] = (8 * at[i] + cell[i]) / (R - 1.0) - 0.5;
            double v = distance(k, p, &edge) * R / tau;
            value[c] = f32_to_f16((float)(v > 1 ? 1 : v < -1 ? -1 : v));
            bool in = fabsf(f16_to_f32(value[c])) < 1;
            active |= in;
            if (edge && in) sharp[c / 8] |= (uint8_t)(1 << c % 8);
        }
        if (!active) continue;
        memcpy(coord + 3 * s->n_tiles++, at, sizeof at);
    }
    /* One block of 8^3 tiles holds a grid up to 64^3 voxels, and the loop above is lexicographic: already in order. */
    for (int64_t i = 0; i < 3 * s->n_tiles; i++) s->coord[i] = (uint16_t)coord[i];
    free(coord);
}

static void make_views(int k, sample *s) {
    s->n_views = VIEWS;
    s->camera = calloc(VIEWS, VIEW_CAMERA_FLOATS * sizeof(float));
    s->png = malloc(VIEWS * sizeof *s->png);
    s->png_size = malloc(VIEWS * sizeof *s->png_size);
    for (int v = 0; v < VIEWS; v++) {
        status st = {0};
        s->camera[v * VIEW_CAMERA_FLOATS + 20] = s->camera[v * VIEW_CAMERA_FLOATS + 21] = VIEW_SIDE;
        image im = {.width = VIEW_SIDE, .height = VIEW_SIDE, .channels = 4, .pixel = malloc(VIEW_SIDE * VIEW_SIDE * 4)};
        for (int i = 0; i < VIEW_SIDE * VIEW_SIDE; i++) {
            int  x = i % VIEW_SIDE - VIEW_SIDE / 2, y = i / VIEW_SIDE - VIEW_SIDE / 2, r = 6 + k % 7;
            bool in = k % 2 ? abs(x) < r && abs(y) < r : x * x + y * y < r * r;
            memcpy(im.pixel + 4 * i,
                   (uint8_t[4]){(uint8_t)(20 * k), (uint8_t)(128 + x * 4), (uint8_t)(90 * v), in ? 255 : 0}, 4);
        }
        CHECK(image_encode_png(&im, &s->png[v], &s->png_size[v], &st), "%s", st.text);
        image_free(&im);
    }
}

static char *text_copy(const char *t) {
    char *c = malloc(strlen(t) + 1);
    return strcpy(c, t);
}

static sample make_sample(int k, int R, double tau) {
    sample s = {.scale = 1};
    char   name[32];
    snprintf(name, sizeof name, "shape-%d", k);
    s.id = hash_text(name);
    s.source = text_copy(name);
    s.category = text_copy(k % 2 ? "box" : "sphere");
    s.report = text_copy("{}");
    make_tiles(k, R, tau, &s);
    make_views(k, &s);
    sample_count(&s);
    return s;
}

static void append_latents(latents_writer *w, const sample *s) {
    int64_t n = s->n_tiles * CHANNELS;
    float  *mean = malloc((size_t)n * sizeof *mean), *logvar = malloc((size_t)n * sizeof *logvar);
    status  st = {0};
    for (int64_t i = 0; i < n; i++) {
        const uint16_t *c = s->coord + 3 * (i / CHANNELS);
        mean[i] = sinf(0.9f * (float)c[i % 3] + 0.4f * (float)(i % CHANNELS)) + 0.1f * (float)(s->id % 7);
        logvar[i] = -4;
    }
    CHECK(latents_append(w, s->id, s->n_tiles, s->coord, mean, logvar, &st), "%s", st.text);
    free(mean);
    free(logvar);
}

void fixture_write(const char *folder, const fixture_spec *spec) {
    char       path[PATH_CAP];
    status     st = {0};
    shard_meta meta = {.resolution = spec->resolution, .tau_voxels = 2};
    snprintf(path, sizeof path, "%s/shards", folder);
    CHECK(make_folder(path, &st), "%s", st.text);
    snprintf(path, sizeof path, "%s/latents", folder);
    CHECK(make_folder(path, &st), "%s", st.text);
    int n_shards = (spec->n_samples + spec->per_shard - 1) / spec->per_shard;
    for (int f = 0, k = 0; f < n_shards; f++) {
        latents about = {.vae = spec->vae + (spec->vae_of_last_shard_differs && f == n_shards - 1),
                         .channels = CHANNELS,
                         .resolution = spec->resolution,
                         .tau_voxels = meta.tau_voxels};
        snprintf(about.shard, sizeof about.shard, "part-%d.h5", f);
        snprintf(path, sizeof path, "%s/shards/part-%d.h5", folder, f);
        shard_writer *w = shard_create(path, &meta, &st);
        snprintf(path, sizeof path, "%s/latents/part-%d.h5", folder, f);
        latents_writer *l = latents_create(path, &about, &st);
        CHECK(w && l, "%s", st.text);
        for (int i = 0; i < spec->per_shard && k < spec->n_samples; i++, k++) {
            sample s = make_sample(k, spec->resolution, meta.tau_voxels);
            CHECK(shard_append(w, &s, &st), "%s", st.text);
            append_latents(l, &s);
            sample_free(&s);
        }
        CHECK(shard_finish(w, &st) && latents_finish(l, &st), "%s", st.text);
    }
}

void fixture_options(options *o, const char *folder, const char *run, bool dit) {
    options_default(o);
    snprintf(o->data.train, sizeof o->data.train, "%s/shards", folder);
    snprintf(o->data.latents, sizeof o->data.latents, "%s/latents", folder);
    snprintf(o->train.run, sizeof o->train.run, "%s", run);
    o->train.model = dit ? opt_train_model_dit : opt_train_model_vae;
    o->train.device = opt_train_device_cpu; /* also where there is a GPU */
    o->train.steps = 20;
    o->train.batch_samples = 5;
    o->train.micro_tokens = 60;
    o->train.lr = 1e-3;
    o->train.warmup = 5;
    o->train.ema = 0.99;
    o->train.weight_decay = 0.01;
    o->train.clip_window = 8;
    o->train.log_every = 1;
    o->train.checkpoint_every = 0;
    o->train.eval_every = 0;
    o->vae.width = 32;
    o->vae.blocks = 2;
    o->vae.heads = 2;
    o->vae.latent_channels = CHANNELS;
    o->vae.groups = 4;
    o->vae.window = 2;
    o->vae.enc_widths = (option_ints){3, {8, 8, 16}};
    o->vae.dec_widths = (option_ints){3, {16, 8, 8}};
    o->dit.width = 64;
    o->dit.blocks = 2;
    o->dit.heads = 4;
    o->dit.kv_heads = 2;
    o->dit.groups = 4;
    o->dit.m_cmp = 1;
    o->dit.m_slc = 2; /* not the block edge the shards are sorted by */
    o->dit.m_win = 2;
    o->dit.topk = 3;
    o->dit.resolution = 4;
    o->dit.cond_width = 588;
    o->cond.size = 28;
    o->cond.pad_max = 4;
}
