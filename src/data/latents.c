/* Encoded samples on disk; the same rules as shards. */
#include "data/latents.h"
#include "data/open_list.h"
#include "data/pack.h"
#include "data/sample_file.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const file_kind kind = {"d3s2-latents", "encoded latents", "encode it again", 1};
enum { MAX_CHANNELS = 4096, CHUNK_BYTES = 128 << 10 };

typedef struct {
    pooled_file f;
    int64_t     tables; /* which opening of the file the tables are of */
    hid_t       coord, mean, logvar;
} latents_handle;

struct latents_writer {
    latents meta; /* id, first, hash grow here */
    char    part[PATH_CAP];
    hid_t   file, coord, mean, logvar;
    int64_t cap;
    bool    failed;
};

static uint64_t row_hash(int64_t n, int channels, const uint16_t *coord, const float *mean, const float *logvar) {
    XXH3_state_t *h = XXH3_createState();
    CHECK(h, "no memory for a hash state");
    XXH3_64bits_reset(h);
    XXH3_64bits_update(h, coord, (size_t)n * 3 * sizeof *coord);
    XXH3_64bits_update(h, mean, (size_t)n * (size_t)channels * sizeof *mean);
    XXH3_64bits_update(h, logvar, (size_t)n * (size_t)channels * sizeof *logvar);
    uint64_t out = XXH3_64bits_digest(h);
    XXH3_freeState(h);
    return out;
}

static void writer_free(latents_writer *w) {
    free(w->meta.id);
    free(w->meta.first);
    free(w->meta.hash);
    free(w);
}

void latents_abandon(latents_writer *w) {
    if (!w) return;
    if (w->file >= 0) h5_file_discard(w->file, w->part);
    writer_free(w);
}

static void grow(latents_writer *w) {
    w->cap = w->cap ? 2 * w->cap : 64;
    w->meta.id = realloc(w->meta.id, (size_t)w->cap * sizeof *w->meta.id);
    w->meta.first = realloc(w->meta.first, (size_t)(w->cap + 1) * sizeof *w->meta.first);
    w->meta.hash = realloc(w->meta.hash, (size_t)w->cap * sizeof *w->meta.hash);
    CHECK(w->meta.id && w->meta.first && w->meta.hash, "no memory for %lld latent samples", (long long)w->cap);
}

bool latents_make_room(const char *path, const uint64_t *id, int64_t n, status *st) {
    return sample_file_make_room(path, &kind, id, n, st);
}

latents_writer *latents_create(const char *path, const latents *meta, status *st) {
    CHECK(meta->channels > 0 && meta->channels <= MAX_CHANNELS && meta->resolution >= 8 && meta->tau_voxels > 0,
          "latents of %d channels, resolution %d, tau %g voxels", meta->channels, meta->resolution, meta->tau_voxels);
    latents_writer *w = calloc(1, sizeof *w);
    CHECK(w, "no memory for a latent writer");
    if ((w->file = sample_file_create(path, w->part, st)) < 0) goto fail;
    strcpy(w->meta.path, path);
    w->meta.vae = meta->vae;
    w->meta.channels = meta->channels;
    w->meta.resolution = meta->resolution;
    w->meta.tau_voxels = meta->tau_voxels;
    memcpy(w->meta.shard, meta->shard, sizeof w->meta.shard);
    int64_t chunk = CHUNK_BYTES / (4 * meta->channels);
    /* Means and log-variances are noise to a compressor and are stored as they are. */
    if (!h5_group(w->file, "tile", st) || !h5_group(w->file, "sample", st) || !h5_group(w->file, "latent", st) ||
        (w->coord = h5_table_create(w->file, "tile/coord", H5T_STD_U16LE, 3, 2048, 4, st)) < 0 ||
        (w->mean = h5_table_create(w->file, "latent/mean", H5T_IEEE_F32LE, meta->channels, chunk, 0, st)) < 0 ||
        (w->logvar = h5_table_create(w->file, "latent/logvar", H5T_IEEE_F32LE, meta->channels, chunk, 0, st)) < 0)
        goto fail;
    grow(w);
    w->meta.first[0] = 0;
    return w;
fail:
    latents_abandon(w);
    return NULL;
}

bool latents_append(latents_writer *w, uint64_t id, int64_t n_tiles, const uint16_t *coord, const float *mean,
                    const float *logvar, status *st) {
    latents *m = &w->meta;
    CHECK(n_tiles >= 0, "%lld latent tiles", (long long)n_tiles);
    if (w->failed) return status_set(st, ST_IO, "%s: an earlier write failed", m->path);
    if (m->n_samples == w->cap) grow(w);
    if (!h5_table_append(w->coord, H5T_NATIVE_UINT16, n_tiles, coord, st) ||
        !h5_table_append(w->mean, H5T_NATIVE_FLOAT, n_tiles, mean, st) ||
        !h5_table_append(w->logvar, H5T_NATIVE_FLOAT, n_tiles, logvar, st)) {
        w->failed = true;
        return false;
    }
    int64_t i = m->n_samples++;
    m->id[i] = id;
    m->hash[i] = row_hash(n_tiles, m->channels, coord, mean, logvar);
    m->first[i + 1] = m->first[i] + n_tiles;
    m->n_tiles += n_tiles;
    return true;
}

bool latents_finish(latents_writer *w, status *st) {
    const latents *m = &w->meta;
    hid_t          f = w->file;
    if (w->failed) status_set(st, ST_IO, "%s: an earlier write failed", m->path);
    if (w->failed || !h5_table_put(f, "sample/id", H5T_STD_U64LE, 0, m->n_samples, m->id, st) ||
        !h5_table_put(f, "sample/first", H5T_STD_I64LE, 0, m->n_samples + 1, m->first, st) ||
        !h5_table_put(f, "sample/hash", H5T_STD_U64LE, 0, m->n_samples, m->hash, st) ||
        !sample_file_set_kind(f, &kind, st) || !h5_set_u64(f, "vae", m->vae, st) ||
        !h5_set_i64(f, "channels", m->channels, st) || !h5_set_i64(f, "resolution", m->resolution, st) ||
        !h5_set_f64(f, "tau_voxels", m->tau_voxels, st) || !h5_set_text(f, "shard", m->shard, st) ||
        !h5_set_i64(f, "n_samples", m->n_samples, st) || !h5_set_i64(f, "n_tiles", m->n_tiles, st) ||
        !sample_file_set_complete(f, st)) {
        latents_abandon(w);
        return false;
    }
    bool ok = h5_file_finish(f, w->part, st) && atomic_publish(w->part, m->path, st);
    writer_free(w);
    return ok;
}

static latents_handle *handle_new(file_pool *pool) {
    latents_handle *h = calloc(1, sizeof *h);
    CHECK(h, "no memory for latents");
    pooled_init(&h->f, pool);
    return h;
}

/* The handle with the file and its tables open; NULL when the file is gone or another one by now. */
static const latents_handle *opened(const latents *l, status *st) {
    latents_handle *h = l->file;
    if (!pooled_open(&h->f, l->path, st)) return NULL;
    if (h->tables == h->f.opened) return h;
    hid_t f = h->f.file;
    if ((h->coord = h5_table_open(f, "tile/coord", H5T_NATIVE_UINT16, 3, l->n_tiles, NULL, st)) < 0 ||
        (h->mean = h5_table_open(f, "latent/mean", H5T_NATIVE_FLOAT, l->channels, l->n_tiles, NULL, st)) < 0 ||
        (h->logvar = h5_table_open(f, "latent/logvar", H5T_NATIVE_FLOAT, l->channels, l->n_tiles, NULL, st)) < 0) {
        pooled_close(&h->f);
        return NULL;
    }
    h->tables = h->f.opened;
    return h;
}

void latents_close(latents *l) {
    latents_handle *h = l->file;
    if (h) pooled_free(&h->f);
    free(h);
    free(l->id);
    free(l->first);
    free(l->hash);
    *l = (latents){0};
}

static bool read_header(latents *l, hid_t f, status *st) {
    int64_t channels, resolution;
    if (!sample_file_check(f, l->path, &kind, st) || !h5_get_u64(f, "vae", &l->vae, st) ||
        !h5_get_i64(f, "channels", &channels, st) || !h5_get_i64(f, "resolution", &resolution, st) ||
        !h5_get_f64(f, "tau_voxels", &l->tau_voxels, st) || !h5_get_text(f, "shard", l->shard, sizeof l->shard, st) ||
        !h5_get_i64(f, "n_samples", &l->n_samples, st) || !h5_get_i64(f, "n_tiles", &l->n_tiles, st))
        return false;
    if (channels < 1 || channels > MAX_CHANNELS || resolution < 8 || resolution > 8 * 65536 || resolution % 8 ||
        !(l->tau_voxels > 0) || !isfinite(l->tau_voxels) || l->n_samples < 0 || l->n_samples > INT32_MAX ||
        l->n_tiles < 0)
        return status_set(st, ST_DATA,
                          "%s: impossible sizes: %lld channels, resolution %lld, tau %g voxels, %lld "
                          "samples, %lld tiles",
                          l->path, (long long)channels, (long long)resolution, l->tau_voxels, (long long)l->n_samples,
                          (long long)l->n_tiles);
    l->channels = (int)channels;
    l->resolution = (int)resolution;
    return true;
}

static bool read_tables(latents *l, latents_handle *h, status *st) {
    hid_t   f = h->f.file;
    int64_t n = l->n_samples;
    if (!(l->id = h5_table_get(f, "sample/id", H5T_NATIVE_UINT64, 0, n, st)) ||
        !(l->first = h5_table_get(f, "sample/first", H5T_NATIVE_INT64, 0, n + 1, st)) ||
        !(l->hash = h5_table_get(f, "sample/hash", H5T_NATIVE_UINT64, 0, n, st)) || !opened(l, st))
        return false;
    return sample_file_offsets(l->path, &kind, "sample/first", l->first, n, l->n_tiles, st);
}

static bool open_in(latents *l, const char *path, file_pool *pool, status *st) {
    *l = (latents){0};
    if (strlen(path) >= sizeof l->path) return status_set(st, ST_USAGE, "%.200s...: the path is too long", path);
    strcpy(l->path, path);
    latents_handle *h = l->file = handle_new(pool);
    if (pooled_open(&h->f, path, st) && read_header(l, h->f.file, st) && read_tables(l, h, st)) return true;
    latents_close(l);
    return false;
}

bool latents_open(latents *l, const char *path, status *st) {
    return open_in(l, path, NULL, st);
}

bool latents_read(const latents *l, int64_t i, uint16_t **coord, float **mean, float **logvar, status *st) {
    CHECK(i >= 0 && i < l->n_samples, "%s: no sample %lld of %lld", l->path, (long long)i, (long long)l->n_samples);
    const latents_handle *h = opened(l, st);
    *coord = NULL;
    *mean = *logvar = NULL;
    if (!h) return false;
    int64_t n = l->first[i + 1] - l->first[i];
    size_t  rows = (size_t)(n ? n : 1), width = (size_t)l->channels * sizeof(float);
    status  why = {0};
    *coord = malloc(rows * 3 * sizeof **coord);
    *mean = malloc(rows * width);
    *logvar = malloc(rows * width);
    CHECK(*coord && *mean && *logvar, "no memory for %lld latents", (long long)n);
    if (h5_table_rows(h->coord, H5T_NATIVE_UINT16, l->first[i], n, *coord, &why) &&
        h5_table_rows(h->mean, H5T_NATIVE_FLOAT, l->first[i], n, *mean, &why) &&
        h5_table_rows(h->logvar, H5T_NATIVE_FLOAT, l->first[i], n, *logvar, &why) &&
        row_hash(n, l->channels, *coord, *mean, *logvar) == l->hash[i])
        return true;
    free(*coord);
    free(*mean);
    free(*logvar);
    *coord = NULL;
    *mean = *logvar = NULL;
    return status_set(st, ST_DATA,
                      "%s: sample %lld (id %016" PRIx64 "): its latents do not match their checksum: the "
                      "file is damaged, encode it again",
                      l->path, (long long)i, l->id[i]);
}

static bool open_item(void *item, const char *path, file_pool *pool, status *st) {
    return open_in(item, path, pool, st);
}

static bool alike(const void *item, const void *first, status *st) {
    const latents *l = item, *a = first;
    if (l->vae != a->vae)
        return status_set(st, ST_CONFIG,
                          "%s was encoded by VAE %016" PRIx64 ", %s by %016" PRIx64 ": encode all shards with one VAE",
                          l->path, l->vae, a->path, a->vae);
    if (l->channels == a->channels && l->resolution == a->resolution && l->tau_voxels == a->tau_voxels) return true;
    return status_set(
        st, ST_CONFIG, "%s has %d channels, resolution %d, tau %g voxels; %s has %d, %d, %g: keep one kind per folder",
        l->path, l->channels, l->resolution, l->tau_voxels, a->path, a->channels, a->resolution, a->tau_voxels);
}

static void close_item(void *item) {
    latents_close(item);
}

static const list_kind list = {sizeof(latents), "holds no latents (*.h5): run `d3s2 encode` first", open_item, alike,
                               close_item};

bool latents_open_all(const char *folder, latents **out, int *n_out, status *st) {
    void *items;
    bool  ok = open_list(folder, &list, &items, n_out, st);
    *out = items;
    return ok;
}

void latents_close_all(latents *l, int n) {
    close_list(l, n, &list);
}

static void pack_latents(packing *p, void *item) {
    latents *l = item;
    if (p->reading) l->file = handle_new(p->pool);
    PACK_FIELD(p, l->path);
    PACK_FIELD(p, l->vae);
    PACK_FIELD(p, l->channels);
    PACK_FIELD(p, l->resolution);
    PACK_FIELD(p, l->tau_voxels);
    PACK_FIELD(p, l->shard);
    PACK_FIELD(p, l->n_samples);
    PACK_FIELD(p, l->n_tiles);
    PACK_TABLE(p, l->id, l->n_samples);
    PACK_TABLE(p, l->first, l->n_samples + 1);
    PACK_TABLE(p, l->hash, l->n_samples);
}

char *latents_pack_all(const latents *l, int n, int64_t *bytes) {
    return pack_list(l, n, sizeof *l, pack_latents, bytes);
}

latents *latents_unpack_all(const char *packed, int64_t bytes, int *n) {
    return unpack_list(packed, bytes, sizeof(latents), pack_latents, n);
}
