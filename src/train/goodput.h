/* Where the time of a run went, over all its starts: every second since the first start is in one account.
 *
 *   start       from the process' birth to the first step
 *   useful      steps that count
 *   lost        steps that do not: skipped, done again after a restart, undone by a rollback
 *   stalled     of the steps, waiting for data (of the slowest rank)
 *   checkpoint  training waited for one
 *   eval        evaluation
 *   other       logging and the rest of the loop
 *   down        from the last line that a start wrote to the birth of the next process
 *
 * goodput = useful / sum. The accounts are in every line of metrics.jsonl (run_useful_s, ...), where the next start
 * finds them, and with them the time that the steps after its checkpoint took; goodput.json holds the newest.
 *
 * The guard: a start that finds that none of the last `most` starts has reached a step which was not reached before
 * refuses. Rank 0 keeps the accounts; the others have an empty one, where the calls do nothing. */
#pragma once
#include "io/atomic_file.h"
#include "io/jsonl.h"

typedef enum {
    GOOD_START,
    GOOD_USEFUL,
    GOOD_LOST,
    GOOD_STALLED,
    GOOD_CHECKPOINT,
    GOOD_EVAL,
    GOOD_OTHER,
    GOOD_DOWN,
    GOOD_ACCOUNTS
} good_account;

typedef struct {
    char    path[PATH_CAP];
    double  account[GOOD_ACCOUNTS];
    double  booked, written;                 /* monotonic: up to when; when goodput.json was */
    int64_t starts, idle_starts, first_best; /* starts in a row before this one that gained nothing */
    double  useful_at[64];                   /* after the steps below, of checkpoints of this process */
    int64_t useful_step[64], n_useful;
    bool    warned;
} goodput;

/* What earlier starts left in `run`; the run goes on after `step`. `age`: seconds since this process began
 * (process_age). False (ST_CONFIG) when the guard refuses; most 0: it never does. */
bool   goodput_open(goodput *g, const char *run, int64_t step, double age, int64_t most, status *st);
/* The time since the last booking goes to an account. */
void   goodput_book(goodput *g, good_account to);
/* So many seconds of the time that went to `from` belong to `to`. */
void   goodput_move(goodput *g, good_account from, good_account to, double seconds);
/* A checkpoint of this step was begun; after a rollback to it the useful time since then is lost. */
void   goodput_mark(goodput *g, int64_t step);
void   goodput_rolled_back(goodput *g, int64_t step);
/* The sum of all accounts. */
double goodput_total(const goodput *g);
/* The share of useful time. */
double goodput_share(const goodput *g);
/* Fields of a record of the metrics. */
void   goodput_put(const goodput *g, jsonl *j);
/* Writes goodput.json, at most every ten seconds unless `now`. */
void   goodput_write(goodput *g, int64_t step, bool now);

const char *good_account_name(good_account a);
/* Seconds since this process was started. */
double      process_age(void);
