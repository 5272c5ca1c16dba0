/* A full audit of one shard: what `d3s2 check` runs and what a download deserves before a long training. */
#include "data/shard_internal.h"
#include "core/half.h"
#include "io/image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Place of a tile in the final order: its 8^3 block lexicographically, then its place in the block. R§4.2 */
static uint64_t order_key(const uint16_t *c) {
    uint64_t block = (uint64_t)(c[0] >> 3) << 32 | (uint64_t)(c[1] >> 3) << 16 | (uint64_t)(c[2] >> 3);
    return block << 9 | (uint64_t)((c[0] & 7) << 6 | (c[1] & 7) << 3 | (c[2] & 7));
}

static bool check_tiles(const shard *s, const sample *x, char *what, size_t cap) {
    int      grid = s->meta.resolution / 8;
    uint64_t before = 0;
    for (int64_t t = 0; t < x->n_tiles; t++) {
        const uint16_t *c = x->coord + 3 * t;
        if (c[0] >= grid || c[1] >= grid || c[2] >= grid) {
            snprintf(what, cap, "tile %lld is at (%d,%d,%d), outside the grid of %d", (long long)t, c[0], c[1], c[2],
                     grid);
            return false;
        }
        uint64_t key = order_key(c);
        if (t && key <= before) {
            snprintf(what, cap, "tile %lld at (%d,%d,%d) %s", (long long)t, c[0], c[1], c[2],
                     key == before ? "is there twice" : "is out of order");
            return false;
        }
        before = key;
        for (int v = 0; v < TILE_CELLS; v++) {
            float f = f16_to_f32(x->value[t * TILE_CELLS + v]);
            if (!(fabsf(f) <= 1)) {
                snprintf(what, cap, "tile %lld, cell %d: value %g is not in [-1,1]", (long long)t, v, (double)f);
                return false;
            }
        }
    }
    return true;
}

static bool check_views(const sample *x, char *what, size_t cap) {
    for (int v = 0; v < x->n_views; v++) {
        image  im = {0};
        status st = {0};
        char   name[32];
        snprintf(name, sizeof name, "view %d", v);
        if (!image_decode(x->png[v], x->png_size[v], name, &im, &st)) {
            snprintf(what, cap, "%.120s", st.text);
            return false;
        }
        const float *k = x->camera + v * VIEW_CAMERA_FLOATS;
        bool         ok = im.channels == 4 && (float)im.width == k[20] && (float)im.height == k[21];
        for (int j = 0; j < VIEW_CAMERA_FLOATS; j++) ok = ok && isfinite(k[j]);
        if (!ok)
            snprintf(what, cap, "view %d: image %dx%d with %d channels, its camera says %gx%g and RGBA", v, im.width,
                     im.height, im.channels, (double)k[20], (double)k[21]);
        image_free(&im);
        if (!ok) return false;
    }
    return true;
}

static bool check_sample(const shard *s, int64_t i, char *what, size_t cap) {
    sample x;
    status st = {0};
    if (!shard_read_sample(s, i, true, &x, &st)) {
        snprintf(what, cap, "its tiles or views do not match their checksums");
        return false;
    }
    sample counted = x;
    sample_count(&counted);
    bool ok = false;
    if (x.n_tiles == 0)
        snprintf(what, cap, "has no tile");
    else if (!isfinite(x.scale) || !(x.scale > 0) || !isfinite(x.center[0] + x.center[1] + x.center[2]))
        snprintf(what, cap, "impossible normalisation: scale %g", x.scale);
    else if (counted.n_in != x.n_in || counted.n_sharp != x.n_sharp)
        snprintf(what, cap, "says %lld cells inside and %lld sharp, has %lld and %lld", (long long)x.n_in,
                 (long long)x.n_sharp, (long long)counted.n_in, (long long)counted.n_sharp);
    else
        ok = check_tiles(s, &x, what, cap) && check_views(&x, what, cap);
    sample_free(&x);
    return ok;
}

typedef struct {
    uint64_t id;
    int64_t  i;
} id_place;

static int by_id(const void *a, const void *b) {
    const id_place *x = a, *y = b;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return x->i < y->i ? -1 : x->i > y->i;
}

/* duplicate[i]: an earlier sample has the same id. */
static bool *find_duplicates(const shard *s) {
    id_place *p = malloc((size_t)(s->n_samples + 1) * sizeof *p);
    bool     *duplicate = calloc((size_t)(s->n_samples + 1), sizeof *duplicate);
    CHECK(p && duplicate, "no memory for %lld ids", (long long)s->n_samples);
    for (int64_t i = 0; i < s->n_samples; i++) p[i] = (id_place){s->id[i], i};
    qsort(p, (size_t)s->n_samples, sizeof *p, by_id);
    for (int64_t i = 1; i < s->n_samples; i++) duplicate[p[i].i] = p[i].id == p[i - 1].id;
    free(p);
    return duplicate;
}

bool shard_check(const char *path, int64_t *n_bad, status *st) {
    shard s;
    *n_bad = 0;
    if (!shard_open(&s, path, st)) return false;
    bool *duplicate = find_duplicates(&s);
    for (int64_t i = 0; i < s.n_samples; i++) {
        char what[200] = "another sample of this shard has the same id";
        if (!duplicate[i] && check_sample(&s, i, what, sizeof what)) continue;
        ++*n_bad;
        log_warn("%s: sample %lld (%s): %s", path, (long long)i, s.source[i], what);
        status_set(st, ST_DATA, "%s: sample %lld (%.100s): %s: prepare the shard again", path, (long long)i,
                   s.source[i], what);
    }
    free(duplicate);
    shard_close(&s);
    return *n_bad == 0;
}
