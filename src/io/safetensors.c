#include "io/safetensors.h"
#include "core/half.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_HEADER = 100 * 1000 * 1000 };

static const struct {
    const char *name;
    int         bytes;
} dtypes[SAFE_DTYPES] = {{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F64", 8}, {"I64", 8},
                         {"I32", 4}, {"I16", 2}, {"I8", 1},   {"U8", 1},  {"BOOL", 1}};

void safetensors_close(safetensors *s) {
    if (s->file) fclose(s->file);
    for (int i = 0; i < s->n; i++) free(s->tensor[i].name);
    for (int i = 0; i < s->n_meta; i++) {
        free(s->meta_key[i]);
        free(s->meta_value[i]);
    }
    free(s->tensor);
    free(s->meta_key);
    free(s->meta_value);
    *s = (safetensors){0};
}

static bool refuse(const safetensors *s, const char *name, const char *why, status *st) {
    return status_set(st, ST_DATA, "%s: %.160s%s%s: the file is damaged, get it again", s->path, name,
                      *name ? ": " : "", why);
}

/* ---- reading
 * ------------------------------------------------------------------------------------------------------ */

static bool parse_tensor(safetensors *s, safe_tensor *t, const char *name, json_t *entry, int64_t data_bytes,
                         status *st) {
    json_t *dtype = json_object_get(entry, "dtype"), *shape = json_object_get(entry, "shape");
    json_t *offsets = json_object_get(entry, "data_offsets");
    *t = (safe_tensor){.dtype = SAFE_DTYPES, .count = 1};
    if (!json_is_object(entry) || json_object_size(entry) != 3 || !json_is_string(dtype) || !json_is_array(shape) ||
        !json_is_array(offsets) || json_array_size(offsets) != 2)
        return refuse(s, name, "the entry is not {dtype, shape, data_offsets}", st);
    for (int d = 0; d < SAFE_DTYPES; d++)
        if (!strcmp(json_string_value(dtype), dtypes[d].name)) t->dtype = (safe_dtype)d;
    if (t->dtype == SAFE_DTYPES)
        return status_set(st, ST_DATA, "%s: %.160s: dtype %.20s is not supported", s->path, name,
                          json_string_value(dtype));
    if (json_array_size(shape) > SAFETENSORS_RANK) return refuse(s, name, "it has more than 8 dimensions", st);
    t->rank = (int)json_array_size(shape);
    bool empty = false;
    for (int d = 0; d < t->rank; d++) {
        json_t *v = json_array_get(shape, (size_t)d);
        int64_t n = json_is_integer(v) ? json_integer_value(v) : -1;
        if (n < 0) return refuse(s, name, "a dimension is not a count", st);
        t->shape[d] = n;
        empty |= n == 0;
    }
    /* No tensor is larger than the file, so the product is bounded before it can overflow. */
    for (int d = 0; d < t->rank && !empty; d++) {
        if (t->shape[d] > data_bytes / t->count) return refuse(s, name, "its shape is larger than the file", st);
        t->count *= t->shape[d];
    }
    if (empty) t->count = 0;
    json_t *b = json_array_get(offsets, 0), *e = json_array_get(offsets, 1);
    int64_t first = json_is_integer(b) ? json_integer_value(b) : -1,
            end = json_is_integer(e) ? json_integer_value(e) : -1;
    if (first < 0 || end < first || end > data_bytes) return refuse(s, name, "its offsets leave the file", st);
    if (t->count > INT64_MAX / 8 || end - first != t->count * dtypes[t->dtype].bytes)
        return refuse(s, name, "its shape, dtype and bytes do not agree", st);
    t->first = first;
    t->bytes = end - first;
    CHECK((t->name = strdup(name)), "no memory for a tensor name");
    return true;
}

static bool parse_meta(safetensors *s, json_t *meta, status *st) {
    const char *key;
    json_t     *v;
    if (!json_is_object(meta)) return refuse(s, "__metadata__", "it is not a map", st);
    s->meta_key = calloc(json_object_size(meta) + 1, sizeof *s->meta_key);
    s->meta_value = calloc(json_object_size(meta) + 1, sizeof *s->meta_value);
    CHECK(s->meta_key && s->meta_value, "no memory for the metadata of %s", s->path);
    json_object_foreach(meta, key, v) {
        if (!json_is_string(v)) return refuse(s, "__metadata__", "a value is not text", st);
        s->meta_key[s->n_meta] = strdup(key);
        s->meta_value[s->n_meta] = strdup(json_string_value(v));
        CHECK(s->meta_key[s->n_meta] && s->meta_value[s->n_meta], "no memory for the metadata of %s", s->path);
        s->n_meta++;
    }
    return true;
}

static int by_first(const void *a, const void *b) {
    const safe_tensor *x = *(const safe_tensor *const *)a, *y = *(const safe_tensor *const *)b;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes; /* an empty tensor may share its place */
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const safe_tensor *)a)->name, ((const safe_tensor *)b)->name);
}

static bool check_cover(safetensors *s, int64_t data_bytes, status *st) {
    const safe_tensor **t = malloc(((size_t)s->n + 1) * sizeof *t);
    int64_t             at = 0;
    bool                ok = true;
    CHECK(t, "no memory for %d tensors", s->n);
    for (int i = 0; i < s->n; i++) t[i] = &s->tensor[i];
    qsort(t, (size_t)s->n, sizeof *t, by_first);
    for (int i = 0; ok && i < s->n; i++) {
        if (t[i]->first != at)
            ok = refuse(s, t[i]->name, t[i]->first < at ? "it overlaps another tensor" : "there is a hole before it",
                        st);
        at = t[i]->first + t[i]->bytes;
    }
    free(t);
    return ok && (at == data_bytes || refuse(s, "", "bytes after the last tensor belong to none", st));
}

static bool parse_header(safetensors *s, const char *text, int64_t n, int64_t data_bytes, status *st) {
    json_error_t err;
    const char  *name;
    json_t      *entry, *root = *text == '{' ? json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, &err) : NULL;
    if (!json_is_object(root)) {
        json_decref(root);
        return refuse(s, "header", "it is not a JSON object", st);
    }
    bool ok = true;
    s->tensor = calloc(json_object_size(root) + 1, sizeof *s->tensor);
    CHECK(s->tensor, "no memory for the tensors of %s", s->path);
    json_object_foreach(root, name, entry) {
        if (!strcmp(name, "__metadata__"))
            ok = parse_meta(s, entry, st);
        else if ((ok = parse_tensor(s, &s->tensor[s->n], name, entry, data_bytes, st)))
            s->n++;
        if (!ok) break;
    }
    json_decref(root);
    if (!ok || !check_cover(s, data_bytes, st)) return false;
    qsort(s->tensor, (size_t)s->n, sizeof *s->tensor, by_name);
    return true;
}

static bool open_file(safetensors *s, status *st) {
    struct stat info;
    uint64_t    n;
    s->file = fopen(s->path, "rbe");
    if (!s->file || fstat(fileno(s->file), &info))
        return status_set(st, ST_NO_INPUT, "%s: cannot open: %s", s->path, strerror(errno));
    if (!S_ISREG(info.st_mode) || fread(&n, 8, 1, s->file) != 1) return refuse(s, "", "too short for a header", st);
    if (n > MAX_HEADER || n > (uint64_t)info.st_size - 8 || n < 2)
        return refuse(s, "", "the header length is impossible (a .ckpt, .pt or .bin is no safetensors file)", st);
    char *text = malloc((size_t)n + 1);
    CHECK(text, "no memory for the header of %s", s->path);
    text[n] = 0;
    s->data_first = 8 + (int64_t)n;
    bool ok = fread(text, 1, (size_t)n, s->file) == n
                  ? parse_header(s, text, (int64_t)n, info.st_size - s->data_first, st)
                  : refuse(s, "header", "it cannot be read", st);
    free(text);
    return ok;
}

bool safetensors_open(safetensors *s, const char *path, status *st) {
    *s = (safetensors){0};
    if (strlen(path) >= sizeof s->path) return status_set(st, ST_USAGE, "%.200s...: the path is too long", path);
    strcpy(s->path, path);
    if (open_file(s, st)) return true;
    safetensors_close(s);
    return false;
}

const safe_tensor *safetensors_find(const safetensors *s, const char *name) {
    safe_tensor key = {.name = (char *)(uintptr_t)name};
    return s->n ? bsearch(&key, s->tensor, (size_t)s->n, sizeof key, by_name) : NULL;
}

bool safetensors_read(const safetensors *s, const safe_tensor *t, float *out, status *st) {
    if (t->dtype > SAFE_BF16)
        return status_set(st, ST_DATA, "%s: %.160s: has dtype %s, a float type is needed", s->path, t->name,
                          dtypes[t->dtype].name);
    bool ok = fseeko(s->file, (off_t)(s->data_first + t->first), SEEK_SET) == 0;
    if (t->dtype == SAFE_F32) {
        ok = ok && fread(out, 4, (size_t)t->count, s->file) == (size_t)t->count;
    } else {
        uint16_t block[4096];
        for (int64_t i = 0; ok && i < t->count; i += 4096) {
            int64_t n = t->count - i < 4096 ? t->count - i : 4096;
            ok = fread(block, 2, (size_t)n, s->file) == (size_t)n;
            for (int64_t k = 0; ok && k < n; k++)
                out[i + k] = t->dtype == SAFE_F16 ? f16_to_f32(block[k]) : bf16_to_f32(block[k]);
        }
    }
    return ok || refuse(s, t->name, "its bytes cannot be read", st);
}

/* ---- writing
 * ------------------------------------------------------------------------------------------------------ */

static void write_data(const safe_source *t, int64_t count, FILE *f) {
    if (t->dtype == SAFE_F32) {
        fwrite(t->data, 4, (size_t)count, f);
        return;
    }
    uint16_t block[4096];
    for (int64_t i = 0; i < count; i += 4096) {
        int64_t n = count - i < 4096 ? count - i : 4096;
        for (int64_t k = 0; k < n; k++)
            block[k] = t->dtype == SAFE_F16 ? f32_to_f16(t->data[i + k]) : f32_to_bf16(t->data[i + k]);
        fwrite(block, 2, (size_t)n, f);
    }
}

static int64_t source_count(const safe_source *t) {
    int64_t n = 1;
    for (int d = 0; d < t->rank; d++) n *= t->shape[d];
    return n;
}

bool safetensors_write(const char *path, const safe_source *tensors, int n, const char *const (*meta)[2], int n_meta,
                       status *st) {
    json_t *root = json_object();
    int64_t at = 0;
    if (n_meta > 0) {
        json_t *m = json_object();
        for (int i = 0; i < n_meta; i++) json_object_set_new(m, meta[i][0], json_string(meta[i][1]));
        json_object_set_new(root, "__metadata__", m);
    }
    for (int i = 0; i < n; i++) {
        const safe_source *t = &tensors[i];
        CHECK(t->dtype <= SAFE_BF16 && t->rank >= 0 && t->rank <= SAFETENSORS_RANK, "%s: dtype %d, rank %d", t->name,
              (int)t->dtype, t->rank);
        CHECK(!json_object_get(root, t->name), "two tensors are called %s", t->name);
        int64_t bytes = source_count(t) * dtypes[t->dtype].bytes;
        json_t *shape = json_array();
        for (int d = 0; d < t->rank; d++) json_array_append_new(shape, json_integer(t->shape[d]));
        json_object_set_new(root, t->name,
                            json_pack("{s:s, s:o, s:[I,I]}", "dtype", dtypes[t->dtype].name, "shape", shape,
                                      "data_offsets", (json_int_t)at, (json_int_t)(at + bytes)));
        at += bytes;
    }
    char *text = json_dumps(root, JSON_COMPACT);
    CHECK(text && json_object_size(root) == (size_t)(n + (n_meta > 0)), "%s: a name is not valid UTF-8", path);
    json_decref(root);
    size_t      len = strlen(text), pad = -len & 7; /* spaces, so that the data are aligned */
    uint64_t    total = len + pad;
    atomic_file a;
    bool        ok = atomic_begin(&a, path, st);
    if (ok) {
        fwrite(&total, 8, 1, a.file);
        fwrite(text, 1, len, a.file);
        fwrite("       ", 1, pad, a.file);
        for (int i = 0; i < n; i++) write_data(&tensors[i], source_count(&tensors[i]), a.file);
        ok = atomic_commit(&a, st);
    }
    free(text);
    return ok;
}
