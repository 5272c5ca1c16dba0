#include "train/spike.h"

#include <math.h>

double spike_z(const spike_window *s, int64_t window, double x) {
    return s->n >= window && s->var > 0 && isfinite(x) ? (x - s->mean) / sqrt(s->var) : 0;
}

void spike_observe(spike_window *s, int64_t window, double x) {
    if (!isfinite(x)) return;
    double share = 1 / (double)(s->n < window ? s->n + 1 : window), off = x - s->mean;
    s->mean += share * off;
    s->var = (1 - share) * (s->var + share * off * off);
    s->n++;
}
