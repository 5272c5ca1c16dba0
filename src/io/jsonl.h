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
