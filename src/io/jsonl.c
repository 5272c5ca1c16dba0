#include "io/jsonl.h"
#include "io/atomic_file.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FILE (1ll << 34)

struct jsonl {
    char    path[PATH_CAP];
    FILE   *file;
    json_t *record;
};

/* Calls fn for each whole line that is an object; returns the bytes of the whole lines. */
static void each_record(char *text, int64_t n, void (*fn)(const json_t *, const char *, int64_t, void *), void *user) {
    for (char *p = text, *end; (end = memchr(p, '\n', (size_t)(text + n - p))); p = end + 1) {
        json_t *r = json_loadb(p, (size_t)(end - p), JSON_ALLOW_NUL, NULL);
        if (json_is_object(r)) fn(r, p, end + 1 - p, user);
        json_decref(r);
    }
}

typedef struct {
    int64_t last_step, kept;
    char   *out;
} keep_state;

static void keep(const json_t *r, const char *line, int64_t n, void *user) {
    keep_state *k = user;
    json_t     *step = json_object_get(r, "step");
    if (json_is_integer(step) && json_integer_value(step) > k->last_step) return;
    memcpy(k->out + k->kept, line, (size_t)n);
    k->kept += n;
}

static bool clean(const char *path, int64_t last_step, status *st) {
    uint8_t *text;
    int64_t  n;
    if (access(path, F_OK)) return true;
    if (!read_whole_file(path, MAX_FILE, &text, &n, st)) return false;
    keep_state k = {.last_step = last_step, .out = malloc((size_t)n + 1)};
    CHECK(k.out, "no memory for %s", path);
    each_record((char *)text, n, keep, &k);
    bool ok = k.kept == n || atomic_write(path, k.out, k.kept, st);
    free(k.out);
    free(text);
    return ok;
}

jsonl *jsonl_open(const char *path, int64_t last_step, status *st) {
    if (strlen(path) >= PATH_CAP) {
        status_set(st, ST_USAGE, "%.200s...: the path is too long", path);
        return NULL;
    }
    if (!clean(path, last_step, st)) return NULL;
    FILE *f = fopen(path, "abe");
    if (!f) {
        status_set(st, ST_IO, "%s: cannot open for appending: %s", path, strerror(errno));
        return NULL;
    }
    jsonl *j = calloc(1, sizeof *j);
    CHECK(j, "no memory for a metrics file");
    strcpy(j->path, path);
    j->file = f;
    return j;
}

void jsonl_close(jsonl *j) {
    if (!j) return;
    fclose(j->file);
    json_decref(j->record);
    free(j);
}

void jsonl_begin(jsonl *j) {
    json_decref(j->record);
    j->record = json_object();
}

static void set(jsonl *j, const char *key, json_t *v) {
    CHECK(j->record, "%s: a field outside of a record", j->path);
    CHECK(v && json_object_set_new(j->record, key, v) == 0, "%s: field %s is not valid UTF-8 or memory is out", j->path,
          key);
}

static json_t *number(double v) {
    return isfinite(v) ? json_real(v) : json_null();
}

void jsonl_int(jsonl *j, const char *key, int64_t v) {
    set(j, key, json_integer(v));
}
void jsonl_number(jsonl *j, const char *key, double v) {
    set(j, key, number(v));
}
void jsonl_bool(jsonl *j, const char *key, bool v) {
    set(j, key, json_boolean(v));
}

void jsonl_text(jsonl *j, const char *key, const char *v) {
    json_t *s = json_string(v); /* NULL when it is not UTF-8, as file names may be */
    set(j, key, s ? s : json_string("(not UTF-8)"));
}

void jsonl_numbers(jsonl *j, const char *key, const double *v, int64_t n) {
    json_t *list = json_array();
    for (int64_t i = 0; i < n; i++) json_array_append_new(list, number(v[i]));
    set(j, key, list);
}

bool jsonl_end(jsonl *j, status *st) {
    char *line = json_dumps(j->record, JSON_COMPACT | JSON_REAL_PRECISION(9));
    CHECK(line, "no memory for a record of %s", j->path);
    json_decref(j->record);
    j->record = NULL;
    fputs(line, j->file);
    fputc('\n', j->file);
    free(line);
    if (fflush(j->file) || ferror(j->file)) {
        int err = errno;
        clearerr(j->file);
        return status_set(st, ST_IO, "%s: write failed: %s", j->path, strerror(err));
    }
    return true;
}

typedef struct {
    const char *key;
    int64_t    *step, n, cap;
    double     *value;
} series_state;

static void collect(const json_t *r, const char *line, int64_t n, void *user) {
    series_state *s = user;
    json_t       *step = json_object_get(r, "step"), *v = json_object_get(r, s->key);
    (void)line, (void)n;
    if (!json_is_integer(step) || !(json_is_number(v) || json_is_null(v))) return;
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 1024;
        s->step = realloc(s->step, (size_t)s->cap * sizeof *s->step);
        s->value = realloc(s->value, (size_t)s->cap * sizeof *s->value);
        CHECK(s->step && s->value, "no memory for %lld records", (long long)s->cap);
    }
    s->step[s->n] = json_integer_value(step);
    s->value[s->n++] = json_is_null(v) ? NAN : json_number_value(v);
}

bool jsonl_series(const char *path, const char *key, int64_t **step, double **value, int64_t *n, status *st) {
    uint8_t *text;
    int64_t  bytes;
    *step = NULL;
    *value = NULL;
    *n = 0;
    if (!read_whole_file(path, MAX_FILE, &text, &bytes, st)) return false;
    series_state s = {.key = key};
    each_record((char *)text, bytes, collect, &s);
    free(text);
    *step = s.step;
    *value = s.value;
    *n = s.n;
    return true;
}

bool jsonl_last(const char *path, int64_t last_step, const char *const *key, int n, double *value, int64_t *step,
                status *st) {
    uint8_t *text;
    int64_t  bytes;
    *step = -1;
    for (int i = 0; i < n; i++) value[i] = NAN;
    if (access(path, F_OK)) return true;
    if (!read_whole_file(path, MAX_FILE, &text, &bytes, st)) return false;
    /* From the end, where it is likely to be. */
    for (int64_t end = bytes; end > 0 && *step < 0;) {
        int64_t first = end - 1;
        while (first > 0 && text[first - 1] != '\n') first--;
        json_t *r = json_loadb((char *)text + first, (size_t)(end - first), JSON_ALLOW_NUL, NULL);
        json_t *at = json_object_get(r, "step");
        if (json_is_integer(at) && json_integer_value(at) <= last_step && json_object_get(r, key[0])) {
            *step = json_integer_value(at);
            for (int i = 0; i < n; i++) {
                json_t *v = json_object_get(r, key[i]);
                if (json_is_number(v)) value[i] = json_number_value(v);
            }
        }
        json_decref(r);
        end = first;
    }
    free(text);
    return true;
}
