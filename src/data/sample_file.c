#include "data/sample_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool share_an_id(const uint64_t *a, int64_t na, const uint64_t *b, int64_t nb) {
    for (int64_t i = 0; i < na; i++)
        for (int64_t j = 0; j < nb; j++)
            if (a[i] == b[j]) return true;
    return false;
}

/* What is there belongs to somebody else; unread is nobody's. */
static bool belongs_elsewhere(const char *path, const file_kind *k, const uint64_t *id, int64_t n, status *st) {
    char    format[64];
    status  why = {0};
    int64_t found = 0;
    bool    other = false;
    hid_t   f = h5_file_open(path, &why);
    if (f < 0) return false;
    if (h5_get_text(f, "format", format, sizeof format, &why)) {
        if (strcmp(format, k->format)) {
            status_set(st, ST_CONFIG, "%s: is a %s file and stays: write %s to another folder", path, format, k->name);
            other = true;
        } else if (h5_get_i64(f, "n_samples", &found, &why) && found > 0) {
            uint64_t *there = h5_table_get(f, "sample/id", H5T_NATIVE_UINT64, 0, found, &why);
            other = there && n > 0 && !share_an_id(id, n, there, found);
            if (other)
                status_set(st, ST_CONFIG,
                           "%s: holds %s of other shapes: write to another folder, or remove it if nobody needs it",
                           path, k->name);
            free(there);
        }
    }
    h5_file_close(f);
    return other;
}

bool sample_file_make_room(const char *path, const file_kind *k, const uint64_t *id, int64_t n, status *st) {
    struct stat info;
    if (lstat(path, &info) != 0) return true;
    if (!S_ISREG(info.st_mode)) return status_set(st, ST_CONFIG, "%s: is no plain file: remove it", path);
    if (belongs_elsewhere(path, k, id, n, st)) return false;
    return unlink(path) == 0 || status_set(st, ST_IO, "%s: cannot remove it: %s", path, strerror(errno));
}

hid_t sample_file_create(const char *path, char part[PATH_CAP], status *st) {
    if (!atomic_part_name(path, part, st)) return -1;
    if (access(path, F_OK) != 0) return h5_file_create(part, st);
    status_set(st, ST_IO, "%s: exists already: remove it or write to another folder", path);
    return -1;
}

bool sample_file_set_kind(hid_t f, const file_kind *k, status *st) {
    return h5_set_text(f, "format", k->format, st) && h5_set_i64(f, "version", k->version, st);
}

bool sample_file_set_complete(hid_t f, status *st) {
    return h5_set_i64(f, "complete", 1, st);
}

bool sample_file_check(hid_t f, const char *path, const file_kind *k, status *st) {
    char    format[64];
    int64_t version, complete;
    if (!h5_get_text(f, "format", format, sizeof format, st)) return false;
    if (strcmp(format, k->format))
        return status_set(st, ST_DATA, "%s: is a %s file, not %s: name another folder, or move it elsewhere", path,
                          format, k->name);
    if (!h5_get_i64(f, "version", &version, st)) return false;
    if (version != k->version)
        return status_set(st, ST_DATA,
                          "%s: has format version %lld, this program reads version %d of %s: %s, or use the matching "
                          "program",
                          path, (long long)version, k->version, k->format, k->mend);
    if (!h5_get_i64(f, "complete", &complete, st)) return false;
    return complete == 1 || status_set(st, ST_DATA, "%s: was never completed: %s", path, k->mend);
}

bool sample_file_offsets(const char *path, const file_kind *k, const char *name, const int64_t *first, int64_t n,
                         int64_t end, status *st) {
    bool ok = first[0] == 0 && first[n] == end;
    for (int64_t i = 0; ok && i < n; i++) ok = first[i] <= first[i + 1];
    return ok ||
           status_set(st, ST_DATA, "%s: %s: the offsets are not a rising list from 0 to %lld: the file is damaged, %s",
                      path, name, (long long)end, k->mend);
}
