#include "data_prep/catalog.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int   number;
    char *model, *category, *title;
} item;

typedef struct {
    char *folder; /* relative to the root, "" or "a/b/" */
    item *items;
    int   n;
} catalog;

struct catalog_set {
    char    *root;
    catalog *list; /* folders that were looked at, with or without a catalogue */
    int      n;
    char    *parent; /* last folder name given out */
};

static char *copy_text(const char *s, size_t n) {
    char *c = malloc(n + 1);
    CHECK(c, "no memory for a catalogue");
    memcpy(c, s, n);
    c[n] = 0;
    return c;
}

/* Latin-1 with \uXXXX to UTF-8; other escapes lose their backslash. */
static char *to_utf8(const char *s) {
    char *out = malloc(3 * strlen(s) + 1), *o = out;
    CHECK(out, "no memory for a catalogue");
    for (; *s; s++) {
        unsigned c = (unsigned char)*s;
        if (c == '\\' && s[1] == 'u' && sscanf(s + 2, "%4x", &c) == 1)
            for (int i = 0; i < 5 && s[1]; i++) s++;
        else if (c == '\\' && s[1])
            c = (unsigned char)*++s;
        if (c < 0x80) {
            *o++ = (char)c;
        } else if (c < 0x800) {
            *o++ = (char)(0xc0 | c >> 6);
            *o++ = (char)(0x80 | (c & 63));
        } else {
            *o++ = (char)(0xe0 | c >> 12);
            *o++ = (char)(0x80 | (c >> 6 & 63));
            *o++ = (char)(0x80 | (c & 63));
        }
    }
    *o = 0;
    return out;
}

static item *item_of(catalog *c, int number) {
    for (int i = c->n - 1; i >= 0; i--)
        if (c->items[i].number == number) return &c->items[i];
    c->items = realloc(c->items, (size_t)(c->n + 1) * sizeof *c->items);
    CHECK(c->items, "no memory for a catalogue");
    c->items[c->n] = (item){.number = number};
    return &c->items[c->n++];
}

static void read_catalog(const char *path, catalog *c) {
    FILE *f = fopen(path, "r");
    char  line[4096];
    while (f && fgets(line, sizeof line, f)) {
        char *hash = strchr(line, '#'), *equal = strchr(line, '='), *end = line + strlen(line);
        while (end > line && isspace((unsigned char)end[-1])) *--end = 0;
        if (!hash || !equal || hash > equal || hash == line) continue;
        int    number = atoi(hash + 1);
        size_t n = (size_t)(hash - line);
        char **slot = NULL;
        bool   is_model = n == 5 && memcmp(line, "model", n) == 0;
        if (is_model) slot = &item_of(c, number)->model;
        if (n == 8 && memcmp(line, "category", n) == 0) slot = &item_of(c, number)->category;
        if (n == 4 && memcmp(line, "name", n) == 0) slot = &item_of(c, number)->title;
        if (!slot || *slot) continue;
        for (equal++; isspace((unsigned char)*equal) || (is_model && *equal == '/');) equal++;
        *slot = to_utf8(equal);
    }
    if (f) fclose(f);
}

static catalog *catalog_at(catalog_set *s, const char *folder, size_t n) {
    for (int i = 0; i < s->n; i++)
        if (strlen(s->list[i].folder) == n && memcmp(s->list[i].folder, folder, n) == 0) return &s->list[i];
    s->list = realloc(s->list, (size_t)(s->n + 1) * sizeof *s->list);
    CHECK(s->list, "no memory for a catalogue");
    catalog *c = &s->list[s->n++];
    *c = (catalog){.folder = copy_text(folder, n)};
    static const char *const names[] = {"PluginFurnitureCatalog.properties", "Catalog.properties",
                                        "catalog.properties"};
    for (int i = 0; i < 3 && c->n == 0; i++) {
        char path[8192];
        snprintf(path, sizeof path, "%s/%s%s", s->root, c->folder, names[i]);
        read_catalog(path, c);
    }
    return c;
}

catalog_set *catalog_new(const char *root) {
    catalog_set *s = calloc(1, sizeof *s);
    CHECK(s, "no memory for a catalogue");
    s->root = copy_text(root, strlen(root));
    return s;
}

void catalog_free(catalog_set *s) {
    if (!s) return;
    for (int i = 0; i < s->n; i++) {
        for (int k = 0; k < s->list[i].n; k++)
            free(s->list[i].items[k].model), free(s->list[i].items[k].category), free(s->list[i].items[k].title);
        free(s->list[i].items), free(s->list[i].folder);
    }
    free(s->list), free(s->root), free(s->parent), free(s);
}

void catalog_find(catalog_set *s, const char *name, const char **category, const char **title) {
    *category = *title = "";
    size_t n = strlen(name);
    for (;;) { /* folders from the model's own up to the root */
        while (n > 0 && name[n - 1] != '/') n--;
        const catalog *c = catalog_at(s, name, n);
        for (int i = 0; i < c->n; i++)
            if (c->items[i].model && strcmp(c->items[i].model, name + n) == 0) {
                if (c->items[i].category) *category = c->items[i].category;
                if (c->items[i].title) *title = c->items[i].title;
                if (**category) return;
            }
        if (n == 0) break;
        n--;
    }
    const char *slash = strrchr(name, '/');
    if (!slash) return;
    const char *start = slash;
    while (start > name && start[-1] != '/') start--;
    free(s->parent);
    s->parent = copy_text(start, (size_t)(slash - start));
    *category = s->parent;
}
