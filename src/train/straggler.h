/* Ranks that compute slowly. A rank's pace is its compute seconds (waiting for data and for others left out) for each
 * token it had, over a window of steps; who needs more than 1/0.7 times the median's pace is named. */
#pragma once
#include "dist/comm.h"

enum { STRAGGLER_STEPS = 20 }; /* of a window */

typedef struct {
    double compute, tokens; /* of one rank in the window */
} pace;

/* Writes the ranks that are too slow to slow[n] and their factors over the median to factor[n]; returns their number.
 * Ranks without tokens are left out; of two ranks the faster one is the median. */
int straggler_find(const pace *p, int n, int *slow, double *factor);

typedef struct stragglers stragglers;

/* Collective. */
stragglers *stragglers_new(const comm *c);
void        stragglers_free(stragglers *s);
/* Collective: this rank's part of so many more steps. At the end of a window rank 0 warns of slow ranks, of each at
 * most every ten minutes. Returns the largest factor over the median in the last window, 0 before the first. */
double      stragglers_add(stragglers *s, const comm *c, pace own, int64_t steps);
