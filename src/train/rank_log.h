/* run/logs/rank-N.txt of every rank: when and where it started, what was logged, now and then its times; at most 4 MB
 * for each start. A file that cannot be written is a warning. */
#pragma once
#include "train/run_log.h"

/* Appends; returns the file, -1: none. */
int  rank_log_open(const char *run, const comm *c, int64_t step);
void rank_log_close(int file);
/* This rank's times, at most once a minute. *last: when, 0 at first. */
void rank_log_times(const log_span *span, int64_t step, double *last);
