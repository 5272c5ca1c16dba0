#define _GNU_SOURCE /* renameat2 */
#include "io/checkpoint_internal.h"
#include "core/rng.h"
#include "io/h5.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool ckpt_part_path(const char *folder, int part, char path[PATH_CAP], status *st) {
    char name[32];
    snprintf(name, sizeof name, "part-%05d.h5", part);
    return join_path(folder, name, path, st);
}

int64_t ckpt_chunks(int64_t count) {
    return (count + CKPT_CHUNK - 1) / CKPT_CHUNK;
}

/* ---- one part
 * ----------------------------------------------------------------------------------------------------- */

static bool put_range(hid_t f, int index, const ckpt_slab *s, status *st) {
    char      name[32];
    int64_t   chunks = ckpt_chunks(s->count);
    uint64_t *hash = malloc(((size_t)chunks + 1) * sizeof *hash);
    CHECK(hash, "no memory for %lld checksums", (long long)chunks);
    for (int64_t k = 0; k < chunks; k++) {
        int64_t at = k * CKPT_CHUNK, n = s->count - at < CKPT_CHUNK ? s->count - at : CKPT_CHUNK;
        hash[k] = hash_bytes(s->data + at, (size_t)n * sizeof(float), 0);
    }
    snprintf(name, sizeof name, "hash/%d", index);
    bool ok = h5_flat_put(f, name, H5T_STD_U64LE, chunks, hash, st);
    free(hash);
    snprintf(name, sizeof name, "range/%d", index);
    if (!ok || !h5_flat_put(f, name, H5T_IEEE_F32LE, s->count, s->data, st)) return false;
    hid_t set = H5Dopen2(f, name, H5P_DEFAULT);
    if (set < 0) return status_set(st, ST_IO, "a checkpoint part cannot be written");
    ok = h5_set_text(set, "slab", s->name, st) && h5_set_i64(set, "first", s->first, st);
    H5Dclose(set);
    return ok;
}

bool ckpt_write_part(const char *folder, int rank, const ckpt_slab *slabs, int n, status *st) {
    char path[PATH_CAP], part[PATH_CAP];
    if (!ckpt_part_path(folder, rank, path, st) || !atomic_part_name(path, part, st)) return false;
    for (int i = 0; i < n; i++)
        CHECK(slabs[i].first >= 0 && slabs[i].count >= 0 && strlen(slabs[i].name) < 64, "slab %s: %lld from %lld",
              slabs[i].name, (long long)slabs[i].count, (long long)slabs[i].first);
    hid_t f = h5_file_create(part, st);
    if (f < 0) return false;
    bool ok = h5_group(f, "range", st) && h5_group(f, "hash", st) &&
              h5_set_text(f, "format", "d3s2-checkpoint-part", st) && h5_set_i64(f, "version", CKPT_VERSION, st) &&
              h5_set_i64(f, "n_ranges", n, st);
    for (int i = 0; ok && i < n; i++) ok = put_range(f, i, &slabs[i], st);
    if (!ok) {
        h5_file_discard(f, part);
        return false;
    }
    return h5_file_finish(f, part, st) && atomic_publish(part, path, st);
}

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

/* What the parts say about themselves, into the manifest. */
static bool gather(const char *folder, ckpt_manifest *m, status *st) {
    m->part_bytes = calloc((size_t)m->n_parts + 1, sizeof *m->part_bytes);
    CHECK(m->part_bytes, "no memory for %d parts", m->n_parts);
    for (int p = 0; p < m->n_parts; p++) {
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
        if (!ok) return false;
        m->part_bytes[p] = info.st_size;
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

bool ckpt_commit(const char *part_folder, const char *folder, int n_parts, const ckpt_manifest *given, status *st) {
    char          path[PATH_CAP], parent[PATH_CAP];
    ckpt_manifest m = *given;
    m.n_parts = n_parts;
    m.n_ranges = 0;
    m.range = NULL;
    bool ok = gather(part_folder, &m, st) && ckpt_check_cover(folder, m.range, m.n_ranges, st) &&
              join_path(part_folder, "manifest.json", path, st);
    if (ok) {
        char *text = ckpt_manifest_text(&m);
        ok = atomic_write(path, text, (int64_t)strlen(text), st);
        free(text);
    }
    for (int i = 0; i < m.n_ranges; i++) free(m.range[i].hash);
    free(m.range);
    free(m.part_bytes);
    folder_of(folder, parent);
    return ok && sync_path(part_folder, st) && put_in_place(part_folder, folder, st) && sync_path(parent, st);
}

bool ckpt_save(const char *run_folder, int rank, int n_ranks, int64_t step, const ckpt_slab *slabs, int n,
               const ckpt_manifest *m, ckpt_all_ok all_ok, void *user, status *st) {
    char name[40], folder[PATH_CAP], part[PATH_CAP];
    snprintf(name, sizeof name, "step-%" PRId64, step);
    bool ok = join_path(run_folder, name, folder, st) && atomic_part_name(folder, part, st);
    if (ok && rank == 0) {
        CHECK(m && m->step == step, "the manifest says step %lld, not %lld", m ? (long long)m->step : -1,
              (long long)step);
        ok = make_folder(run_folder, st) && remove_tree(part, st) && make_folder(part, st);
    }
    if (all_ok) ok = all_ok(ok, user);
    if (ok) ok = ckpt_write_part(part, rank, slabs, n, st);
    if (all_ok) ok = all_ok(ok, user);
    if (ok && rank == 0) ok = ckpt_commit(part, folder, n_ranks, m, st);
    if (all_ok) ok = all_ok(ok, user);
    if (ok) return true;
    if (rank == 0) {
        status ignored = {0};
        remove_tree(part, &ignored);
    }
    return status_set(st, ST_IO, "%s: another rank could not write its part of the checkpoint", folder);
}
