#include "io/yaml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { MAX_VALUES = 1024, MAX_TEXT = 1 << 20, MAX_KEYS = 4096 };

typedef struct {
    const char   *file;
    yaml_parser_t parser;
    yaml_event_t  event;
    bool          have; /* event is to be deleted */
    status       *st;
    yaml_sink     sink;
    void         *user;
    char        **seen; /* "section" and "section.key" */
    int           n_seen, cap_seen;
} reader;

static int line_of(const reader *r) {
    return (int)r->event.start_mark.line + 1;
}

#define REFUSE(r, line, ...) refuse(r, line, (snprintf(why, sizeof why, __VA_ARGS__), why))

static bool refuse(reader *r, int line, const char *why) {
    return status_set(r->st, ST_USAGE, "%s:%d: %s", r->file, line, why);
}

static const char *scalar(const reader *r) {
    return (const char *)r->event.data.scalar.value;
}

/* The next event, with what is never allowed refused. */
static bool next(reader *r) {
    char why[300];
    if (r->have) yaml_event_delete(&r->event);
    r->have = yaml_parser_parse(&r->parser, &r->event);
    if (!r->have)
        return REFUSE(r, (int)r->parser.problem_mark.line + 1, "YAML cannot be read: %.200s",
                      r->parser.problem ? r->parser.problem : "damaged text");
    const yaml_char_t *anchor = NULL, *tag = NULL;
    switch (r->event.type) {
    case YAML_ALIAS_EVENT:
        return refuse(r, line_of(r), "aliases (*name) are not supported: write the value out");
    case YAML_SCALAR_EVENT:
        anchor = r->event.data.scalar.anchor;
        tag = r->event.data.scalar.tag;
        if (strlen(scalar(r)) != r->event.data.scalar.length) return refuse(r, line_of(r), "a zero byte in a value");
        break;
    case YAML_SEQUENCE_START_EVENT:
        anchor = r->event.data.sequence_start.anchor;
        tag = r->event.data.sequence_start.tag;
        break;
    case YAML_MAPPING_START_EVENT:
        anchor = r->event.data.mapping_start.anchor;
        tag = r->event.data.mapping_start.tag;
        break;
    default:
        break;
    }
    if (anchor) return refuse(r, line_of(r), "anchors (&name) are not supported: write the value out");
    if (tag) return refuse(r, line_of(r), "tags (!type) are not supported");
    return true;
}

static bool first_time(reader *r, int line, const char *name) {
    char why[300];
    for (int i = 0; i < r->n_seen; i++)
        if (!strcmp(r->seen[i], name)) return REFUSE(r, line, "%.200s is given twice", name);
    if (r->n_seen == MAX_KEYS) return refuse(r, line, "too many keys");
    if (r->n_seen == r->cap_seen) {
        r->cap_seen = r->cap_seen ? 2 * r->cap_seen : 64;
        r->seen = realloc(r->seen, (size_t)r->cap_seen * sizeof *r->seen);
        CHECK(r->seen, "no memory for the keys of %s", r->file);
    }
    CHECK((r->seen[r->n_seen++] = strdup(name)), "no memory for the keys of %s", r->file);
    return true;
}

/* The current event starts a value; ends on its last event. */
static bool read_value(reader *r, int line, const char *section, const char *key) {
    char        why[300], *text[MAX_VALUES];
    const char *value[MAX_VALUES];
    yaml_entry  e = {r->file, line, section, key, false, 0, value};
    bool        ok = true;
    if (r->event.type == YAML_SCALAR_EVENT) {
        CHECK((text[e.n++] = strdup(scalar(r))), "no memory for a value of %s", r->file);
    } else if (r->event.type == YAML_SEQUENCE_START_EVENT) {
        e.list = true;
        while ((ok = next(r)) && r->event.type != YAML_SEQUENCE_END_EVENT) {
            if (r->event.type != YAML_SCALAR_EVENT)
                ok = REFUSE(r, line_of(r), "%.80s.%.80s: a list of plain values is expected, not deeper nesting",
                            section, key);
            else if (e.n == MAX_VALUES)
                ok = REFUSE(r, line_of(r), "%.80s.%.80s: a list of more than %d values", section, key, MAX_VALUES);
            else
                CHECK((text[e.n++] = strdup(scalar(r))), "no memory for a value of %s", r->file);
            if (!ok) break;
        }
    } else {
        ok = REFUSE(r, line_of(r), "%.80s.%.80s: a value or a list is expected, not deeper nesting", section, key);
    }
    for (int i = 0; i < e.n; i++) value[i] = text[i];
    ok = ok && r->sink(&e, r->user, r->st);
    for (int i = 0; i < e.n; i++) free(text[i]);
    return ok;
}

/* After the mapping start of a section, to its end. */
static bool read_section(reader *r, const char *section) {
    for (;;) {
        char key[128], name[300], why[300];
        if (!next(r)) return false;
        if (r->event.type == YAML_MAPPING_END_EVENT) return true;
        int line = line_of(r);
        if (r->event.type != YAML_SCALAR_EVENT) return refuse(r, line, "a key must be plain text");
        if (strlen(scalar(r)) >= sizeof key) return REFUSE(r, line, "the key %.40s... is too long", scalar(r));
        strcpy(key, scalar(r));
        snprintf(name, sizeof name, "%s.%s", section, key);
        if (!first_time(r, line, name) || !next(r) || !read_value(r, line, section, key)) return false;
    }
}

static bool read_document(reader *r) {
    char section[128], why[300];
    for (;;) {
        if (!next(r)) return false;
        if (r->event.type == YAML_MAPPING_END_EVENT) return true;
        int line = line_of(r);
        if (r->event.type != YAML_SCALAR_EVENT) return refuse(r, line, "a section name must be plain text");
        if (strlen(scalar(r)) >= sizeof section) return REFUSE(r, line, "the section %.40s... is too long", scalar(r));
        strcpy(section, scalar(r));
        if (!first_time(r, line, section) || !next(r)) return false;
        if (r->event.type == YAML_SCALAR_EVENT && !*scalar(r) && r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE)
            continue; /* a section without keys */
        if (r->event.type != YAML_MAPPING_START_EVENT)
            return REFUSE(r, line, "%.100s: a section with keys is expected here", section);
        if (!read_section(r, section)) return false;
    }
}

static bool read_stream(reader *r) {
    if (!next(r) || !next(r)) return false; /* stream start, document start */
    if (r->event.type == YAML_STREAM_END_EVENT) return true;
    if (!next(r)) return false;
    if (r->event.type == YAML_SCALAR_EVENT && !*scalar(r)) { /* only comments */
    } else if (r->event.type != YAML_MAPPING_START_EVENT) {
        return refuse(r, line_of(r), "sections with keys are expected");
    } else if (!read_document(r)) {
        return false;
    }
    if (!next(r) || !next(r)) return false; /* document end, stream end */
    if (r->event.type != YAML_STREAM_END_EVENT)
        return refuse(r, line_of(r), "a second document (---) is not supported");
    return true;
}

static bool run(reader *r, const char *text, int64_t n, bool (*body)(reader *)) {
    if (n > MAX_TEXT) return refuse(r, 1, "a configuration of more than 1 MB");
    CHECK(yaml_parser_initialize(&r->parser), "no memory for a YAML parser");
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)text, (size_t)n);
    bool ok = body(r);
    if (r->have) yaml_event_delete(&r->event);
    yaml_parser_delete(&r->parser);
    for (int i = 0; i < r->n_seen; i++) free(r->seen[i]);
    free(r->seen);
    return ok;
}

bool yaml_read(const char *file, const char *text, int64_t n, yaml_sink sink, void *user, status *st) {
    reader r = {.file = file, .st = st, .sink = sink, .user = user};
    return run(&r, text, n, read_stream);
}

bool yaml_read_value(const char *file, const char *section, const char *key, const char *text, yaml_sink sink,
                     void *user, status *st) {
    /* A value that is no list is taken literally, so that colons, hashes and quotes of paths need no quoting.
     */
    if (*text != '[') {
        yaml_entry e = {file, 0, section, key, false, 1, &text};
        return sink(&e, user, st);
    }
    size_t cap = strlen(section) + strlen(key) + strlen(text) + 16;
    char  *doc = malloc(cap);
    CHECK(doc, "no memory for an option");
    int  n = snprintf(doc, cap, "%s: {%s: %s}", section, key, text);
    bool ok = yaml_read(file, doc, n, sink, user, st);
    free(doc);
    return ok;
}
