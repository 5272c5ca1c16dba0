/* Whether all ranks compute the same: a processor or a memory that is wrong now and then spoils the sum of the
 * gradients, and with it all ranks alike, so that comparing weights shows nothing. Here every rank computes the
 * gradient of one and the same sample, twice, and the results are compared to the bit. Ranks have to have the same
 * processors and the same number of threads. */
#pragma once
#include "train/step.h"

typedef struct {
    int64_t checks, passed; /* how often; the step of the last one without a finding, 0: none */
    double  seconds;        /* of the last check, on this rank */
} arithmetic_check;

/* Collective, between two steps; the gradient slab is overwritten. `n`: how many checks there were before in this run,
 * by which the sample is chosen; one that cannot be read is passed over. False (ST_SUSPECT): ranks and hosts are named.
 */
bool arithmetic_run(arithmetic_check *k, stepper *w, int64_t n, status *st);

/* Which of n ranks are suspect by the hashes of their two results: those whose own two differ, and of the others those
 * that are not like the majority; without a majority all of these. Returns their number. */
int arithmetic_judge(const uint64_t (*hash)[2], int n, bool *suspect);
