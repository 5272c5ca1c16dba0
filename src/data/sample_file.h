/* What the files about samples (shards, selections, latents, tokens) have in common: a kind and a version, a mark of
 * completeness that is written last, tables of offsets. */
#pragma once
#include "io/atomic_file.h"
#include "io/h5.h"

typedef struct {
    const char *format;      /* attribute "format" */
    const char *name, *mend; /* "a shard"; what to do about a damaged or an old one: "prepare it again" */
    int         version;
} file_kind;

/* Room for a file of this kind about the samples of these ids: one of the kind that shares a sample with it, or one
 * that cannot be read, is removed; whatever else is there stays and is refused (ST_CONFIG). */
bool  sample_file_make_room(const char *path, const file_kind *k, const uint64_t *id, int64_t n, status *st);
/* The file under its .part name; refuses one that is there. Negative on failure. */
hid_t sample_file_create(const char *path, char part[PATH_CAP], status *st);
bool  sample_file_set_kind(hid_t f, const file_kind *k, status *st);
bool  sample_file_set_complete(hid_t f, status *st);
/* Kind, version and completeness. */
bool  sample_file_check(hid_t f, const char *path, const file_kind *k, status *st);
/* first[0..n] rises from 0 to end; `name` is the table's. */
bool  sample_file_offsets(const char *path, const file_kind *k, const char *name, const int64_t *first, int64_t n,
                          int64_t end, status *st);
