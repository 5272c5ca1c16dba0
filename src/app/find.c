#include "app/find.h"
#include "io/h5.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct {
    found *item;
    int    n, cap;
} found_list;

static void add(found_list *l, found_kind kind, const char *path, const char *text) {
    if (l->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 32;
        l->item = realloc(l->item, (size_t)l->cap * sizeof *l->item);
        CHECK(l->item, "no memory for %d paths", l->cap);
    }
    found *f = &l->item[l->n++];
    f->kind = kind;
    snprintf(f->path, sizeof f->path, "%s", path);
    snprintf(f->text, sizeof f->text, "%s", text);
}

static bool ends_in(const char *name, const char *suffix) {
    size_t n = strlen(name), k = strlen(suffix);
    return n >= k && strcmp(name + n - k, suffix) == 0;
}

static void add_h5(found_list *l, const char *path) {
    status st = {0};
    char   format[64] = "", other[160];
    hid_t  file = h5_file_open(path, &st);
    bool   ok = file >= 0 && h5_get_text(file, "format", format, sizeof format, &st);
    if (file >= 0) h5_file_close(file);
    if (!ok) {
        add(l, FOUND_DAMAGED, path, st.text);
    } else if (!strcmp(format, "d3s2-shard")) {
        add(l, FOUND_SHARD, path, "");
    } else if (!strcmp(format, "d3s2-selection")) {
        add(l, FOUND_SELECTION, path, "");
    } else if (!strcmp(format, "d3s2-latents")) {
        add(l, FOUND_LATENTS, path, "");
    } else if (!strcmp(format, "d3s2-tokens")) {
        add(l, FOUND_TOKENS, path, "");
    } else {
        snprintf(other, sizeof other, "%.80s: holds \"%.20s\", which is neither shard, latents nor tokens", path,
                 format);
        add(l, FOUND_DAMAGED, path, other);
    }
}

static bool walk(found_list *l, const char *path, status *st) {
    char        manifest[PATH_CAP];
    char      **names;
    int         n;
    struct stat s;
    if (!join_path(path, "manifest.json", manifest, st)) return false;
    if (access(manifest, F_OK) == 0) {
        add(l, ends_in(path, ".part") ? FOUND_PART : FOUND_CHECKPOINT, path, "");
        return true;
    }
    if (!list_folder(path, "", &names, &n, st)) return false;
    bool ok = true;
    for (int i = 0; i < n && ok; i++) {
        char child[PATH_CAP];
        ok = join_path(path, names[i], child, st);
        if (!ok || lstat(child, &s) != 0) continue;
        if (ends_in(names[i], ".part"))
            add(l, FOUND_PART, child, "");
        else if (S_ISDIR(s.st_mode))
            ok = walk(l, child, st);
        else if (ends_in(names[i], ".h5"))
            add_h5(l, child);
    }
    free_names(names, n);
    return ok;
}

bool find_below(const char *path, found **list, int *n, status *st) {
    found_list  l = {0};
    struct stat s;
    bool        ok = stat(path, &s) == 0 || status_set(st, ST_NO_INPUT, "%s: %s", path, strerror(errno));
    if (ok && !S_ISDIR(s.st_mode)) {
        /* manifest.json itself stands for its folder */
        char folder[PATH_CAP];
        folder_of(path, folder);
        if (ends_in(path, "manifest.json"))
            add(&l, FOUND_CHECKPOINT, folder, "");
        else
            add_h5(&l, path);
    } else if (ok) {
        ok = walk(&l, path, st);
        if (ok && l.n == 0)
            ok = status_set(st, ST_NO_INPUT, "%s: no shard, latents, tokens or checkpoint in this folder", path);
    }
    *list = ok ? l.item : NULL;
    *n = ok ? l.n : 0;
    if (!ok) free(l.item);
    return ok;
}
