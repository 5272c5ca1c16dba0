#define _GNU_SOURCE /* nftw */
#include "io/atomic_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool atomic_part_name(const char *path, char part[PATH_CAP], status *st) {
    int n = snprintf(part, PATH_CAP, "%s.part", path);
    if (n < 0 || n >= PATH_CAP)
        return status_set(st, ST_USAGE, "%.200s...: the path is longer than %d bytes: use a shorter one", path,
                          PATH_CAP - 6);
    return true;
}

const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

void folder_of(const char *path, char folder[PATH_CAP]) {
    snprintf(folder, PATH_CAP, "%s", path);
    char *slash = strrchr(folder, '/');
    if (!slash)
        strcpy(folder, ".");
    else
        slash[slash == folder] = 0; /* keep the root's own slash */
}

bool sync_path(const char *path, status *st) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return status_set(st, ST_IO, "%s: cannot open for fsync: %s", path, strerror(errno));
    int err = fsync(fd) ? errno : 0;
    close(fd);
    /* Some file systems cannot fsync a folder and say EINVAL; there is nothing better to do on them. */
    if (err && err != EINVAL) return status_set(st, ST_IO, "%s: fsync failed: %s", path, strerror(err));
    return true;
}

bool atomic_publish(const char *part, const char *path, status *st) {
    char folder[PATH_CAP];
    if (!sync_path(part, st)) {
        unlink(part);
        return false;
    }
    if (rename(part, path)) {
        int err = errno;
        unlink(part);
        return status_set(st, ST_IO, "%s: cannot rename to %s: %s", part, path, strerror(err));
    }
    folder_of(path, folder);
    return sync_path(folder, st);
}

bool atomic_begin(atomic_file *a, const char *path, status *st) {
    *a = (atomic_file){0};
    if (!atomic_part_name(path, a->part, st)) return false;
    snprintf(a->path, sizeof a->path, "%s", path);
    a->file = fopen(a->part, "wbe");
    if (!a->file)
        return status_set(st, ST_IO, "%s: cannot create: %s; check the folder and its permissions", a->part,
                          strerror(errno));
    return true;
}

bool atomic_commit(atomic_file *a, status *st) {
    bool bad = ferror(a->file);
    errno = 0;
    bad |= fflush(a->file) != 0;
    int err = errno;
    if (fclose(a->file) && !bad) {
        bad = true;
        err = errno;
    }
    a->file = NULL;
    if (bad) {
        unlink(a->part);
        return status_set(st, ST_IO, "%s: write failed: %s; free some space and run again", a->path,
                          err ? strerror(err) : "disk full or device error");
    }
    return atomic_publish(a->part, a->path, st);
}

void atomic_abandon(atomic_file *a) {
    if (a->file) {
        fclose(a->file);
        unlink(a->part);
    }
    a->file = NULL;
}

bool atomic_write(const char *path, const void *bytes, int64_t n, status *st) {
    atomic_file a;
    if (!atomic_begin(&a, path, st)) return false;
    /* A short write leaves the stream's error flag set, which commit looks at. */
    if (n > 0) (void)!fwrite(bytes, 1, (size_t)n, a.file);
    return atomic_commit(&a, st);
}

bool join_path(const char *folder, const char *name, char out[PATH_CAP], status *st) {
    int n = snprintf(out, PATH_CAP, "%s/%s", folder, name);
    if (n < 0 || n >= PATH_CAP)
        return status_set(st, ST_USAGE, "%.200s/%.100s: the path is longer than %d bytes: use a shorter one", folder,
                          name, PATH_CAP - 1);
    return true;
}

bool make_folder(const char *path, status *st) {
    char part[PATH_CAP];
    if (strlen(path) >= PATH_CAP) return status_set(st, ST_USAGE, "%.200s...: the path is too long", path);
    strcpy(part, path);
    for (char *p = part + 1;; p++) {
        if (*p != '/' && *p) continue;
        char keep = *p;
        *p = 0;
        if (mkdir(part, 0777) && errno != EEXIST)
            return status_set(st, ST_IO, "%s: cannot create the folder: %s", part, strerror(errno));
        *p = keep;
        if (!keep) break;
    }
    struct stat s;
    if (stat(path, &s) || !S_ISDIR(s.st_mode))
        return status_set(st, ST_IO, "%s: is not a folder: remove it or choose another name", path);
    return true;
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *ftw) {
    (void)s, (void)type, (void)ftw;
    return remove(path);
}

bool remove_tree(const char *path, status *st) {
    struct stat s;
    if (lstat(path, &s)) return errno == ENOENT || status_set(st, ST_IO, "%s: %s", path, strerror(errno));
    if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS))
        return status_set(st, ST_IO, "%s: cannot remove: %s", path, strerror(errno));
    return true;
}

bool read_whole_file(const char *path, int64_t max_bytes, uint8_t **bytes, int64_t *n, status *st) {
    struct stat s;
    *bytes = NULL;
    *n = 0;
    FILE *f = fopen(path, "rbe");
    if (!f || fstat(fileno(f), &s)) {
        int err = errno;
        if (f) fclose(f);
        return status_set(st, ST_NO_INPUT, "%s: cannot open: %s", path, strerror(err));
    }
    if (!S_ISREG(s.st_mode) || s.st_size > max_bytes) {
        fclose(f);
        if (!S_ISREG(s.st_mode)) return status_set(st, ST_NO_INPUT, "%s: is not a plain file", path);
        return status_set(st, ST_DATA, "%s: has %lld bytes, more than the %lld this kind of file may have", path,
                          (long long)s.st_size, (long long)max_bytes);
    }
    uint8_t *b = malloc((size_t)s.st_size + 1);
    CHECK(b, "no memory for %lld bytes of %s", (long long)s.st_size, path);
    size_t got = fread(b, 1, (size_t)s.st_size, f);
    bool   bad = ferror(f) || got != (size_t)s.st_size;
    fclose(f);
    if (bad) {
        free(b);
        return status_set(st, ST_NO_INPUT, "%s: read %zu of %lld bytes", path, got, (long long)s.st_size);
    }
    b[got] = 0;
    *bytes = b;
    *n = (int64_t)got;
    return true;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

bool list_folder(const char *folder, const char *suffix, char ***names, int *n, status *st) {
    *names = NULL;
    *n = 0;
    DIR *d = opendir(folder);
    if (!d) return status_set(st, ST_NO_INPUT, "%s: cannot open the folder: %s", folder, strerror(errno));
    size_t cut = strlen(suffix);
    int    cap = 0;
    for (struct dirent *e; (e = readdir(d));) {
        size_t len = strlen(e->d_name);
        if (e->d_name[0] == '.' || len <= cut || strcmp(e->d_name + len - cut, suffix)) continue;
        if (*n == cap) {
            cap = cap ? 2 * cap : 16;
            *names = realloc(*names, (size_t)cap * sizeof **names);
            CHECK(*names, "no memory for %d names of %s", cap, folder);
        }
        CHECK(((*names)[*n] = strdup(e->d_name)), "no memory for a name of %s", folder);
        (*n)++;
    }
    closedir(d);
    if (*n) qsort(*names, (size_t)*n, sizeof **names, by_name);
    return true;
}

void free_names(char **names, int n) {
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
}
