/* Files that are whole or absent: written under NAME.part, completed, fsynced, renamed to NAME, and the
 * folder fsynced. A crash or a full disk leaves at most a NAME.part, which no reader of this program looks
 * at. */
#pragma once
#include "core/base.h"
#include <stdio.h>

enum { PATH_CAP = 512 }; /* longest path this program handles, with the final zero */

typedef struct {
    char  path[PATH_CAP], part[PATH_CAP];
    FILE *file; /* write here */
} atomic_file;

bool atomic_begin(atomic_file *a, const char *path, status *st);
/* Completes and renames; on failure the .part is removed. The file is closed in every case. */
bool atomic_commit(atomic_file *a, status *st);
void atomic_abandon(atomic_file *a);

/* begin + write + commit. */
bool atomic_write(const char *path, const void *bytes, int64_t n, status *st);

/* The two halves for writers that open the file themselves (HDF5): the name to write to, and the publication
 * of a closed file. publish removes the .part when it fails. */
bool atomic_part_name(const char *path, char part[PATH_CAP], status *st);
bool atomic_publish(const char *part, const char *path, status *st);

/* What has been written to a file or folder survives a power cut. */
bool        sync_path(const char *path, status *st);
/* path's folder, "." when it has none. */
void        folder_of(const char *path, char folder[PATH_CAP]);
/* What follows it in path. */
const char *base_name(const char *path);
/* Creates a folder and its parents; an existing one is fine. */
bool        make_folder(const char *path, status *st);
/* Removes a file, or a folder with all it holds (links are not followed). Missing is fine. */
bool        remove_tree(const char *path, status *st);

/* Malloc'ed content with a zero byte after it; refuses files above max_bytes. */
bool read_whole_file(const char *path, int64_t max_bytes, uint8_t **bytes, int64_t *n, status *st);

/* Names (not paths) in a folder that end in `suffix` and do not start with a dot, sorted; malloc'ed,
 * free_names. */
bool list_folder(const char *folder, const char *suffix, char ***names, int *n, status *st);
void free_names(char **names, int n);

/* Fills out with "folder/name"; false (ST_USAGE) when it does not fit. */
bool join_path(const char *folder, const char *name, char out[PATH_CAP], status *st);
