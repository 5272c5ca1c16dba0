#include "data/tokens.h"
#include "core/half.h"
#include "core/rng.h"
#include "data/condition.h"
#include "data/open_list.h"
#include "data/pack.h"
#include "data/sample_file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const file_kind kind = {"d3s2-tokens", "condition tokens", "run `d3s2 tokens` again", 1};
enum { MAX_WIDTH = 65536, MAX_VARIANTS = 1024, MAX_SPECIAL = 1024, CHUNK_BYTES = 128 << 10 };

typedef struct {
    pooled_file f;
    int64_t     tables; /* which opening of the file the tables are of */
    hid_t       value, coord;
} tokens_handle;

struct tokens_writer {
    token_file meta; /* the tables grow here */
    char       part[PATH_CAP];
    hid_t      file, value, coord;
    int64_t    sample_room, view_room, row_room;
    uint16_t  *bits, *at; /* of one view */
    bool       failed;
};

static uint64_t view_hash(int64_t n, int width, const uint16_t *bits, const uint16_t *at) {
    uint64_t h = hash_bytes(bits, (size_t)n * (size_t)width * sizeof *bits, 0);
    return hash_bytes(at, (size_t)n * 3 * sizeof *at, h);
}

/* ---- writing --------------------------------------------------------------------------------------------------- */

static void writer_free(tokens_writer *w) {
    token_file *m = &w->meta;
    void       *all[] = {m->id, m->view_first, m->first, m->hash, w->bits, w->at};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) free(all[i]);
    free(w);
}

void tokens_abandon(tokens_writer *w) {
    if (!w) return;
    if (w->file >= 0) h5_file_discard(w->file, w->part);
    writer_free(w);
}

static void *grown(void *p, int64_t n, size_t size) {
    p = realloc(p, (size_t)n * size);
    CHECK(p, "no memory for %lld rows of tokens", (long long)n);
    return p;
}

static void more_samples(tokens_writer *w) {
    if (w->meta.n_samples < w->sample_room) return;
    w->sample_room = 2 * w->sample_room + 64;
    w->meta.id = grown(w->meta.id, w->sample_room, sizeof *w->meta.id);
    w->meta.view_first = grown(w->meta.view_first, w->sample_room + 1, sizeof *w->meta.view_first);
}

static void more_views(tokens_writer *w) {
    if (w->meta.n_views < w->view_room) return;
    w->view_room = 2 * w->view_room + 64;
    w->meta.first = grown(w->meta.first, w->view_room + 1, sizeof *w->meta.first);
    w->meta.hash = grown(w->meta.hash, w->view_room, sizeof *w->meta.hash);
}

bool tokens_make_room(const char *path, const uint64_t *id, int64_t n, status *st) {
    return sample_file_make_room(path, &kind, id, n, st);
}

tokens_writer *tokens_create(const char *path, const token_file *meta, status *st) {
    CHECK(meta->width > 0 && meta->width <= MAX_WIDTH && meta->size > 0 && meta->variants > 0 &&
              meta->variants <= MAX_VARIANTS,
          "tokens of %d numbers, images of %d pixels, %d variants", meta->width, meta->size, meta->variants);
    tokens_writer *w = calloc(1, sizeof *w);
    CHECK(w, "no memory for a token writer");
    if ((w->file = sample_file_create(path, w->part, st)) < 0) goto fail;
    w->meta = (token_file){.encoder = meta->encoder,
                           .width = meta->width,
                           .size = meta->size,
                           .special = meta->special,
                           .variants = meta->variants,
                           .foreground = meta->foreground};
    strcpy(w->meta.path, path);
    memcpy(w->meta.shard, meta->shard, sizeof w->meta.shard);
    int64_t chunk = CHUNK_BYTES / (2 * meta->width) + 1;
    /* Tokens are noise to a compressor and are stored as they are. */
    if (!h5_group(w->file, "token", st) || !h5_group(w->file, "sample", st) || !h5_group(w->file, "view", st) ||
        (w->value = h5_table_create(w->file, "token/value", H5T_STD_U16LE, meta->width, chunk, 0, st)) < 0 ||
        (w->coord = h5_table_create(w->file, "token/coord", H5T_STD_U16LE, 3, 4096, 4, st)) < 0)
        goto fail;
    more_samples(w);
    more_views(w);
    w->meta.view_first[0] = w->meta.first[0] = 0;
    return w;
fail:
    tokens_abandon(w);
    return NULL;
}

bool tokens_append_view(tokens_writer *w, int64_t n, const float *token, const int32_t *coord, status *st) {
    token_file *m = &w->meta;
    if (w->failed) return status_set(st, ST_IO, "%s: an earlier write failed", m->path);
    if (n > w->row_room) {
        w->row_room = n;
        w->bits = grown(w->bits, n * m->width, sizeof *w->bits);
        w->at = grown(w->at, n * 3, sizeof *w->at);
    }
    for (int64_t k = 0; k < n * m->width; k++) w->bits[k] = f32_to_bf16(token[k]);
    for (int64_t k = 0; k < n * 3; k++) w->at[k] = (uint16_t)coord[k];
    if (!h5_table_append(w->value, H5T_NATIVE_UINT16, n, w->bits, st) ||
        !h5_table_append(w->coord, H5T_NATIVE_UINT16, n, w->at, st)) {
        w->failed = true;
        return false;
    }
    more_views(w);
    m->hash[m->n_views++] = view_hash(n, m->width, w->bits, w->at);
    m->first[m->n_views] = m->first[m->n_views - 1] + n;
    m->n_tokens += n;
    return true;
}

bool tokens_end_sample(tokens_writer *w, uint64_t id, status *st) {
    token_file *m = &w->meta;
    if (w->failed) return status_set(st, ST_IO, "%s: an earlier write failed", m->path);
    more_samples(w);
    m->id[m->n_samples++] = id;
    m->view_first[m->n_samples] = m->n_views;
    return true;
}

bool tokens_finish(tokens_writer *w, status *st) {
    const token_file *m = &w->meta;
    hid_t             f = w->file;
    if (w->failed) status_set(st, ST_IO, "%s: an earlier write failed", m->path);
    if (w->failed || !h5_table_put(f, "sample/id", H5T_STD_U64LE, 0, m->n_samples, m->id, st) ||
        !h5_table_put(f, "sample/first", H5T_STD_I64LE, 0, m->n_samples + 1, m->view_first, st) ||
        !h5_table_put(f, "view/first", H5T_STD_I64LE, 0, m->n_views + 1, m->first, st) ||
        !h5_table_put(f, "view/hash", H5T_STD_U64LE, 0, m->n_views, m->hash, st) ||
        !sample_file_set_kind(f, &kind, st) || !h5_set_u64(f, "encoder", m->encoder, st) ||
        !h5_set_i64(f, "width", m->width, st) || !h5_set_i64(f, "size", m->size, st) ||
        !h5_set_i64(f, "special", m->special, st) || !h5_set_i64(f, "variants", m->variants, st) ||
        !h5_set_i64(f, "foreground", m->foreground, st) || !h5_set_text(f, "shard", m->shard, st) ||
        !h5_set_i64(f, "n_samples", m->n_samples, st) || !h5_set_i64(f, "n_views", m->n_views, st) ||
        !h5_set_i64(f, "n_tokens", m->n_tokens, st) || !sample_file_set_complete(f, st)) {
        tokens_abandon(w);
        return false;
    }
    bool ok = h5_file_finish(f, w->part, st) && atomic_publish(w->part, m->path, st);
    writer_free(w);
    return ok;
}

int64_t tokens_most(const token_file *t) {
    int64_t side = t->size / PATCH_SIDE;
    return t->special + side * side;
}

/* ---- reading --------------------------------------------------------------------------------------------------- */

static tokens_handle *handle_new(file_pool *pool) {
    tokens_handle *h = calloc(1, sizeof *h);
    CHECK(h, "no memory for tokens");
    pooled_init(&h->f, pool);
    return h;
}

/* The handle with the file and its tables open; NULL when the file is gone or another one by now. */
static const tokens_handle *opened(const token_file *t, status *st) {
    tokens_handle *h = t->file;
    if (!pooled_open(&h->f, t->path, st)) return NULL;
    if (h->tables == h->f.opened) return h;
    hid_t f = h->f.file;
    if ((h->value = h5_table_open(f, "token/value", H5T_NATIVE_UINT16, t->width, t->n_tokens, NULL, st)) < 0 ||
        (h->coord = h5_table_open(f, "token/coord", H5T_NATIVE_UINT16, 3, t->n_tokens, NULL, st)) < 0) {
        pooled_close(&h->f);
        return NULL;
    }
    h->tables = h->f.opened;
    return h;
}

void tokens_close(token_file *t) {
    tokens_handle *h = t->file;
    if (h) pooled_free(&h->f);
    free(h);
    free(t->id);
    free(t->view_first);
    free(t->first);
    free(t->hash);
    *t = (token_file){0};
}

static bool read_header(token_file *t, hid_t f, status *st) {
    int64_t width, size, special, variants, foreground;
    if (!sample_file_check(f, t->path, &kind, st) || !h5_get_u64(f, "encoder", &t->encoder, st) ||
        !h5_get_i64(f, "width", &width, st) || !h5_get_i64(f, "size", &size, st) ||
        !h5_get_i64(f, "special", &special, st) || !h5_get_i64(f, "variants", &variants, st) ||
        !h5_get_i64(f, "foreground", &foreground, st) || !h5_get_text(f, "shard", t->shard, sizeof t->shard, st) ||
        !h5_get_i64(f, "n_samples", &t->n_samples, st) || !h5_get_i64(f, "n_views", &t->n_views, st) ||
        !h5_get_i64(f, "n_tokens", &t->n_tokens, st))
        return false;
    if (width < 1 || width > MAX_WIDTH || size < 1 || size > 65536 || special < 0 || special > MAX_SPECIAL ||
        variants < 1 || variants > MAX_VARIANTS || t->n_samples < 0 || t->n_samples > INT32_MAX || t->n_views < 0 ||
        t->n_tokens < 0)
        return status_set(st, ST_DATA,
                          "%s: impossible sizes: width %lld, %lld pixels, %lld variants, %lld samples, %lld views, "
                          "%lld tokens",
                          t->path, (long long)width, (long long)size, (long long)variants, (long long)t->n_samples,
                          (long long)t->n_views, (long long)t->n_tokens);
    t->width = (int)width;
    t->size = (int)size;
    t->special = (int)special;
    t->variants = (int)variants;
    t->foreground = foreground != 0;
    return true;
}

static bool read_tables(token_file *t, tokens_handle *h, status *st) {
    hid_t f = h->f.file;
    if (!(t->id = h5_table_get(f, "sample/id", H5T_NATIVE_UINT64, 0, t->n_samples, st)) ||
        !(t->view_first = h5_table_get(f, "sample/first", H5T_NATIVE_INT64, 0, t->n_samples + 1, st)) ||
        !(t->first = h5_table_get(f, "view/first", H5T_NATIVE_INT64, 0, t->n_views + 1, st)) ||
        !(t->hash = h5_table_get(f, "view/hash", H5T_NATIVE_UINT64, 0, t->n_views, st)) || !opened(t, st) ||
        !sample_file_offsets(t->path, &kind, "sample/first", t->view_first, t->n_samples, t->n_views, st) ||
        !sample_file_offsets(t->path, &kind, "view/first", t->first, t->n_views, t->n_tokens, st))
        return false;
    for (int64_t i = 0; i < t->n_views; i++)
        if (t->first[i + 1] - t->first[i] > tokens_most(t))
            return status_set(st, ST_DATA, "%s: view %lld has more tokens than an image of %d pixels", t->path,
                              (long long)i, t->size);
    return true;
}

static bool open_in(token_file *t, const char *path, file_pool *pool, status *st) {
    *t = (token_file){0};
    if (strlen(path) >= sizeof t->path) return status_set(st, ST_USAGE, "%.200s...: the path is too long", path);
    strcpy(t->path, path);
    tokens_handle *h = t->file = handle_new(pool);
    if (pooled_open(&h->f, path, st) && read_header(t, h->f.file, st) && read_tables(t, h, st)) return true;
    tokens_close(t);
    return false;
}

bool tokens_open(token_file *t, const char *path, status *st) {
    return open_in(t, path, NULL, st);
}

bool tokens_read(const token_file *t, int64_t i, int64_t view, int64_t *n, float **token, int32_t **coord, status *st) {
    CHECK(i >= 0 && i < t->n_samples && view >= 0 && view < t->view_first[i + 1] - t->view_first[i],
          "%s: no view %lld of sample %lld of %lld", t->path, (long long)view, (long long)i, (long long)t->n_samples);
    const tokens_handle *h = opened(t, st);
    int64_t              at = t->view_first[i] + view, first = t->first[at];
    status               why = {0};
    *token = NULL;
    *coord = NULL;
    if (!h) return false;
    *n = t->first[at + 1] - first;
    size_t    numbers = (size_t)*n * (size_t)t->width + 1;
    uint16_t *bits = malloc(numbers * sizeof *bits), *place = malloc(((size_t)*n * 3 + 1) * sizeof *place);
    *token = malloc(numbers * sizeof **token);
    *coord = malloc(((size_t)*n * 3 + 1) * sizeof **coord);
    CHECK(bits && place && *token && *coord, "no memory for %lld tokens", (long long)*n);
    bool ok = h5_table_rows(h->value, H5T_NATIVE_UINT16, first, *n, bits, &why) &&
              h5_table_rows(h->coord, H5T_NATIVE_UINT16, first, *n, place, &why) &&
              view_hash(*n, t->width, bits, place) == t->hash[at];
    for (int64_t k = 0; k < *n * t->width && ok; k++) (*token)[k] = bf16_to_f32(bits[k]);
    for (int64_t k = 0; k < *n * 3 && ok; k++) (*coord)[k] = place[k];
    free(bits);
    free(place);
    if (ok) return true;
    free(*token);
    free(*coord);
    *token = NULL;
    *coord = NULL;
    return status_set(st, ST_DATA,
                      "%s: sample %lld (id %016" PRIx64
                      "), view %lld: its tokens do not match their checksum: the file "
                      "is damaged, run `d3s2 tokens` again",
                      t->path, (long long)i, t->id[i], (long long)view);
}

static bool open_item(void *item, const char *path, file_pool *pool, status *st) {
    return open_in(item, path, pool, st);
}

static bool alike(const void *item, const void *first, status *st) {
    const token_file *t = item, *a = first;
    if (t->encoder == a->encoder && t->width == a->width && t->size == a->size && t->special == a->special &&
        t->variants == a->variants && t->foreground == a->foreground)
        return true;
    return status_set(
        st, ST_CONFIG,
        "%s and %s were not made with the same weights and options: run `d3s2 tokens` again into one folder", t->path,
        a->path);
}

static void close_item(void *item) {
    tokens_close(item);
}

static const list_kind list = {sizeof(token_file), "holds no condition tokens (*.h5): run `d3s2 tokens` first",
                               open_item, alike, close_item};

bool tokens_open_all(const char *folder, token_file **out, int *n_out, status *st) {
    void *items;
    bool  ok = open_list(folder, &list, &items, n_out, st);
    *out = items;
    return ok;
}

void tokens_close_all(token_file *t, int n) {
    close_list(t, n, &list);
}

static void pack_tokens(packing *p, void *item) {
    token_file *t = item;
    if (p->reading) t->file = handle_new(p->pool);
    PACK_FIELD(p, t->path);
    PACK_FIELD(p, t->encoder);
    PACK_FIELD(p, t->width);
    PACK_FIELD(p, t->size);
    PACK_FIELD(p, t->special);
    PACK_FIELD(p, t->variants);
    PACK_FIELD(p, t->foreground);
    PACK_FIELD(p, t->shard);
    PACK_FIELD(p, t->n_samples);
    PACK_FIELD(p, t->n_views);
    PACK_FIELD(p, t->n_tokens);
    PACK_TABLE(p, t->id, t->n_samples);
    PACK_TABLE(p, t->view_first, t->n_samples + 1);
    PACK_TABLE(p, t->first, t->n_views + 1);
    PACK_TABLE(p, t->hash, t->n_views);
}

char *tokens_pack_all(const token_file *t, int n, int64_t *bytes) {
    return pack_list(t, n, sizeof *t, pack_tokens, bytes);
}

token_file *tokens_unpack_all(const char *packed, int64_t bytes, int *n) {
    return unpack_list(packed, bytes, sizeof(token_file), pack_tokens, n);
}
