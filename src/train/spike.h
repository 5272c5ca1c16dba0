/* How far a number lies above its recent values, in their standard deviations. Mean and variance are those of all
 * values up to `window` of them, later a moving average over about so many. */
#pragma once
#include "core/base.h"

typedef struct {
    double  mean, var;
    int64_t n;
} spike_window;

/* 0 until `window` values were seen, or when they do not differ. */
double spike_z(const spike_window *s, int64_t window, double x);
/* Numbers that are not finite are left out. */
void   spike_observe(spike_window *s, int64_t window, double x);
