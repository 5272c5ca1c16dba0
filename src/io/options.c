#define _GNU_SOURCE /* open_memstream */
#include "io/options.h"
#include "core/rng.h"
#include "io/atomic_file.h"
#include "io/yaml.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum {
    TYPE_INT,
    TYPE_FLOAT,
    TYPE_BOOL,
    TYPE_STRING,
    TYPE_PATHS,
    TYPE_INTS,
    TYPE_FLOATS,
    TYPE_ENUM
} option_type;

typedef struct {
    option_type type;
    const char *section, *key, *def, *help;
    const char *names; /* of an enum, "a, b, c" */
    size_t      at;
    int64_t     least_i, most_i;
    double      least_f, most_f;
} option_row;

#define AT(s, k) .at = offsetof(options, s.k)
#define OPTION_SECTION(s, h)
#define OPTION_INT(s, k, d, lo, hi, h) {TYPE_INT, #s, #k, #d, h, AT(s, k), .least_i = lo, .most_i = hi},
#define OPTION_FLOAT(s, k, d, lo, hi, h) {TYPE_FLOAT, #s, #k, #d, h, AT(s, k), .least_f = lo, .most_f = hi},
#define OPTION_BOOL(s, k, d, h) {TYPE_BOOL, #s, #k, #d, h, AT(s, k)},
#define OPTION_STRING(s, k, d, h) {TYPE_STRING, #s, #k, d, h, AT(s, k)},
#define OPTION_PATHS(s, k, d, h) {TYPE_PATHS, #s, #k, d, h, AT(s, k)},
#define OPTION_INTS(s, k, d, lo, hi, h) {TYPE_INTS, #s, #k, d, h, AT(s, k), .least_i = lo, .most_i = hi},
#define OPTION_FLOATS(s, k, d, lo, hi, h) {TYPE_FLOATS, #s, #k, d, h, AT(s, k), .least_f = lo, .most_f = hi},
#define OPTION_ENUM(s, k, d, h, ...) {TYPE_ENUM, #s, #k, #d, h, AT(s, k), .names = #__VA_ARGS__},
#define OPTION_END(s)
static const option_row rows[] = {
#include "io/options.def"
};
enum { N_ROWS = sizeof rows / sizeof *rows };

#undef OPTION_SECTION
#undef OPTION_INT
#undef OPTION_FLOAT
#undef OPTION_BOOL
#undef OPTION_STRING
#undef OPTION_PATHS
#undef OPTION_INTS
#undef OPTION_FLOATS
#undef OPTION_ENUM
#define OPTION_SECTION(s, h) {#s, h},
#define OPTION_INT(...)
#define OPTION_FLOAT(...)
#define OPTION_BOOL(...)
#define OPTION_STRING(...)
#define OPTION_PATHS(...)
#define OPTION_INTS(...)
#define OPTION_FLOATS(...)
#define OPTION_ENUM(...)
static const struct {
    const char *name, *help;
} sections[] = {
#include "io/options.def"
};
enum { N_SECTIONS = sizeof sections / sizeof *sections };

/* ---- names
 * -------------------------------------------------------------------------------------------------------- */

/* Copies name i of an enum's list; false past the end. */
static bool enum_name(const option_row *r, int i, char out[64]) {
    const char *p = r->names;
    for (; i > 0 && p; i--) p = (p = strchr(p, ',')) ? p + 1 : NULL;
    if (!p) return false;
    p += strspn(p, " ");
    snprintf(out, 64, "%.*s", (int)strcspn(p, ", "), p);
    return true;
}

enum { NAME_CAP = 64 };

int word_distance(const char *a, const char *b) {
    int row[NAME_CAP + 1], n = (int)strnlen(b, NAME_CAP);
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 0; a[i] && i < NAME_CAP; i++) {
        int diagonal = row[0];
        row[0] = i + 1;
        for (int j = 0; j < n; j++) {
            int best = diagonal + (a[i] != b[j]), above = row[j + 1];
            if (above + 1 < best) best = above + 1;
            if (row[j] + 1 < best) best = row[j] + 1;
            diagonal = above;
            row[j + 1] = best;
        }
    }
    return row[n];
}

/* The option whose name is closest; the right key in a wrong section counts as one slip, and of several such sections
 * the closest is meant. */
static void nearest(const char *section, const char *key, char out[2 * NAME_CAP]) {
    char typed[2 * NAME_CAP], name[2 * NAME_CAP];
    int  best = 1 << 20, best_d = 0;
    snprintf(typed, sizeof typed, "%.60s.%.60s", section, key);
    for (int i = 0; i < N_ROWS; i++) {
        snprintf(name, sizeof name, "%s.%s", rows[i].section, rows[i].key);
        int d = word_distance(typed, name), slips = !strcmp(key, rows[i].key) && d > 1 ? 1 : d;
        if (slips < best || (slips == best && d < best_d)) {
            best = slips;
            best_d = d;
            strcpy(out, name);
        }
    }
}

static const option_row *find_row(const char *section, const char *key) {
    for (int i = 0; i < N_ROWS; i++)
        if (!strcmp(rows[i].section, section) && !strcmp(rows[i].key, key)) return &rows[i];
    return NULL;
}

/* ---- values
 * ------------------------------------------------------------------------------------------------------- */

/* What a row accepts, in words. */
static void accepted(const option_row *r, char *out, size_t cap) {
    switch (r->type) {
    case TYPE_INT:
    case TYPE_INTS: {
        char many[80] = "an integer";
        if (r->type == TYPE_INTS) snprintf(many, sizeof many, "a list of at most %d integers", OPTION_LIST);
        if (r->most_i == INT64_MAX)
            snprintf(out, cap, "%s of at least %" PRId64, many, r->least_i);
        else
            snprintf(out, cap, "%s in [%" PRId64 ", %" PRId64 "]", many, r->least_i, r->most_i);
        break;
    }
    case TYPE_FLOAT:
        snprintf(out, cap, "a number in [%g, %.10g]", r->least_f, r->most_f);
        break;
    case TYPE_FLOATS:
        snprintf(out, cap, "a list of at most %d numbers in [%g, %.10g]", OPTION_LIST, r->least_f, r->most_f);
        break;
    case TYPE_BOOL:
        snprintf(out, cap, "true or false");
        break;
    case TYPE_STRING:
        snprintf(out, cap, "a text of less than %d bytes", OPTION_TEXT);
        break;
    case TYPE_PATHS:
        snprintf(out, cap, "a path, or paths without commas, of less than %d bytes in all", OPTION_TEXT);
        break;
    case TYPE_ENUM:
        snprintf(out, cap, "one of %s", r->names);
        break;
    }
}

static bool parse_int(const option_row *r, const char *text, int64_t *v) {
    char *end;
    errno = 0;
    *v = strtoll(text, &end, 10);
    return *text && !isspace((unsigned char)*text) && !*end && !errno && *v >= r->least_i && *v <= r->most_i;
}

static bool parse_float(const option_row *r, const char *text, double *v) {
    char *end;
    if (!*text || strspn(text, "+-.0123456789eE") != strlen(text)) return false; /* no hex, inf, nan */
    *v = strtod(text, &end);
    return !*end && isfinite(*v) && *v >= r->least_f && *v <= r->most_f;
}

static bool parse_bool(const char *text, bool *v) {
    static const char *const words[2][3] = {{"false", "no", "off"}, {"true", "yes", "on"}};
    for (int i = 0; i < 6; i++)
        if (!strcmp(text, words[i / 3][i % 3])) {
            *v = i / 3;
            return true;
        }
    return false;
}

static bool parse_enum(const option_row *r, const char *text, int *v) {
    char name[64];
    for (int i = 0; enum_name(r, i, name); i++)
        if (!strcmp(name, text)) {
            *v = i;
            return true;
        }
    return false;
}

/* The paths with commas between. */
static bool parse_paths(const yaml_entry *e, char *out) {
    char   text[OPTION_TEXT] = "";
    size_t at = 0;
    for (int i = 0; i < e->n; i++) {
        if (e->list && (!e->value[i][0] || strchr(e->value[i], ','))) return false;
        at += (size_t)snprintf(text + at, sizeof text - at, "%s%s", i ? "," : "", e->value[i]);
        if (at >= sizeof text) return false;
    }
    memcpy(out, text, sizeof text);
    return true;
}

static bool store(const option_row *r, void *field, const yaml_entry *e) {
    bool list = r->type == TYPE_INTS || r->type == TYPE_FLOATS;
    if (e->list != list && r->type != TYPE_PATHS) return false;
    switch (r->type) {
    case TYPE_INT:
        return parse_int(r, e->value[0], field);
    case TYPE_FLOAT:
        return parse_float(r, e->value[0], field);
    case TYPE_BOOL:
        return parse_bool(e->value[0], field);
    case TYPE_ENUM:
        return parse_enum(r, e->value[0], field);
    case TYPE_STRING:
        if (strlen(e->value[0]) >= OPTION_TEXT) return false;
        memset(field, 0, OPTION_TEXT);
        strcpy(field, e->value[0]);
        return true;
    case TYPE_PATHS:
        return parse_paths(e, field);
    case TYPE_INTS: {
        option_ints *l = field;
        *l = (option_ints){.n = e->n};
        for (int i = 0; i < e->n; i++)
            if (i == OPTION_LIST || !parse_int(r, e->value[i], &l->v[i])) return false;
        return true;
    }
    case TYPE_FLOATS: {
        option_floats *l = field;
        *l = (option_floats){.n = e->n};
        for (int i = 0; i < e->n; i++)
            if (i == OPTION_LIST || !parse_float(r, e->value[i], &l->v[i])) return false;
        return true;
    }
    }
    return false;
}

/* Texts are paths, and are taken as they are: where no shell has put in what these stand for they would name a folder
 * called `~`. */
static bool is_unexpanded(const option_row *r, const yaml_entry *e) {
    bool text = r->type == TYPE_STRING || r->type == TYPE_PATHS, found = false;
    for (int i = 0; text && i < e->n; i++)
        found |= e->value[i][0] == '$' || (e->value[i][0] == '~' && strchr("/", e->value[i][1]));
    return found;
}

static bool take(const yaml_entry *e, void *user, status *st) {
    char              place[300], words[200], got[200];
    const option_row *r = find_row(e->section, e->key);
    snprintf(place, sizeof place, e->line ? "%.256s:%d" : "%.256s", e->file, e->line);
    if (!r) {
        char best[2 * NAME_CAP];
        nearest(e->section, e->key, best);
        return status_set(st, ST_USAGE, "%s: %.60s.%.60s is not an option; did you mean %s?", place, e->section, e->key,
                          best);
    }
    if (is_unexpanded(r, e))
        return status_set(st, ST_USAGE, "%s: %s.%s: \"%.100s\": ~ and $ are not replaced here: write the whole path",
                          place, r->section, r->key, e->value[0]);
    if (store(r, (char *)user + r->at, e)) return true;
    accepted(r, words, sizeof words);
    int at = snprintf(got, sizeof got, e->list ? "[" : "\"");
    for (int i = 0; i < e->n && at < (int)sizeof got - 40; i++)
        at += snprintf(got + at, sizeof got - (size_t)at, "%s%.30s", i ? ", " : "", e->value[i]);
    snprintf(got + at, sizeof got - (size_t)at, e->list ? "]" : "\"");
    return status_set(st, ST_USAGE, "%s: %s.%s: %s is not %s", place, r->section, r->key, got, words);
}

void options_default(options *o) {
    status st = {0};
    memset(o, 0, sizeof *o);
    for (int i = 0; i < N_ROWS; i++)
        CHECK(yaml_read_value("options.def", rows[i].section, rows[i].key, rows[i].def, take, o, &st), "%s", st.text);
}

static bool take_known(const yaml_entry *e, void *user, status *st) {
    if (find_row(e->section, e->key)) return take(e, user, st);
    log_warn("%s: %s.%s is an option of another version and is left out", e->file, e->section, e->key);
    return true;
}

static bool read_text(options *o, const char *name, const char *text, int64_t n, yaml_sink sink, status *st) {
    options *fresh = malloc(sizeof *fresh);
    CHECK(fresh, "no memory for the options");
    *fresh = *o;
    bool ok = yaml_read(name, text, n, sink, fresh, st);
    if (ok) *o = *fresh;
    free(fresh);
    return ok;
}

bool options_read_text(options *o, const char *name, const char *text, int64_t n, status *st) {
    return read_text(o, name, text, n, take, st);
}

bool options_read_stored(options *o, const char *name, const char *text, int64_t n, status *st) {
    return read_text(o, name, text, n, take_known, st);
}

bool options_read(options *o, const char *path, status *st) {
    uint8_t *text;
    int64_t  n;
    if (!read_whole_file(path, 1 << 20, &text, &n, st)) return false;
    bool ok = options_read_text(o, path, (const char *)text, n, st);
    free(text);
    return ok;
}

bool options_set_as(options *o, const char *file, const char *name, const char *value, status *st) {
    char        section[NAME_CAP];
    const char *dot = strchr(name, '.');
    if (!dot || dot - name >= NAME_CAP)
        return status_set(st, ST_USAGE, "%s: %.80s is not an option: options are written section.key=value", file,
                          name);
    snprintf(section, sizeof section, "%.*s", (int)(dot - name), name);
    options          *fresh = malloc(sizeof *fresh);
    const option_row *r = find_row(section, dot + 1);
    CHECK(fresh, "no memory for the options");
    *fresh = *o;
    char list[OPTION_TEXT];
    if (r && (r->type == TYPE_INTS || r->type == TYPE_FLOATS) && *value != '[') {
        snprintf(list, sizeof list, "[%.500s]", value); /* 8,64: brackets would have to be quoted in most shells */
        value = list;
    }
    bool ok = r ? yaml_read_value(file, section, dot + 1, value, take, fresh, st)
                : take(&(yaml_entry){.file = file, .section = section, .key = dot + 1}, fresh, st);
    if (ok) *o = *fresh;
    free(fresh);
    return ok;
}

bool options_set(options *o, const char *name, const char *value, status *st) {
    return options_set_as(o, "command line", name, value, st);
}

/* ---- dump and help
 * ------------------------------------------------------------------------------------------------ */

static void print_text(FILE *f, const char *s) {
    fputc('"', f);
    for (; *s; s++) {
        if (*s == '"' || *s == '\\')
            fprintf(f, "\\%c", *s);
        else if ((unsigned char)*s < 32 || *s == 127)
            fprintf(f, "\\x%02x", (unsigned char)*s);
        else
            fputc(*s, f);
    }
    fputc('"', f);
}

/* Shortest text that reads back as the same number. */
static void print_number(FILE *f, double v) {
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v) break;
    }
    fputs(text, f);
}

static void print_value(const option_row *r, const void *field, FILE *f) {
    char name[64] = "";
    switch (r->type) {
    case TYPE_INT:
        fprintf(f, "%" PRId64, *(const int64_t *)field);
        break;
    case TYPE_FLOAT:
        print_number(f, *(const double *)field);
        break;
    case TYPE_BOOL:
        fputs(*(const bool *)field ? "true" : "false", f);
        break;
    case TYPE_STRING:
    case TYPE_PATHS:
        print_text(f, field);
        break;
    case TYPE_ENUM:
        CHECK(enum_name(r, *(const int *)field, name), "%s.%s has no value %d", r->section, r->key,
              *(const int *)field);
        fputs(name, f);
        break;
    case TYPE_INTS:
    case TYPE_FLOATS: {
        const option_ints   *li = field;
        const option_floats *lf = field;
        int                  n = r->type == TYPE_INTS ? li->n : lf->n;
        fputc('[', f);
        for (int i = 0; i < n; i++) {
            if (i) fputs(", ", f);
            if (r->type == TYPE_INTS)
                fprintf(f, "%" PRId64, li->v[i]);
            else
                print_number(f, lf->v[i]);
        }
        fputc(']', f);
        break;
    }
    }
}

bool options_dump_yaml(const options *o, FILE *f) {
    for (int i = 0; i < N_ROWS; i++) {
        if (i == 0 || strcmp(rows[i].section, rows[i - 1].section)) fprintf(f, "%s:\n", rows[i].section);
        fprintf(f, "  %s: ", rows[i].key);
        print_value(&rows[i], (const char *)o + rows[i].at, f);
        fputc('\n', f);
    }
    return !ferror(f);
}

char *options_to_yaml(const options *o) {
    char  *text = NULL;
    size_t n;
    FILE  *f = open_memstream(&text, &n);
    CHECK(f, "no memory for the options");
    options_dump_yaml(o, f);
    CHECK(fclose(f) == 0 && text, "no memory for the options");
    return text;
}

/* The next line of a text, without its end; NULL behind the last. */
static char *next_line(char **text) {
    return **text ? strsep(text, "\n") : NULL;
}

char *options_changes(const options *before, const options *now, const char *prefix) {
    /* Dumps of one table: line by line the same options. */
    char  *dump[2] = {options_to_yaml(before), options_to_yaml(now)}, *at[2] = {dump[0], dump[1]}, *was, *is;
    char  *text = NULL, *section = "";
    size_t size;
    FILE  *f = open_memstream(&text, &size);
    CHECK(f, "no memory for a list of options");
    while ((was = next_line(&at[0])) && (is = next_line(&at[1]))) {
        if (*is != ' ')
            section = is;
        else if (strcmp(was, is) != 0)
            fprintf(f, "%s%.*s.%s -> %s\n", prefix, (int)strcspn(section, ":"), section, was + strspn(was, " "),
                    strstr(is, ": ") + 2);
    }
    fclose(f);
    CHECK(text, "no memory for a list of options");
    free(dump[0]);
    free(dump[1]);
    return text;
}

uint64_t options_hash(const options *o) {
    char    *text = options_to_yaml(o);
    uint64_t h = hash_text(text);
    free(text);
    return h;
}

/* Is `name` one of the words of `list`? */
static bool listed(const char *list, const char *name) {
    size_t n = strlen(name);
    if (!list) return true;
    for (const char *p = list; (p = strstr(p, name)); p += n)
        if ((p == list || p[-1] == ' ') && (p[n] == ' ' || !p[n])) return true;
    return false;
}

static bool wants_row(const char *wanted, const option_row *r) {
    char name[2 * NAME_CAP];
    snprintf(name, sizeof name, "%s.%s", r->section, r->key);
    return listed(wanted, r->section) || listed(wanted, name);
}

void options_help(FILE *f, const char *wanted) {
    for (int s = 0; s < N_SECTIONS; s++) {
        bool shown = false;
        for (int i = 0; i < N_ROWS; i++) {
            char left[160], words[200];
            if (strcmp(rows[i].section, sections[s].name) || !wants_row(wanted, &rows[i])) continue;
            if (!shown) fprintf(f, "%s: %s\n", sections[s].name, sections[s].help);
            shown = true;
            snprintf(left, sizeof left, "%s.%s=%s", rows[i].section, rows[i].key, rows[i].def);
            accepted(&rows[i], words, sizeof words);
            fprintf(f, "  %-34s %s\n", left, rows[i].help);
            if (rows[i].type != TYPE_BOOL && rows[i].type != TYPE_STRING && rows[i].type != TYPE_PATHS)
                fprintf(f, "  %-34s (%s)\n", "", words);
        }
        if (shown) fputc('\n', f);
    }
}
