#include "data/selection.h"
#include "data/shard_internal.h"

#include <stdlib.h>
#include <string.h>

static const file_kind kind = {"d3s2-selection", "a selection of samples", "run `d3s2 split` again", SELECTION_VERSION};

bool selection_write(const char *path, const char *shard_path, const shard *s, const int64_t *row, int64_t n,
                     status *st) {
    char      part[PATH_CAP];
    uint64_t *id = malloc((size_t)(n + 1) * sizeof *id);
    CHECK(id, "no memory for %lld ids", (long long)n);
    for (int64_t i = 0; i < n; i++) id[i] = s->id[row[i]];
    hid_t f = sample_file_create(path, part, st);
    bool  ok = f >= 0 && h5_group(f, "sample", st) && h5_table_put(f, "sample/row", H5T_STD_I64LE, 0, n, row, st) &&
              h5_table_put(f, "sample/id", H5T_STD_U64LE, 0, n, id, st) && sample_file_set_kind(f, &kind, st) &&
              h5_set_text(f, "shard", shard_path, st) && h5_set_i64(f, "n_samples", n, st) &&
              sample_file_set_complete(f, st);
    free(id);
    if (!ok && f >= 0) h5_file_discard(f, part);
    return ok && h5_file_finish(f, part, st) && atomic_publish(part, path, st);
}

typedef struct {
    char      shard[PATH_CAP];
    int64_t   n, *row;
    uint64_t *id;
} selection;

static bool read_selection(const char *path, hid_t f, selection *x, status *st) {
    char name[PATH_CAP], folder[PATH_CAP];
    if (!sample_file_check(f, path, &kind, st) || !h5_get_text(f, "shard", name, sizeof name, st) ||
        !h5_get_i64(f, "n_samples", &x->n, st))
        return false;
    if (x->n < 0 || x->n > INT32_MAX)
        return status_set(st, ST_DATA, "%s: impossible number of samples: %lld", path, (long long)x->n);
    folder_of(path, folder);
    return (name[0] == '/' ? snprintf(x->shard, sizeof x->shard, "%s", name) > 0
                           : join_path(folder, name, x->shard, st)) &&
           (x->row = h5_table_get(f, "sample/row", H5T_NATIVE_INT64, 0, x->n, st)) &&
           (x->id = h5_table_get(f, "sample/id", H5T_NATIVE_UINT64, 0, x->n, st));
}

static bool fits(const char *path, const selection *x, const shard *s, status *st) {
    for (int64_t i = 0; i < x->n; i++) {
        int64_t row = x->row[i];
        if (row < 0 || row >= s->n_samples || (i && row <= x->row[i - 1]) || s->id[row] != x->id[i])
            return status_set(st, ST_DATA,
                              "%s: its sample %lld is not sample %lld of %s: that shard is another one now, run `d3s2 "
                              "split` again",
                              path, (long long)i, (long long)row, x->shard);
    }
    return true;
}

/* Keeps the chosen rows of every table; tiles and views stay where they are in the file. */
static void keep_rows(shard *s, const selection *x) {
    shard_handle *h = s->file;
    int64_t       at = 0, tiles = 0, views = 0;
    for (int64_t i = 0; i < s->n_samples; i++) {
        if (at == x->n || x->row[at] != i) {
            free(s->source[i]), free(s->category[i]), free(s->report[i]);
            continue;
        }
        int64_t n_tiles = s->first[i + 1] - s->first[i], n_views = s->view_first[i + 1] - s->view_first[i];
        s->id[at] = s->id[i], s->hash[at] = s->hash[i], s->source_hash[at] = s->source_hash[i];
        s->n_in[at] = s->n_in[i], s->n_sharp[at] = s->n_sharp[i];
        s->source[at] = s->source[i], s->category[at] = s->category[i], s->report[at] = s->report[i];
        memmove(s->center + 3 * at, s->center + 3 * i, 3 * sizeof *s->center);
        s->scale[at] = s->scale[i];
        h->tile_at[at] = h->tile_at[i], h->view_at[at] = h->view_at[i];
        /* at <= i: first[i + 1] is still as it was when sample i + 1 asks for it */
        s->first[at] = tiles, s->view_first[at] = views;
        tiles += n_tiles, views += n_views;
        at++;
    }
    s->first[at] = s->n_tiles = tiles;
    s->view_first[at] = s->n_views = views;
    s->n_samples = at;
}

bool selection_open(shard *s, const char *path, hid_t file, file_pool *pool, int depth, status *st) {
    selection x = {0};
    status    why = {0};
    bool      ok = read_selection(path, file, &x, st);
    if (ok && depth == SELECTION_DEPTH)
        ok = status_set(st, ST_DATA, "%s: selects from a selection of a selection, and so on: run `d3s2 split` again",
                        path);
    if (ok && !shard_open_in(s, x.shard, pool, depth + 1, &why))
        ok = status_set(st, why.code, "%.200s selects from another file: %.300s", path, why.text);
    if (ok && !(ok = fits(path, &x, s, st))) shard_close(s);
    if (ok) {
        keep_rows(s, &x);
        strcpy(s->path, path);
    }
    free(x.row), free(x.id);
    return ok;
}
