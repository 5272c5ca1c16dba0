/* What goes between the ranks in a step, and what it takes by the alpha-beta model (dist/comm_model.h) with the links
 * and the algorithm of the options cluster.*: gradients bucket by bucket while backward runs or all at once behind it,
 * then, with ZeRO-1, the new weights. */
#pragma once
#include "io/options.h"

typedef struct {
    int     n;
    double *seconds;    /* [n] of each bucket's sum, in the order of starting */
    double *at;         /* [n] share of backward after which it is complete */
    double *ready;      /* [n] scratch */
    double  transfer_s; /* of all sums together without latencies: bytes over rate */
    double  beside_s;   /* of it what runs beside backward (train.overlap) */
    double  share_s;    /* new weights to all ranks */
    double  bytes;      /* that a rank passes on */
    double  numbers;    /* parameters, padding included */
} traffic;

/* The buckets and slices of the configured network, weights going round as so many bytes each; backward's time is
 * spread evenly over its layers. */
void   traffic_of_network(traffic *t, const options *o, int ranks, int weight_width);
/* Of a network of which only sizes are known: gradients of so many bytes in buckets of train.bucket_mb, which are
 * complete at even distances. */
void   traffic_even(traffic *t, const options *o, int ranks, double gradient_bytes, double weight_bytes);
void   traffic_free(traffic *t);
/* Seconds that the sums take beyond the end of a backward pass of so many; *busy: of all sums. */
double traffic_exposed(traffic *t, double backward, double *busy);
