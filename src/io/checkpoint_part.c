#define _GNU_SOURCE /* sync_file_range */
/* One part file. HDF5 makes its tables, whose places in the file are fixed then; the numbers themselves, nearly all of
 * the bytes, go there by plain writes of hashed chunks from several threads. So HDF5, which does one thing at a time
 * in a process, is held for a moment only. */
#include "core/fault.h"
#include "core/rng.h"
#include "io/checkpoint_internal.h"
#include "io/h5.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "floats go to the file as they are in memory");

/* One hashes while another writes; four were not clearly faster (docs/perf/running.md). */
enum { WRITE_THREADS = 2 };

bool ckpt_part_path(const char *folder, int part, char path[PATH_CAP], status *st) {
    char name[32];
    snprintf(name, sizeof name, "part-%05d.h5", part);
    return join_path(folder, name, path, st);
}

int64_t ckpt_chunks(int64_t count) {
    return (count + CKPT_CHUNK - 1) / CKPT_CHUNK;
}

void ckpt_guard_take(const ckpt_guard *g) {
    if (g) g->lock(g->user);
}
void ckpt_guard_give(const ckpt_guard *g) {
    if (g) g->unlock(g->user);
}

/* ---- tables ---------------------------------------------------------------------------------------------------- */

/* Where the numbers of a slab and their hashes lie in the file. */
typedef struct {
    int64_t   data_at, hash_at, n_chunks;
    uint64_t *hash;
} place_of_slab;

static bool make_range(hid_t f, int index, const ckpt_slab *s, place_of_slab *p, status *st) {
    char name[32];
    snprintf(name, sizeof name, "hash/%d", index);
    if (!h5_flat_reserve(f, name, H5T_STD_U64LE, p->n_chunks, &p->hash_at, st)) return false;
    snprintf(name, sizeof name, "range/%d", index);
    if (!h5_flat_reserve(f, name, H5T_IEEE_F32LE, s->count, &p->data_at, st)) return false;
    hid_t set = H5Dopen2(f, name, H5P_DEFAULT);
    if (set < 0) return status_set(st, ST_IO, "a checkpoint part cannot be written");
    bool ok = h5_set_text(set, "slab", s->name, st) && h5_set_i64(set, "first", s->first, st);
    H5Dclose(set);
    return ok;
}

static bool make_tables(const char *path, const ckpt_slab *slabs, int n, place_of_slab *place, status *st) {
    hid_t f = h5_file_create(path, st);
    if (f < 0) return false;
    bool ok = h5_group(f, "range", st) && h5_group(f, "hash", st) &&
              h5_set_text(f, "format", "d3s2-checkpoint-part", st) && h5_set_i64(f, "version", CKPT_VERSION, st) &&
              h5_set_i64(f, "n_ranges", n, st);
    for (int i = 0; ok && i < n; i++) ok = make_range(f, i, &slabs[i], &place[i], st);
    if (ok) return h5_file_finish(f, path, st);
    h5_file_discard(f, path);
    return false;
}

/* ---- numbers --------------------------------------------------------------------------------------------------- */

typedef struct {
    int              fd, n;
    const ckpt_slab *slab;
    place_of_slab   *place;
    atomic_llong     next;   /* chunk, counted through all slabs */
    atomic_int       failed; /* errno of the first failure */
} writing;

/* 0 or errno. */
static int write_all(int fd, const void *data, size_t n, int64_t at) {
    for (size_t done = 0; done < n;) {
        size_t  want = fault_at("ckpt.short") ? (n - done + 1) / 2 : n - done;
        ssize_t put = fault_at("ckpt.write") ? -1 : pwrite(fd, (const char *)data + done, want, at + (off_t)done);
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) return put < 0 ? errno : ENOSPC;
        done += (size_t)put;
    }
    return 0;
}

static void *write_chunks(void *user) {
    writing *w = user;
    while (!atomic_load(&w->failed)) {
        int64_t k = atomic_fetch_add(&w->next, 1);
        int     i = 0;
        for (; i < w->n && k >= w->place[i].n_chunks; i++) k -= w->place[i].n_chunks;
        if (i == w->n) break;
        const ckpt_slab *s = &w->slab[i];
        int64_t          at = k * CKPT_CHUNK, left = s->count - at;
        size_t           bytes = (size_t)(left < CKPT_CHUNK ? left : CKPT_CHUNK) * sizeof(float);
        int64_t          in_file = w->place[i].data_at + at * (int64_t)sizeof(float);
        w->place[i].hash[k] = hash_bytes(s->data + at, bytes, 0);
        int err = write_all(w->fd, s->data + at, bytes, in_file), none = 0;
        if (err) atomic_compare_exchange_strong(&w->failed, &none, err);
        /* The disk is to begin now, not when the last byte is there and all wait for it. */
        if (!err) sync_file_range(w->fd, in_file, (off_t)bytes, SYNC_FILE_RANGE_WRITE);
    }
    return NULL;
}

/* 0 or errno. */
static int write_numbers(int fd, const ckpt_slab *slabs, int n, place_of_slab *place) {
    writing   w = {.fd = fd, .n = n, .slab = slabs, .place = place};
    pthread_t helper[WRITE_THREADS - 1];
    int       n_helpers = 0;
    while (n_helpers < WRITE_THREADS - 1 && pthread_create(&helper[n_helpers], NULL, write_chunks, &w) == 0)
        n_helpers++;
    write_chunks(&w);
    for (int i = 0; i < n_helpers; i++) pthread_join(helper[i], NULL);
    int err = atomic_load(&w.failed);
    for (int i = 0; !err && i < n; i++)
        err = write_all(fd, place[i].hash, (size_t)place[i].n_chunks * sizeof(uint64_t), place[i].hash_at);
    return err;
}

static bool fill_tables(const char *path, const ckpt_slab *slabs, int n, place_of_slab *place, status *st) {
    int fd = open(path, O_WRONLY | O_CLOEXEC), err = fd < 0 ? errno : write_numbers(fd, slabs, n, place);
    fault_at("ckpt.before_fsync");
    if (!err && (fault_at("ckpt.fsync") || fsync(fd))) err = errno;
    if (fd >= 0 && close(fd) && !err) err = errno;
    return !err || status_set(st, ST_IO, "%s: write failed: %s; free some space and run again", path, strerror(err));
}

bool ckpt_write_part(const char *folder, int rank, const ckpt_slab *slabs, int n, const ckpt_guard *guard, status *st) {
    char path[PATH_CAP], part[PATH_CAP];
    if (!ckpt_part_path(folder, rank, path, st) || !atomic_part_name(path, part, st)) return false;
    place_of_slab *place = calloc((size_t)n + 1, sizeof *place);
    CHECK(place, "no memory for %d slabs", n);
    for (int i = 0; i < n; i++) {
        CHECK(slabs[i].first >= 0 && slabs[i].count >= 0 && strlen(slabs[i].name) < 64, "slab %s: %lld from %lld",
              slabs[i].name, (long long)slabs[i].count, (long long)slabs[i].first);
        place[i].n_chunks = ckpt_chunks(slabs[i].count);
        place[i].hash = malloc(((size_t)place[i].n_chunks + 1) * sizeof *place[i].hash);
        CHECK(place[i].hash, "no memory for %lld checksums", (long long)place[i].n_chunks);
    }
    fault_at("ckpt.before_part");
    ckpt_guard_take(guard);
    bool ok = make_tables(part, slabs, n, place, st);
    ckpt_guard_give(guard);
    if (ok) {
        fault_at("ckpt.tables");
        ok = fill_tables(part, slabs, n, place, st);
        if (!ok) unlink(part);
    }
    for (int i = 0; i < n; i++) free(place[i].hash);
    free(place);
    ok = ok && atomic_publish(part, path, st);
    fault_at("ckpt.after_part");
    return ok;
}
