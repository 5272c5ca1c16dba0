/* Rows timed on a GPU, and what lines of all tables have in common. */
#pragma once
#include <stdio.h>

#include "app/bench_gpu.h"
#include "app/bench_rows.h"

#ifndef D3S2_GIT_HASH
#define D3S2_GIT_HASH "unknown"
#endif

/* Error over the largest value, of f32 and of bf16: coarse on purpose, the op tests are fine. */
#define BENCH_TOLERANCE 1e-4
#define BENCH_TOLERANCE_16 2e-2

enum { BENCH_MOST_SIZES = 16 };

typedef struct {
    FILE *csv; /* NULL: none */
    char  host[64];
} bench_sink;

/* The host's name and, if path is not NULL, the file that rows are added to. What goes wrong is told on stderr. */
bool bench_sink_open(bench_sink *s, const char *path);
bool bench_sink_close(bench_sink *s, const char *path);

/* A GPU that is open, with what rows need. */
typedef struct {
    bench_gpu         g;
    bench_case        b;
    ctx               ref, gpu;
    dtype             act;
    const bench_sink *sink;
} bench_table;

/* Prints the headings. False: there is no GPU, and that has been said. */
bool bench_table_open(bench_table *t, dtype act, const bench_sink *sink);
void bench_table_close(bench_table *t);
/* Checks at the row's smaller shape, times, prints. *times may be NULL. False when the result is wrong. */
bool bench_table_row(bench_table *t, const bench_row *r, bench_times *times);

/* A whole number of at least `least`; a list of them, "8192,45904". False: it is none. */
bool bench_whole(const char *text, int least, int *out);
bool bench_sizes_of(const char *text, int least, int out[BENCH_MOST_SIZES], int *n);

/* All rows whose op's name contains `filter`: their number, -1 without a GPU. */
int bench_gpu_rows(const char *filter, dtype act, const bench_sink *sink, int *n_wrong);
