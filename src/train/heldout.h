/* Loss on data that is never trained on: forward only, the same noise and views every time. */
#pragma once
#include "train/step.h"

typedef struct {
    int    resolution;
    double loss;
} heldout_part;

typedef struct {
    double  mean[TASK_SUMS], count[TASK_SUMS], loss, seconds;
    int64_t samples;

    heldout_part part[DATA_FOLDERS]; /* where the samples have several resolutions: the loss at each */
    int          n_parts;
} heldout_result;

/* Collective; the ranks share the first max_samples samples of d, its folders taking turns. */
bool heldout_run(stepper *w, const dataset *d, int64_t max_samples, heldout_result *r, status *st);
