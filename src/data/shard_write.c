/* Writing shards. Tile rows and images go to the file sample by sample; the small tables wait in memory until
 * finish. */
#include "data/shard_internal.h"
#include "core/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
/* With the vector instructions that this file is compiled for: the library has the oldest only, and samples are 50 MB.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

/* Rows per chunk: a chunk is what one read decompresses, a sample has hundreds to tens of thousands of tiles.
 */
enum { CHUNK_COORD = 2048, CHUNK_VALUE = 128, CHUNK_SHARP = 512, CHUNK_PNG = 64 << 10, CHUNK_CAMERA = 64 };
enum { DEFLATE = 4 };

struct shard_writer {
    char       path[PATH_CAP], part[PATH_CAP];
    shard_meta meta;
    hid_t      file, coord, value, sharp, png, camera;
    int64_t    n, cap; /* samples */
    uint64_t  *id, *hash, *source_hash;
    int64_t   *first, *view_first, *n_in, *n_sharp;
    char     **source, **category, **report;
    double    *center, *scale;
    int64_t    n_views, view_cap;
    int64_t   *png_first;
    uint64_t  *view_hash;
    bool       failed;
};

uint64_t sample_hash(int64_t n_tiles, const uint16_t *coord, const uint16_t *value, const uint8_t *sharp) {
    XXH3_state_t *h = XXH3_createState();
    CHECK(h, "no memory for a hash state");
    XXH3_64bits_reset(h);
    XXH3_64bits_update(h, coord, (size_t)n_tiles * 3 * sizeof *coord);
    XXH3_64bits_update(h, value, (size_t)n_tiles * TILE_CELLS * sizeof *value);
    XXH3_64bits_update(h, sharp, (size_t)n_tiles * TILE_SHARP_BYTES);
    uint64_t out = XXH3_64bits_digest(h);
    XXH3_freeState(h);
    return out;
}

void sample_count(sample *s) {
    s->n_in = s->n_sharp = 0;
    for (int64_t t = 0; t < s->n_tiles; t++) {
        for (int c = 0; c < TILE_CELLS; c++) {
            if (!(fabsf(f16_to_f32(s->value[t * TILE_CELLS + c])) < 1)) continue;
            s->n_in++;
            s->n_sharp += s->sharp[t * TILE_SHARP_BYTES + c / 8] >> c % 8 & 1;
        }
    }
}

void sample_free(sample *s) {
    free(s->source);
    free(s->category);
    free(s->report);
    free(s->coord);
    free(s->value);
    free(s->sharp);
    free(s->camera);
    for (int v = 0; s->png && v < s->n_views; v++) free(s->png[v]);
    free(s->png);
    free(s->png_size);
    *s = (sample){0};
}

static void writer_free(shard_writer *w) {
    for (int64_t i = 0; i < w->n; i++) {
        free(w->source[i]);
        free(w->category[i]);
        free(w->report[i]);
    }
    free(w->id);
    free(w->hash);
    free(w->source_hash);
    free(w->first);
    free(w->view_first);
    free(w->n_in);
    free(w->n_sharp);
    free(w->source);
    free(w->category);
    free(w->report);
    free(w->center);
    free(w->scale);
    free(w->png_first);
    free(w->view_hash);
    free(w);
}

void shard_abandon(shard_writer *w) {
    if (!w) return;
    if (w->file >= 0) h5_file_discard(w->file, w->part);
    writer_free(w);
}

#define GROW(array, count)                                                                                             \
    do {                                                                                                               \
        (array) = realloc((array), (size_t)(count) * sizeof *(array));                                                 \
        CHECK((array), "no memory for %lld rows of a shard table", (long long)(count));                                \
    } while (0)

static void grow_samples(shard_writer *w) {
    w->cap = w->cap ? 2 * w->cap : 64;
    GROW(w->id, w->cap);
    GROW(w->hash, w->cap);
    GROW(w->source_hash, w->cap);
    GROW(w->first, w->cap + 1);
    GROW(w->view_first, w->cap + 1);
    GROW(w->n_in, w->cap);
    GROW(w->n_sharp, w->cap);
    GROW(w->source, w->cap);
    GROW(w->category, w->cap);
    GROW(w->report, w->cap);
    GROW(w->center, w->cap * 3);
    GROW(w->scale, w->cap);
}

static void grow_views(shard_writer *w) {
    w->view_cap = w->view_cap ? 2 * w->view_cap : 256;
    GROW(w->png_first, w->view_cap + 1);
    GROW(w->view_hash, w->view_cap);
}

shard_writer *shard_create(const char *path, const shard_meta *meta, status *st) {
    CHECK(meta->resolution >= 8 && meta->resolution % 8 == 0 && meta->resolution <= 65536 * 8 && meta->tau_voxels > 0,
          "shard of resolution %d, tau %g voxels", meta->resolution, meta->tau_voxels);
    shard_writer *w = calloc(1, sizeof *w);
    CHECK(w, "no memory for a shard writer");
    w->meta = *meta;
    if ((w->file = sample_file_create(path, w->part, st)) < 0) goto fail;
    strcpy(w->path, path);
    if (!h5_group(w->file, "tile", st) || !h5_group(w->file, "sample", st) || !h5_group(w->file, "view", st) ||
        (w->coord = h5_table_create(w->file, "tile/coord", H5T_STD_U16LE, 3, CHUNK_COORD, DEFLATE, st)) < 0 ||
        (w->value = h5_table_create(w->file, "tile/value", h5_half(), TILE_CELLS, CHUNK_VALUE, DEFLATE, st)) < 0 ||
        (w->sharp = h5_table_create(w->file, "tile/sharp", H5T_STD_U8LE, TILE_SHARP_BYTES, CHUNK_SHARP, DEFLATE, st)) <
            0 ||
        (w->camera = h5_table_create(w->file, "view/camera", H5T_IEEE_F32LE, VIEW_CAMERA_FLOATS, CHUNK_CAMERA, DEFLATE,
                                     st)) < 0 ||
        (w->png = h5_table_create(w->file, "view/png", H5T_STD_U8LE, 0, CHUNK_PNG, 0, st)) < 0)
        goto fail;
    grow_samples(w);
    grow_views(w);
    w->first[0] = w->view_first[0] = w->png_first[0] = 0;
    return w;
fail:
    shard_abandon(w);
    return NULL;
}

static bool append_views(shard_writer *w, const sample *s, status *st) {
    if (!h5_table_append(w->camera, H5T_NATIVE_FLOAT, s->n_views, s->camera, st)) return false;
    for (int v = 0; v < s->n_views; v++) {
        if (w->n_views == w->view_cap) grow_views(w);
        if (!h5_table_append(w->png, H5T_NATIVE_UINT8, s->png_size[v], s->png[v], st)) return false;
        w->view_hash[w->n_views] = XXH3_64bits(s->png[v], (size_t)s->png_size[v]);
        w->png_first[w->n_views + 1] = w->png_first[w->n_views] + s->png_size[v];
        w->n_views++;
    }
    return true;
}

bool shard_append(shard_writer *w, const sample *s, status *st) {
    CHECK(s->n_tiles >= 0 && s->n_views >= 0, "sample of %lld tiles, %d views", (long long)s->n_tiles, s->n_views);
    if (w->failed) return status_set(st, ST_IO, "%s: an earlier write failed", w->path);
    if (w->n == w->cap) grow_samples(w);
    if (!h5_table_append(w->coord, H5T_NATIVE_UINT16, s->n_tiles, s->coord, st) ||
        !h5_table_append(w->value, h5_half(), s->n_tiles, s->value, st) ||
        !h5_table_append(w->sharp, H5T_NATIVE_UINT8, s->n_tiles, s->sharp, st) || !append_views(w, s, st)) {
        w->failed = true;
        return false;
    }
    int64_t i = w->n++;
    sample  counted = *s;
    sample_count(&counted);
    w->id[i] = s->id;
    w->hash[i] = sample_hash(s->n_tiles, s->coord, s->value, s->sharp);
    w->source_hash[i] = s->source_hash;
    w->first[i + 1] = w->first[i] + s->n_tiles;
    w->view_first[i + 1] = w->n_views;
    w->n_in[i] = counted.n_in;
    w->n_sharp[i] = counted.n_sharp;
    memcpy(w->center + 3 * i, s->center, sizeof s->center);
    w->scale[i] = s->scale;
    w->source[i] = strdup(s->source ? s->source : "");
    w->category[i] = strdup(s->category ? s->category : "");
    w->report[i] = strdup(s->report ? s->report : "{}");
    CHECK(w->source[i] && w->category[i] && w->report[i], "no memory for the texts of a sample");
    return true;
}

static bool put_tables(shard_writer *w, status *st) {
    hid_t   f = w->file, u64 = H5T_STD_U64LE, i64 = H5T_STD_I64LE, f64 = H5T_IEEE_F64LE;
    int64_t n = w->n;
    return h5_table_put(f, "sample/id", u64, 0, n, w->id, st) &&
           h5_table_put(f, "sample/first", i64, 0, n + 1, w->first, st) &&
           h5_table_put(f, "sample/n_in", i64, 0, n, w->n_in, st) &&
           h5_table_put(f, "sample/n_sharp", i64, 0, n, w->n_sharp, st) &&
           h5_table_put(f, "sample/hash", u64, 0, n, w->hash, st) &&
           h5_strings_put(f, "sample/source", n, w->source, st) &&
           h5_strings_put(f, "sample/category", n, w->category, st) &&
           h5_table_put(f, "sample/source_hash", u64, 0, n, w->source_hash, st) &&
           h5_table_put(f, "sample/center", f64, 3, n, w->center, st) &&
           h5_table_put(f, "sample/scale", f64, 0, n, w->scale, st) &&
           h5_strings_put(f, "sample/report", n, w->report, st) &&
           h5_table_put(f, "view/first", i64, 0, n + 1, w->view_first, st) &&
           h5_table_put(f, "view/png_first", i64, 0, w->n_views + 1, w->png_first, st) &&
           h5_table_put(f, "view/hash", u64, 0, w->n_views, w->view_hash, st);
}

static bool put_attributes(shard_writer *w, status *st) {
    hid_t f = w->file;
    return sample_file_set_kind(f, &shard_kind, st) && h5_set_text(f, "tool", "d3s2 prep", st) &&
           h5_set_i64(f, "resolution", w->meta.resolution, st) && h5_set_f64(f, "tau_voxels", w->meta.tau_voxels, st) &&
           h5_set_text(f, "sign", "positive outside", st) &&
           h5_set_text(f, "units",
                       "value = clamp(distance / tau, -1, 1), tau = tau_voxels / resolution in the unit cube "
                       "[-0.5, 0.5]^3",
                       st) &&
           h5_set_text(f, "grid", "corner aligned: voxel i at i/(R-1) - 0.5", st) &&
           h5_set_i64(f, "n_samples", w->n, st) && h5_set_i64(f, "n_tiles", w->first[w->n], st) &&
           h5_set_i64(f, "n_views", w->n_views, st) && sample_file_set_complete(f, st);
}

bool shard_finish(shard_writer *w, status *st) {
    if (w->failed) status_set(st, ST_IO, "%s: an earlier write failed", w->path);
    if (w->failed || !put_tables(w, st) || !put_attributes(w, st)) {
        shard_abandon(w);
        return false;
    }
    bool ok = h5_file_finish(w->file, w->part, st) && atomic_publish(w->part, w->path, st);
    w->file = -1;
    writer_free(w);
    return ok;
}
