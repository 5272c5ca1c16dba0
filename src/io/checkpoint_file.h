/* Checkpoints on disk: the folder step-N holds one part per writing rank and a manifest.
 *
 *   step-N/part-00000.h5   /range/0, /range/1, ...: float ranges of flat slabs; attributes slab, first
 *                          /hash/0, ...: XXH3 of every CKPT_CHUNK floats of the range
 *   step-N/manifest.json   step, model, seed, fingerprint, numbers, configuration (YAML text), parameters (name, shape,
 *                          offset in the slab), and for every part its bytes, ranges and hashes; with a checksum of
 *                          itself
 *
 * A slab is a long vector of floats cut over the ranks as they like: "params", "adam_m", "adam_v", "ema", and
 * small ones. Everything is written to step-N.part and renamed when the manifest is complete and on disk, so
 * step-N is whole or absent. Reading is by slab and range, independent of how many ranks wrote. */
#pragma once
#include "core/base.h"
#include "io/atomic_file.h"

enum { CKPT_VERSION = 1, CKPT_CHUNK = 1 << 20, CKPT_RANK = 8, CKPT_NAME = 200, CKPT_NUMBERS = 32 };

typedef struct {
    char    name[CKPT_NAME];
    int     rank;
    int64_t shape[CKPT_RANK];
    int64_t offset; /* of its first element in the slab "params" */
} ckpt_param;

typedef struct {
    char    name[64];
    int64_t value;
} ckpt_number;

/* One stored range. */
typedef struct {
    int       part, index; /* dataset /range/<index> of part file <part> */
    char      slab[64];
    int64_t   first, count;
    uint64_t *hash; /* [ceil(count/CKPT_CHUNK)] */
} ckpt_range;

typedef struct {
    char        folder[PATH_CAP];
    /* given by the writer */
    int64_t     step;
    uint64_t    seed, fingerprint; /* fingerprint: of the weights or the architecture, as the caller likes */
    char        model[32];
    char       *config; /* YAML text */
    int         n_numbers;
    ckpt_number number[CKPT_NUMBERS]; /* data position, bad steps, ... */
    int         n_params;
    ckpt_param *param;
    /* found by ckpt_commit and ckpt_open */
    int         n_parts, n_ranges;
    int64_t    *part_bytes;
    ckpt_range *range; /* by slab and first */
} ckpt_manifest;

/* Frees what ckpt_open filled. */
void ckpt_close(ckpt_manifest *m);

/* ---- writing ---------------------------------------------------------------------------------------------------
 * One rank begins, then every rank writes its part, then, with all parts there, one rank commits, or, when any of it
 * failed, abandons. Who agrees on that is the caller. Until the rename at the end of the commit there is no step-N. */

typedef struct {
    const char  *name;
    const float *data;
    int64_t      first, count; /* this rank holds slab[first .. first+count) */
} ckpt_slab;

/* Taken around calls of HDF5, each time for a moment, where other threads may call it, too. NULL: there are none. */
typedef struct {
    void (*lock)(void *user);
    void (*unlock)(void *user);
    void *user;
} ckpt_guard;

/* Removes what interrupted saves left and makes run_folder/step-N.part, empty; refuses when fewer than `bytes` (those
 * of all parts) are free. */
bool ckpt_begin(const char *run_folder, int64_t step, int64_t bytes, char part_folder[PATH_CAP], status *st);
/* The file of one rank; a rank with nothing to say writes an empty part. */
bool ckpt_write_part(const char *part_folder, int rank, const ckpt_slab *slabs, int n, const ckpt_guard *guard,
                     status *st);
/* Checks that the ranges of every slab leave no hole and do not overlap, writes the manifest, syncs, and renames
 * step-N.part to step-N (an older folder of that name is replaced). */
bool ckpt_commit(const char *part_folder, int n_parts, const ckpt_manifest *m, const ckpt_guard *guard, status *st);
void ckpt_abandon(const char *part_folder);

/* All of it, for one rank: step-N of an existing run folder. */
bool ckpt_save(const char *run_folder, const ckpt_slab *slabs, int n, const ckpt_manifest *m, status *st);

/* The rules, for the trainer, pruning and simulations: whether a checkpoint is written after `step` steps (every 0:
 * never), and whether one stays that has `newer` newer ones. */
static inline bool ckpt_due(int64_t step, int64_t every) {
    return every > 0 && step % every == 0;
}
static inline bool ckpt_stays(int newer, int64_t step, int keep_last, int64_t keep_every) {
    return newer < keep_last || (keep_every > 0 && step % keep_every == 0);
}
/* Keeps the `keep_last` newest, those whose step is a multiple of keep_every (0: none), and always the newest
 * that opens; removes the others and what an interrupted save left. By one rank. */
bool ckpt_prune(const char *run_folder, int keep_last, int64_t keep_every, status *st);

/* ---- reading
 * -------------------------------------------------------------------------------------------------- */

/* Manifest read and checked; every part is there with its right size. */
bool    ckpt_open(const char *folder, ckpt_manifest *m, status *st);
/* Elements of a slab; 0 when the checkpoint has none of that name. */
int64_t ckpt_slab_count(const ckpt_manifest *m, const char *slab);
/* slab[first .. first+count), every chunk it touches checked against its hash. */
bool    ckpt_read_range(const ckpt_manifest *m, const char *slab, int64_t first, int64_t count, float *out, status *st);
/* Reads everything against the hashes. */
bool    ckpt_verify(const ckpt_manifest *m, status *st);
/* The newest good checkpoint of a run folder, opened; `verify` reads all of it. A damaged one is named in a
 * warning and the one before is taken. ST_NO_INPUT when there is none at all, ST_DATA when none is good. */
bool    ckpt_latest(const char *run_folder, bool verify, ckpt_manifest *m, status *st);
/* `path` is a step-N folder or a run folder (then the newest good one). */
bool    ckpt_open_any(const char *path, bool verify, ckpt_manifest *m, status *st);

/* The first difference between the stored parameters and `want`, with both shapes (ST_CONFIG). */
bool    ckpt_match(const ckpt_manifest *m, const ckpt_param *want, int n, status *st);
int64_t ckpt_number_of(const ckpt_manifest *m, const char *name, int64_t missing);
