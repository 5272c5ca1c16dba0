/* Reading shards: tables at open, tiles and images on demand, everything verified before it is handed out. */
#include "data/open_list.h"
#include "data/shard_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

const file_kind shard_kind = {"d3s2-shard", "a shard", "prepare it again", SHARD_VERSION};

static void free_texts(char **t, int64_t n) {
    for (int64_t i = 0; t && i < n; i++) free(t[i]);
    free(t);
}

shard_handle *shard_handle_new(file_pool *pool) {
    shard_handle *h = calloc(1, sizeof *h);
    CHECK(h, "no memory for a shard");
    pooled_init(&h->f, pool);
    return h;
}

/* Their numbers of rows say that the file is the one whose tables were read; that its content is, the hashes of its
 * samples say. */
static bool open_tables(shard_handle *h, status *st) {
    hid_t f = h->f.file;
    h->coord = h5_table_open(f, "tile/coord", H5T_NATIVE_UINT16, 3, h->n_tiles, NULL, st);
    h->value = h5_table_open(f, "tile/value", h5_half(), TILE_CELLS, h->n_tiles, NULL, st);
    h->sharp = h5_table_open(f, "tile/sharp", H5T_NATIVE_UINT8, TILE_SHARP_BYTES, h->n_tiles, NULL, st);
    h->camera = h5_table_open(f, "view/camera", H5T_NATIVE_FLOAT, VIEW_CAMERA_FLOATS, h->n_views, NULL, st);
    h->view_hash = h5_table_open(f, "view/hash", H5T_NATIVE_UINT64, 0, h->n_views, NULL, st);
    h->png = h5_table_open(f, "view/png", H5T_NATIVE_UINT8, 0, h->png_first[h->n_views], NULL, st);
    return h->coord >= 0 && h->value >= 0 && h->sharp >= 0 && h->camera >= 0 && h->view_hash >= 0 && h->png >= 0;
}

/* The handle with the file and its tables of tiles and views open; NULL when the file is gone or another one by now. */
static const shard_handle *opened(const shard *s, status *st) {
    shard_handle *h = s->file;
    if (!pooled_open(&h->f, h->path, st)) return NULL;
    if (h->tables == h->f.opened) return h;
    if (!open_tables(h, st)) {
        pooled_close(&h->f);
        return NULL;
    }
    h->tables = h->f.opened;
    return h;
}

void shard_close(shard *s) {
    shard_handle *h = s->file;
    if (h) {
        pooled_free(&h->f);
        free(h->png_first);
        free(h->tile_at);
        free(h->view_at);
        free(h);
    }
    free(s->id);
    free(s->hash);
    free(s->source_hash);
    free(s->first);
    free(s->view_first);
    free(s->n_in);
    free(s->n_sharp);
    free_texts(s->source, s->n_samples);
    free_texts(s->category, s->n_samples);
    free_texts(s->report, s->n_samples);
    free(s->center);
    free(s->scale);
    *s = (shard){0};
}

static bool read_attributes(shard *s, hid_t f, status *st) {
    int64_t resolution;
    if (!sample_file_check(f, s->path, &shard_kind, st) || !h5_get_i64(f, "resolution", &resolution, st) ||
        !h5_get_f64(f, "tau_voxels", &s->meta.tau_voxels, st) || !h5_get_i64(f, "n_samples", &s->n_samples, st) ||
        !h5_get_i64(f, "n_tiles", &s->n_tiles, st) || !h5_get_i64(f, "n_views", &s->n_views, st))
        return false;
    if (resolution < 8 || resolution > 8 * 65536 || resolution % 8 || !(s->meta.tau_voxels > 0) ||
        !isfinite(s->meta.tau_voxels) || s->n_samples < 0 || s->n_samples > INT32_MAX || s->n_tiles < 0 ||
        s->n_views < 0 || s->n_views > INT32_MAX)
        return status_set(st, ST_DATA,
                          "%s: impossible sizes: resolution %lld, tau %g voxels, %lld samples, %lld "
                          "tiles, %lld views",
                          s->path, (long long)resolution, s->meta.tau_voxels, (long long)s->n_samples,
                          (long long)s->n_tiles, (long long)s->n_views);
    s->meta.resolution = (int)resolution;
    return true;
}

static bool read_tables(shard *s, shard_handle *h, status *st) {
    hid_t   f = h->f.file, u64 = H5T_NATIVE_UINT64, i64 = H5T_NATIVE_INT64, f64 = H5T_NATIVE_DOUBLE;
    int64_t n = s->n_samples;
    h->n_tiles = s->n_tiles;
    h->n_views = s->n_views;
    if (!(s->id = h5_table_get(f, "sample/id", u64, 0, n, st)) ||
        !(s->hash = h5_table_get(f, "sample/hash", u64, 0, n, st)) ||
        !(s->source_hash = h5_table_get(f, "sample/source_hash", u64, 0, n, st)) ||
        !(s->first = h5_table_get(f, "sample/first", i64, 0, n + 1, st)) ||
        !(s->view_first = h5_table_get(f, "view/first", i64, 0, n + 1, st)) ||
        !(s->n_in = h5_table_get(f, "sample/n_in", i64, 0, n, st)) ||
        !(s->n_sharp = h5_table_get(f, "sample/n_sharp", i64, 0, n, st)) ||
        !(s->center = h5_table_get(f, "sample/center", f64, 3, n, st)) ||
        !(s->scale = h5_table_get(f, "sample/scale", f64, 0, n, st)) ||
        !(s->source = h5_strings_get(f, "sample/source", n, st)) ||
        !(s->category = h5_strings_get(f, "sample/category", n, st)) ||
        !(s->report = h5_strings_get(f, "sample/report", n, st)) ||
        !(h->png_first = h5_table_get(f, "view/png_first", i64, 0, s->n_views + 1, st)))
        return false;
    return opened(s, st) && sample_file_offsets(s->path, &shard_kind, "sample/first", s->first, n, s->n_tiles, st) &&
           sample_file_offsets(s->path, &shard_kind, "view/first", s->view_first, n, s->n_views, st) &&
           sample_file_offsets(s->path, &shard_kind, "view/png_first", h->png_first, s->n_views,
                               h->png_first[s->n_views], st);
}

static int64_t *copy_of(const int64_t *first, int64_t n) {
    int64_t *at = malloc((size_t)(n + 1) * sizeof *at);
    CHECK(at, "no memory for a table of %lld samples", (long long)n);
    memcpy(at, first, (size_t)n * sizeof *at);
    return at;
}

bool shard_open_in(shard *s, const char *path, file_pool *pool, int depth, status *st) {
    char format[64];
    *s = (shard){0};
    if (strlen(path) >= sizeof s->path) return status_set(st, ST_USAGE, "%.200s...: the path is too long", path);
    shard_handle *h = s->file = shard_handle_new(pool);
    strcpy(s->path, path);
    strcpy(h->path, path);
    bool ok = pooled_open(&h->f, path, st) && h5_get_text(h->f.file, "format", format, sizeof format, st);
    if (ok && strcmp(format, "d3s2-selection") == 0) {
        shard selected = {0};
        ok = selection_open(&selected, path, h->f.file, pool, depth, st);
        shard_close(s);
        *s = selected;
        return ok;
    }
    if (!ok || !read_attributes(s, h->f.file, st) || !read_tables(s, h, st)) {
        shard_close(s);
        return false;
    }
    h->tile_at = copy_of(s->first, s->n_samples);
    h->view_at = copy_of(s->view_first, s->n_samples);
    return true;
}

bool shard_open(shard *s, const char *path, status *st) {
    return shard_open_in(s, path, NULL, 0, st);
}

/* Names the sample in front of what went wrong below. */
static bool sample_fault(const shard *s, int64_t i, const char *what, status *st) {
    return status_set(st, ST_DATA, "%s: sample %lld (%.100s): %s: the file is damaged, prepare it again", s->path,
                      (long long)i, s->source[i], what);
}

bool shard_read_view(const shard *s, int64_t i, int view, uint8_t **png, int64_t *png_size, float camera[24],
                     status *st) {
    CHECK(i >= 0 && i < s->n_samples && view >= 0 && view < s->view_first[i + 1] - s->view_first[i],
          "%s: no view %d of sample %lld", s->path, view, (long long)i);
    const shard_handle *h = opened(s, st);
    if (!h) return false;
    int64_t  row = h->view_at[i] + view, first = h->png_first[row], n = h->png_first[row + 1] - first;
    uint64_t want;
    status   why = {0};
    uint8_t *bytes = malloc((size_t)n + 1);
    CHECK(bytes, "no memory for an image of %lld bytes", (long long)n);
    *png = NULL;
    if (!h5_table_rows(h->png, H5T_NATIVE_UINT8, first, n, bytes, &why) ||
        !h5_table_rows(h->camera, H5T_NATIVE_FLOAT, row, 1, camera, &why) ||
        !h5_table_rows(h->view_hash, H5T_NATIVE_UINT64, row, 1, &want, &why) || XXH3_64bits(bytes, (size_t)n) != want) {
        free(bytes);
        char what[96];
        snprintf(what, sizeof what, "view %d does not match its checksum", view);
        return sample_fault(s, i, what, st);
    }
    *png = bytes;
    *png_size = n;
    return true;
}

static void make_room(sample *x, int64_t n) {
    size_t rows = (size_t)(n ? n : 1);
    if (x->coord && x->room >= n) return;
    free(x->coord);
    free(x->value);
    free(x->sharp);
    x->room = n;
    x->coord = malloc(rows * 3 * sizeof *x->coord);
    x->value = malloc(rows * TILE_CELLS * sizeof *x->value);
    x->sharp = malloc(rows * TILE_SHARP_BYTES);
    CHECK(x->coord && x->value && x->sharp, "no memory for a sample of %lld tiles", (long long)n);
}

static bool read_tiles(const shard *s, int64_t i, sample *out, status *st) {
    const shard_handle *h = opened(s, st);
    if (!h) return false;
    int64_t n = s->first[i + 1] - s->first[i], at = h->tile_at[i];
    status  why = {0};
    out->n_tiles = n;
    make_room(out, n);
    if (!h5_table_rows(h->coord, H5T_NATIVE_UINT16, at, n, out->coord, &why) ||
        !h5_table_rows(h->value, h5_half(), at, n, out->value, &why) ||
        !h5_table_rows(h->sharp, H5T_NATIVE_UINT8, at, n, out->sharp, &why) ||
        sample_hash(n, out->coord, out->value, out->sharp) != s->hash[i])
        return sample_fault(s, i, "its tiles do not match their checksum", st);
    return true;
}

static char *text_of(const char *from) {
    char *text = strdup(from);
    CHECK(text, "no memory for the texts of a sample");
    return text;
}

/* Keeps the memory of io's tiles and takes the other fields of `head`. */
static void begin_again(sample *io, const sample *head) {
    const sample kept = *io;
    io->coord = NULL;
    io->value = NULL;
    io->sharp = NULL;
    sample_free(io);
    *io = *head;
    io->source = text_of(head->source);
    io->category = text_of(head->category);
    io->report = text_of(head->report);
    io->room = kept.room;
    io->coord = kept.coord;
    io->value = kept.value;
    io->sharp = kept.sharp;
    io->n_views = 0;
    io->camera = NULL;
    io->png = NULL;
    io->png_size = NULL;
}

void sample_assign(sample *io, const sample *s) {
    size_t n = (size_t)s->n_tiles;
    begin_again(io, s);
    make_room(io, s->n_tiles);
    memcpy(io->coord, s->coord, n * 3 * sizeof *s->coord);
    memcpy(io->value, s->value, n * TILE_CELLS * sizeof *s->value);
    memcpy(io->sharp, s->sharp, n * TILE_SHARP_BYTES);
}

void sample_assign_rows(sample *io, const sample *s, int64_t n, const int64_t *row) {
    begin_again(io, s);
    make_room(io, n);
    io->n_tiles = n;
    for (int64_t i = 0; i < n; i++) {
        memcpy(io->coord + 3 * i, s->coord + 3 * row[i], 3 * sizeof *s->coord);
        memcpy(io->value + TILE_CELLS * i, s->value + TILE_CELLS * row[i], TILE_CELLS * sizeof *s->value);
        memcpy(io->sharp + TILE_SHARP_BYTES * i, s->sharp + TILE_SHARP_BYTES * row[i], TILE_SHARP_BYTES);
    }
}

bool shard_read_again(const shard *s, int64_t i, sample *io, status *st) {
    CHECK(i >= 0 && i < s->n_samples, "%s: no sample %lld of %lld", s->path, (long long)i, (long long)s->n_samples);
    sample head = {.id = s->id[i],
                   .source = s->source[i],
                   .category = s->category[i],
                   .report = s->report[i],
                   .source_hash = s->source_hash[i],
                   .scale = s->scale[i],
                   .n_in = s->n_in[i],
                   .n_sharp = s->n_sharp[i]};
    memcpy(head.center, s->center + 3 * i, sizeof head.center);
    begin_again(io, &head);
    return read_tiles(s, i, io, st);
}

bool shard_read_sample(const shard *s, int64_t i, bool with_views, sample *out, status *st) {
    *out = (sample){0};
    bool ok = shard_read_again(s, i, out, st);
    if (ok && with_views) {
        int64_t n = s->view_first[i + 1] - s->view_first[i];
        size_t  cap = (size_t)(n ? n : 1);
        out->camera = malloc(cap * VIEW_CAMERA_FLOATS * sizeof(float));
        out->png = calloc(cap, sizeof *out->png);
        out->png_size = calloc(cap, sizeof *out->png_size);
        CHECK(out->camera && out->png && out->png_size, "no memory for %lld views", (long long)n);
        out->n_views = (int)n;
        for (int v = 0; ok && v < n; v++)
            ok = shard_read_view(s, i, v, &out->png[v], &out->png_size[v], out->camera + v * VIEW_CAMERA_FLOATS, st);
    }
    if (!ok) sample_free(out);
    return ok;
}

static bool open_item(void *item, const char *path, file_pool *pool, status *st) {
    return shard_open_in(item, path, pool, 0, st);
}

static bool alike(const void *item, const void *first, status *st) {
    const shard *s = item, *a = first;
    if (s->meta.resolution == a->meta.resolution && s->meta.tau_voxels == a->meta.tau_voxels) return true;
    return status_set(st, ST_DATA, "%s has resolution %d and tau %g voxels, %s has %d and %g: keep one kind per folder",
                      s->path, s->meta.resolution, s->meta.tau_voxels, a->path, a->meta.resolution, a->meta.tau_voxels);
}

static void close_item(void *item) {
    shard_close(item);
}

static const list_kind list = {sizeof(shard), "holds no shard (*.h5): run `d3s2 prep` first", open_item, alike,
                               close_item};

bool shard_open_all(const char *folder_or_file, shard **out, int *n_out, status *st) {
    void *items;
    bool  ok = open_list(folder_or_file, &list, &items, n_out, st);
    *out = items;
    return ok;
}

void shard_close_all(shard *shards, int n) {
    close_list(shards, n, &list);
}
