#include "data/open_list.h"
#include "io/atomic_file.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool has_files(const char *folder) {
    char **names;
    int    n;
    status none = {0};
    if (!list_folder(folder, ".h5", &names, &n, &none)) return false;
    free_names(names, n);
    return n > 0;
}

/* `d3s2 prep` makes OUTPUT/train when shapes are held out, else OUTPUT alone; `d3s2 split` makes OUTPUT/split/train. */
static void name_nearby(const char *folder, status *st) {
    static const char *const below[] = {"train", "split/train"};
    char                     nearby[PATH_CAP], plain[PATH_CAP];
    status                   none = {0};
    snprintf(plain, sizeof plain, "%s", folder);
    for (size_t n = strlen(plain); n > 1 && plain[n - 1] == '/'; n--) plain[n - 1] = 0;
    folder_of(plain, nearby);
    bool found = has_files(nearby);
    for (int i = 0; i < 2 && !found; i++) found = join_path(plain, below[i], nearby, &none) && has_files(nearby);
    if (!found) return;
    status first = *st;
    *st = (status){0};
    status_set(st, first.code, "%.400s; %.200s has .h5 files: is that meant?", first.text, nearby);
}

static bool find_files(const char *folder, const list_kind *k, char ***names, int *n, status *st) {
    if (list_folder(folder, ".h5", names, n, st)) {
        if (*n > 0) return true;
        free_names(*names, *n);
        status_set(st, ST_NO_INPUT, "%s: %s", folder, k->none);
    }
    name_nearby(folder, st);
    return false;
}

bool open_list(const char *folder_or_file, const list_kind *k, void **items, int *n, status *st) {
    struct stat info;
    char        path[PATH_CAP], **names = NULL;
    bool        one = stat(folder_or_file, &info) == 0 && S_ISREG(info.st_mode), ok = true;
    int         count = 1;
    *items = NULL;
    *n = 0;
    if (!one && !find_files(folder_or_file, k, &names, &count, st)) return false;
    char *all = calloc((size_t)count, k->width);
    CHECK(all, "no memory for %d files", count);
    file_pool *pool = file_pool_new();
    for (int i = 0; ok && i < count; i++) {
        char *item = all + (size_t)i * k->width;
        ok = (one ? k->open(item, folder_or_file, pool, st)
                  : join_path(folder_or_file, names[i], path, st) && k->open(item, path, pool, st)) &&
             k->alike(item, all, st);
    }
    file_pool_release(pool);
    free_names(names, one ? 0 : count);
    if (!ok) {
        close_list(all, count, k);
        return false;
    }
    *items = all;
    *n = count;
    return true;
}

void close_list(void *items, int n, const list_kind *k) {
    for (int i = 0; i < n; i++) k->close((char *)items + (size_t)i * k->width);
    free(items);
}
