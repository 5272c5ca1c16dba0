/* Results of shapes as files: one JSON object per shape, written whole by the rank that computed it and kept when the
 * run is repeated; then one collection of all with their means. */
#pragma once
#include "eval/metrics.h"
#include "io/atomic_file.h"

/* A file name for a sample: its source without folder and extension, odd characters replaced, and four digits of the
 * id. */
void result_name(const char *source, uint64_t id, char out[96]);

/* FOLDER/NAME into out; fatal when it is too long (folders were checked when they were made). */
void result_path(const char *folder, const char *name, const char *ending, char out[PATH_CAP]);

bool    json_file_write(const char *path, const json_t *j, status *st);
json_t *json_file_read(const char *path, status *st); /* an object; NULL on failure */

/* True when FOLDER/NAME.json is there with this "key" text (settings and weights it was made from) and its mesh files.
 */
bool result_done(const char *folder, const char *name, const char *key);

/* Writes FOLDER/`file`: head (stolen) with "shapes" (those of names, in order; read from NAME.json) and "summary". */
bool results_collect(const char *folder, const char *file, json_t *head, char (*names)[96], int64_t n, status *st);

/* "%016llx" of a 64-bit key. */
void hex_of(uint64_t v, char out[17]);
