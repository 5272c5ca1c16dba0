/* Thin typed helpers over HDF5, the only place that calls it. A "table" is a dataset of rank 1 (cols = 0) or
 * 2, chunked along its rows. Every failure is a one-line status that names file and object; HDF5's own error
 * print is off, file locking is off (network file systems often lack it, and every file here has one writer),
 * and sizes found in a file are bounded by what its stored bytes can hold before anything is allocated from
 * them.
 *
 * Files are made in the 1.10 format, whose metadata carries checksums. All objects of a file are closed with
 * it. */
#pragma once
#include "core/base.h"
#include <hdf5.h>

/* Creates (truncates) a file / opens one for reading. Negative on failure. */
hid_t h5_file_create(const char *path, status *st);
hid_t h5_file_open(const char *path, status *st);
/* Closes a file that was opened for reading. */
void  h5_file_close(hid_t file);
/* Flushes and closes a file that h5_file_create made; a failed write (disk full) shows here at the latest, and removes
 * it. */
bool  h5_file_finish(hid_t file, const char *path, status *st);
/* Closes and removes a file under writing, also when the disk is full. */
void  h5_file_discard(hid_t file, const char *path);

bool h5_group(hid_t file, const char *name, status *st);
bool h5_has(hid_t file, const char *name); /* of one link, or a path of links */

bool h5_set_text(hid_t object, const char *name, const char *text, status *st);
bool h5_set_i64(hid_t object, const char *name, int64_t v, status *st);
bool h5_set_u64(hid_t object, const char *name, uint64_t v, status *st);
bool h5_set_f64(hid_t object, const char *name, double v, status *st);
bool h5_get_text(hid_t object, const char *name, char *out, size_t cap, status *st);
bool h5_get_i64(hid_t object, const char *name, int64_t *v, status *st);
bool h5_get_u64(hid_t object, const char *name, uint64_t *v, status *st);
bool h5_get_f64(hid_t object, const char *name, double *v, status *st);

/* IEEE half, little endian: raw uint16 bits go through it unchanged when used for file and memory. */
hid_t h5_half(void);

/* An empty table that grows by append. deflate 0 = stored; shuffle goes with deflate; always fletcher32. */
hid_t h5_table_create(hid_t file, const char *name, hid_t type, int64_t cols, int64_t chunk_rows, int deflate,
                      status *st);
bool  h5_table_append(hid_t table, hid_t type, int64_t rows, const void *data, status *st);
/* create + append + close, deflate 4 */
bool  h5_table_put(hid_t file, const char *name, hid_t type, int64_t cols, int64_t rows, const void *data, status *st);
/* A rank-1 dataset in one piece, without filters, for data with checksums of its own: its bytes are the caller's to
 * write, from byte *at of the file on, once h5_file_finish has been there. */
bool  h5_flat_reserve(hid_t file, const char *name, hid_t type, int64_t count, int64_t *at, status *st);
/* Strings as a table of fixed-length UTF-8, zero padded to the longest. */
bool  h5_strings_put(hid_t file, const char *name, int64_t rows, char *const *text, status *st);

/* Opens a table whose class and size must be those of `type`, with exactly `cols` columns. rows < 0: any
 * number, told through *found (may be NULL). Negative on failure. */
hid_t  h5_table_open(hid_t file, const char *name, hid_t type, int64_t cols, int64_t rows, int64_t *found, status *st);
/* Rows first .. first+n-1; large tables on all threads that OpenMP gives the caller. */
bool   h5_table_rows(hid_t table, hid_t type, int64_t first, int64_t n, void *out, status *st);
/* The whole table, malloc'ed (never NULL on success). */
void  *h5_table_get(hid_t file, const char *name, hid_t type, int64_t cols, int64_t rows, status *st);
/* Malloc'ed strings, `rows` of them; free each and the array. */
char **h5_strings_get(hid_t file, const char *name, int64_t rows, status *st);
