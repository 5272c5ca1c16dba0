/* Samples whose content is wrong. The rank that finds one trains its batch without it; the sample's share of the step's
 * counts stays, so that its loss weighs nothing, every rank goes on as planned, and the plan and the noise of all
 * others are what they would be. All ranks keep the same list of the distinct ones, and the run ends when it is longer
 * than data.max_bad_samples of the data set. */
#pragma once
#include "dist/comm.h"
#include "train/task.h"

typedef struct {
    int64_t *index; /* [n] places in the data set, on all ranks alike */
    int64_t  n;
    int64_t  found[16], n_found; /* by this rank in this step; of more the rest is found next time */
    char     text[512];          /* of the first */
} bad_samples;

void bad_samples_free(bad_samples *b);
/* What this rank's batch left out. */
void bad_samples_note(bad_samples *b, const micro_batch *m);
/* Collective, when any rank has found some: joins the lists, rank 0 warns. False (ST_DATA): there are too many. */
bool bad_samples_join(bad_samples *b, const comm *c, int64_t n_samples, double share, status *st);
