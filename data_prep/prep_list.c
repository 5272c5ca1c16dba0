#include "data_prep/import.h"
#include "data_prep/prep.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char *copy_text(const char *s) {
    char *c = strdup(s);
    CHECK(c, "no memory for a file name");
    return c;
}

static void add_name(file_list *l, const char *name) {
    if ((l->n & (l->n - 1)) == 0) { /* full at every power of two */
        l->name = realloc(l->name, (size_t)(l->n ? 2 * l->n : 1) * sizeof *l->name);
        CHECK(l->name, "no memory for %lld file names", (long long)l->n);
    }
    l->name[l->n++] = copy_text(name);
}

static bool walk(file_list *l, const char *inside, int depth, status *st) {
    char path[8192];
    snprintf(path, sizeof path, "%s/%s", l->root, inside);
    DIR *d = opendir(path);
    if (!d) return status_set(st, ST_NO_INPUT, "%s: %s", path, strerror(errno));
    bool           good = true;
    struct dirent *e;
    while (good && (e = readdir(d))) {
        char        name[4096];
        struct stat info;
        if (e->d_name[0] == '.') continue;
        if (snprintf(name, sizeof name, "%s%s%s", inside, *inside ? "/" : "", e->d_name) >= (int)sizeof name) continue;
        snprintf(path, sizeof path, "%s/%s", l->root, name);
        if (stat(path, &info) != 0) continue;
        if (S_ISDIR(info.st_mode) && depth < 64)
            good = walk(l, name, depth + 1, st); /* a cycle of links ends here */
        else if (S_ISREG(info.st_mode) && import_knows(name))
            add_name(l, name);
    }
    closedir(d);
    return good;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool read_lines(file_list *l, const char *path, status *st) {
    char  line[4096];
    FILE *f = fopen(path, "r");
    if (!f) return status_set(st, ST_NO_INPUT, "%s: %s", path, strerror(errno));
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\r\n")] = 0;
        if (line[0] && line[0] != '#') add_name(l, line);
    }
    fclose(f);
    return true;
}

bool file_list_read(const char *input, file_list *l, status *st) {
    struct stat info;
    *l = (file_list){0};
    if (stat(input, &info) != 0) return status_set(st, ST_NO_INPUT, "%s: %s", input, strerror(errno));
    l->root = copy_text(input);
    bool good = true;
    if (S_ISDIR(info.st_mode)) {
        good = walk(l, "", 0, st);
    } else {
        char *slash = strrchr(l->root, '/');
        if (slash)
            slash[slash == l->root] = 0;
        else
            strcpy(l->root, ".");
        slash = strrchr(input, '/');
        if (import_knows(input))
            add_name(l, slash ? slash + 1 : input);
        else
            good = read_lines(l, input, st);
    }
    if (good && l->n == 0) good = status_set(st, ST_NO_INPUT, "%s: no mesh files in it", input);
    if (!good) {
        file_list_free(l);
        return false;
    }
    qsort(l->name, (size_t)l->n, sizeof *l->name, by_name);
    int64_t n = 1;
    for (int64_t i = 1; i < l->n; i++) {
        if (strcmp(l->name[i], l->name[n - 1]) == 0)
            free(l->name[i]);
        else
            l->name[n++] = l->name[i];
    }
    l->n = n;
    return true;
}

void file_list_free(file_list *l) {
    for (int64_t i = 0; i < l->n; i++) free(l->name[i]);
    free(l->name), free(l->root);
    *l = (file_list){0};
}
