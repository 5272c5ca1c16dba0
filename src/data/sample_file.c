#include "data/sample_file.h"

#include <string.h>
#include <unistd.h>

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
    if (strcmp(format, k->format)) return status_set(st, ST_DATA, "%s: is a %s file, not %s", path, format, k->name);
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
