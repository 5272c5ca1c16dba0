/* Rows of `d3s2 bench step --csv`, by the names of their columns: files of older versions lack some. */
#pragma once
#include "core/base.h"

typedef struct {
    char    model[16], device[128]; /* device: without the number of the GPU */
    int64_t ranks, samples, tokens; /* samples: of a rank */
    double  step_ms, exposed_ms, update_ms, tokens_s, spread;
    double  balance, busy_balance, forward_ms, backward_ms, exposed_min_ms, reduced_mb; /* NAN: not in the file */
} step_row;

/* Appends the rows of a file to *rows (malloc'ed). */
bool step_rows_read(const char *path, step_row **rows, int *n, status *st);
