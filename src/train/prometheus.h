/* The newest metrics as a text file for Prometheus' node exporter (its textfile collector), replaced as a whole. */
#pragma once
#include "train/goodput.h"

typedef struct {
    int64_t step, tokens, skipped, bad_samples, rollbacks;
    double  loss, grad_norm, lr, step_s, tokens_per_s, slowest;
} prometheus_values;

/* `run` becomes a label. False: *st says why it was not written. */
bool prometheus_write(const char *path, const char *run, const prometheus_values *v, const goodput *g, status *st);
