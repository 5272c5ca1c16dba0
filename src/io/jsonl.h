/* Metrics as JSON lines: one object a line, flushed line by line. Numbers that are not finite become null,
 * which every JSON reader takes. */
#pragma once
#include "core/base.h"

typedef struct jsonl jsonl;

/* Appends to a file. A half line at its end (a crash) is cut off, and so are records whose "step" is above
 * last_step (INT64_MAX keeps all): after resuming from an earlier checkpoint no step is there twice. */
jsonl *jsonl_open(const char *path, int64_t last_step, status *st);
void   jsonl_close(jsonl *j);

/* A record: any number of fields between begin and end. end writes and flushes the line. */
void jsonl_begin(jsonl *j);
void jsonl_int(jsonl *j, const char *key, int64_t v);
void jsonl_number(jsonl *j, const char *key, double v);
void jsonl_numbers(jsonl *j, const char *key, const double *v, int64_t n);
void jsonl_text(jsonl *j, const char *key, const char *v);
void jsonl_bool(jsonl *j, const char *key, bool v);
bool jsonl_end(jsonl *j, status *st);

/* The curve of one key: all records with an integer "step" and a number or null under `key` (null reads as
 * NaN). Malloc'ed. */
bool jsonl_series(const char *path, const char *key, int64_t **step, double **value, int64_t *n, status *st);
/* Numbers of the last record with an integer "step" of at most last_step that has key[0]; NaN for keys it does not
 * have. *step is -1 when there is none, or no such file. */
bool jsonl_last(const char *path, int64_t last_step, const char *const *key, int n, double *value, int64_t *step,
                status *st);
