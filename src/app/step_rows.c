#include "app/step_rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/atomic_file.h"

enum { MOST_COLUMNS = 64 };

/* Cuts a line at its commas, in place; "a, b" is one field. Returns the number of fields. */
static int split(char *line, char *field[MOST_COLUMNS]) {
    int n = 0;
    for (char *at = line; at && n < MOST_COLUMNS;) {
        bool  quoted = *at == '"';
        char *begin = at + quoted, *end = quoted ? strchr(begin, '"') : NULL, *comma = strchr(end ? end : begin, ',');
        field[n++] = begin;
        if (end) *end = 0;
        if (comma) *comma = 0;
        at = comma ? comma + 1 : NULL;
    }
    return n;
}

static const char *find(char *const *name, char *const *field, int n, const char *column) {
    for (int i = 0; i < n; i++)
        if (!strcmp(name[i], column)) return field[i];
    return NULL;
}

static bool number(char *const *name, char *const *field, int n, const char *column, double *out) {
    const char *text = find(name, field, n, column);
    char       *end;
    *out = NAN;
    if (!text) return true;
    *out = strtod(text, &end);
    return end != text && !*end && isfinite(*out);
}

static bool take_row(char *const *name, char *const *field, int n, step_row *r) {
    const char *model = find(name, field, n, "model"), *device = find(name, field, n, "device");
    double      count[3];
    struct {
        const char *column;
        double     *value;
        bool        needed;
    } list[] = {{"ranks", &count[0], true},
                {"samples", &count[1], true},
                {"tokens", &count[2], true},
                {"step_ms", &r->step_ms, true},
                {"tokens_s", &r->tokens_s, true},
                {"exposed_ms", &r->exposed_ms, true},
                {"update_ms", &r->update_ms, true},
                {"spread", &r->spread, false},
                {"balance", &r->balance, false},
                {"busy_balance", &r->busy_balance, false},
                {"forward_ms", &r->forward_ms, false},
                {"backward_ms", &r->backward_ms, false},
                {"exposed_min_ms", &r->exposed_min_ms, false},
                {"reduced_mb", &r->reduced_mb, false}};
    *r = (step_row){0};
    if (!model || !device) return false;
    snprintf(r->model, sizeof r->model, "%s", model);
    snprintf(r->device, sizeof r->device, "%s", device);
    char *gpu = strstr(r->device, " (GPU");
    if (gpu) *gpu = 0;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (!number(name, field, n, list[i].column, list[i].value) || (list[i].needed && isnan(*list[i].value)))
            return false;
    for (int i = 0; i < 3; i++)
        if (!(count[i] >= 1 && count[i] < 1e9)) return false;
    r->ranks = (int64_t)count[0];
    r->samples = (int64_t)count[1];
    r->tokens = (int64_t)count[2];
    if (isnan(r->spread)) r->spread = 0;
    return r->step_ms > 0 && r->tokens_s > 0;
}

bool step_rows_read(const char *path, step_row **rows, int *n, status *st) {
    uint8_t *bytes;
    int64_t  size;
    char    *name[MOST_COLUMNS], *field[MOST_COLUMNS], *save = NULL;
    int      n_names = 0, line_no = 0;
    if (!read_whole_file(path, 64 << 20, &bytes, &size, st)) return false;
    char *text = malloc((size_t)size + 1);
    CHECK(text, "no memory for %s", path);
    memcpy(text, bytes, (size_t)size);
    text[size] = 0;
    free(bytes);
    for (char *line = strtok_r(text, "\r\n", &save); line && status_ok(st); line = strtok_r(NULL, "\r\n", &save)) {
        line_no++;
        if (line_no == 1) {
            n_names = split(line, name);
            continue;
        }
        *rows = realloc(*rows, (size_t)(*n + 1) * sizeof **rows);
        CHECK(*rows, "no memory for %d rows", *n + 1);
        if (split(line, field) != n_names || !take_row(name, field, n_names, *rows + *n))
            status_set(st, ST_DATA, "%.300s row %d is not one of `d3s2 bench step --csv`", path, line_no);
        else
            (*n)++;
    }
    free(text);
    if (status_ok(st) && line_no < 2) status_set(st, ST_DATA, "%.300s has no rows", path);
    return status_ok(st);
}
