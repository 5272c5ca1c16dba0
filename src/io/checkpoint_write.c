#define _GNU_SOURCE /* renameat2 */
#include "core/fault.h"
#include "io/checkpoint_internal.h"
#include "io/h5.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* ---- commit
 * ------------------------------------------------------------------------------------------------------- */

static bool get_range(hid_t f, int part, int index, ckpt_range *r, status *st) {
    char name[32];
    bool ok = false;
    *r = (ckpt_range){.part = part, .index = index};
    snprintf(name, sizeof name, "range/%d", index);
    hid_t set = h5_table_open(f, name, H5T_NATIVE_FLOAT, 0, -1, &r->count, st);
    if (set >= 0) {
        ok = h5_get_text(set, "slab", r->slab, sizeof r->slab, st) && h5_get_i64(set, "first", &r->first, st);
        H5Dclose(set);
    }
    snprintf(name, sizeof name, "hash/%d", index);
    return ok && (r->hash = h5_table_get(f, name, H5T_NATIVE_UINT64, 0, ckpt_chunks(r->count), st));
}

static bool gather_part(const char *folder, int p, ckpt_manifest *m, status *st) {
    char        path[PATH_CAP];
    struct stat info;
    int64_t     n = 0;
    if (!ckpt_part_path(folder, p, path, st)) return false;
    hid_t f = h5_file_open(path, st);
    if (f < 0) return false;
    bool ok = h5_get_i64(f, "n_ranges", &n, st) && n >= 0 && n < 1 << 20;
    m->range = realloc(m->range, (size_t)(m->n_ranges + n + 1) * sizeof *m->range);
    CHECK(m->range, "no memory for %lld ranges", (long long)n);
    for (int i = 0; ok && i < n; i++) ok = get_range(f, p, i, &m->range[m->n_ranges++], st);
    H5Fclose(f);
    if (ok && stat(path, &info)) ok = status_set(st, ST_IO, "%s: %s", path, strerror(errno));
    if (ok) m->part_bytes[p] = info.st_size;
    return ok;
}

/* What the parts say about themselves, into the manifest. */
static bool gather(const char *folder, ckpt_manifest *m, const ckpt_guard *guard, status *st) {
    m->part_bytes = calloc((size_t)m->n_parts + 1, sizeof *m->part_bytes);
    CHECK(m->part_bytes, "no memory for %d parts", m->n_parts);
    for (int p = 0; p < m->n_parts; p++) {
        ckpt_guard_take(guard); /* for each part anew: others get their turn */
        bool ok = gather_part(folder, p, m, st);
        ckpt_guard_give(guard);
        if (!ok) return false;
    }
    return true;
}

static int by_slab(const void *a, const void *b) {
    const ckpt_range *x = a, *y = b;
    int               c = strcmp(x->slab, y->slab);
    if (c) return c;
    if (x->first != y->first) return x->first < y->first ? -1 : 1;
    return x->count < y->count ? -1 : x->count > y->count; /* an empty range first */
}

bool ckpt_check_cover(const char *folder, ckpt_range *range, int n, status *st) {
    if (n) qsort(range, (size_t)n, sizeof *range, by_slab);
    int64_t at = 0;
    for (int i = 0; i < n; i++) {
        if (i == 0 || strcmp(range[i].slab, range[i - 1].slab)) at = 0;
        if (range[i].count && range[i].first != at)
            return status_set(st, ST_DATA,
                              "%s: slab %s: a range starts at %lld where %lld is expected: ranges overlap or "
                              "leave a hole",
                              folder, range[i].slab, (long long)range[i].first, (long long)at);
        at += range[i].count;
    }
    return true;
}

/* Puts the finished folder in place of an older one of the same name in one step. */
static bool put_in_place(const char *part_folder, const char *folder, status *st) {
    struct stat info;
    if (lstat(folder, &info) == 0) {
        if (renameat2(AT_FDCWD, part_folder, AT_FDCWD, folder, RENAME_EXCHANGE) == 0)
            return remove_tree(part_folder, st);
        /* A file system without exchange. */
        if (!remove_tree(folder, st)) return false;
    }
    if (rename(part_folder, folder))
        return status_set(st, ST_IO, "%s: cannot rename to %s: %s", part_folder, folder, strerror(errno));
    return true;
}

/* Free bytes where the folder is; INT64_MAX when the file system does not say. */
static int64_t free_space(const char *folder) {
    struct statvfs v;
    if (statvfs(folder, &v) || v.f_blocks == 0) return INT64_MAX;
    return (int64_t)v.f_bavail * (int64_t)v.f_frsize;
}

bool ckpt_begin(const char *run_folder, int64_t step, int64_t bytes, char part_folder[PATH_CAP], status *st) {
    char folder[PATH_CAP];
    if (!ckpt_step_folder(run_folder, step, folder, st) || !atomic_part_name(folder, part_folder, st)) return false;
    /* The run's folder is not made anew: where it has gone, a disk may have gone. */
    if (access(run_folder, F_OK)) return status_set(st, ST_IO, "%s: cannot create: %s", part_folder, strerror(errno));
    if (!ckpt_remove_leftovers(run_folder, st)) return false; /* of any step: they take the space */
    int64_t free_bytes = free_space(run_folder);
    if (free_bytes < bytes)
        return status_set(st, ST_IO, "%s: needs %.1f MB, %.1f MB are free: free some space and run again", folder,
                          (double)bytes / 1e6, (double)free_bytes / 1e6);
    if (fault_at("ckpt.begin") || mkdir(part_folder, 0777))
        return status_set(st, ST_IO, "%s: cannot create: %s", part_folder, strerror(errno));
    return true;
}

bool ckpt_commit(const char *part_folder, int n_parts, const ckpt_manifest *given, const ckpt_guard *guard,
                 status *st) {
    char          path[PATH_CAP], folder[PATH_CAP], parent[PATH_CAP];
    ckpt_manifest m = *given;
    m.n_parts = n_parts;
    m.n_ranges = 0;
    m.range = NULL;
    folder_of(part_folder, parent);
    fault_at("ckpt.before_manifest");
    bool ok = ckpt_step_folder(parent, m.step, folder, st) && gather(part_folder, &m, guard, st) &&
              ckpt_check_cover(folder, m.range, m.n_ranges, st) && join_path(part_folder, "manifest.json", path, st);
    if (ok && fault_at("ckpt.manifest")) ok = status_set(st, ST_IO, "%s: write failed: %s", path, strerror(errno));
    if (ok) {
        char *text = ckpt_manifest_text(&m);
        ok = atomic_write(path, text, (int64_t)strlen(text), st);
        free(text);
    }
    for (int i = 0; i < m.n_ranges; i++) free(m.range[i].hash);
    free(m.range);
    free(m.part_bytes);
    fault_at("ckpt.after_manifest");
    ok = ok && sync_path(part_folder, st);
    fault_at("ckpt.before_rename");
    ok = ok && put_in_place(part_folder, folder, st);
    fault_at("ckpt.after_rename");
    return ok && sync_path(parent, st);
}

bool ckpt_save(const char *run_folder, const ckpt_slab *slabs, int n, const ckpt_manifest *m, status *st) {
    char    part[PATH_CAP];
    int64_t bytes = 0;
    for (int i = 0; i < n; i++) bytes += slabs[i].count * (int64_t)sizeof(float);
    if (!ckpt_begin(run_folder, m->step, bytes, part, st)) return false;
    if (ckpt_write_part(part, 0, slabs, n, NULL, st) && ckpt_commit(part, 1, m, NULL, st)) return true;
    ckpt_abandon(part);
    return false;
}

void ckpt_abandon(const char *part_folder) {
    status ignored = {0};
    remove_tree(part_folder, &ignored);
}
