/* Finds ranks that hang, or are gone, and ends the job with a table of all ranks of the host and their stacks.
 *
 * Each rank keeps records of what its main thread and its loader do (core/beat.h) in memory that the host's ranks
 * share. A thread of each rank looks at all of them. A rank hangs when its main thread gives no sign of life for the
 * limit of its section:
 *
 *   at least timeout_s; five times the longest pause that this section has had so far; at most six times timeout_s,
 *   which is the limit of what may take long the first time: the start (to the end of the first step), checkpoints
 *   and evaluation.
 *
 * A host whose ranks all wait for others holds back for a few seconds: the host of the rank that is waited for knows
 * more. A rank whose process has vanished is noticed within seconds. Only the monotonic clock counts, and not the time
 * that the watching process itself was stopped (a suspended job). */
#pragma once
#include "core/beat.h"
#include "dist/comm.h"

typedef struct watchdog watchdog;

/* Collective. timeout_s 0: NULL, and nothing is watched. The calling thread is the one that is watched. The
 * report goes to stderr and to the log's tee. */
watchdog *watchdog_start(const comm *c, double timeout_s);
/* Before the ranks part in peace. */
void      watchdog_stop(watchdog *d);
/* The loader's record, which the loader binds; NULL without a watchdog. */
beat     *watchdog_loader(watchdog *d);
/* Of the calling thread: its stack is part of the report. */
void      watchdog_show_stack(watchdog *d, const char *name);
/* Before the thread ends. */
void      watchdog_hide_stack(watchdog *d);

/* Seconds without a sign of life that are too many. */
double watchdog_limit(const beat_view *v, double timeout_s);
