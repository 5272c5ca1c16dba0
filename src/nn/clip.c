#include "nn/clip.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

clip_state clip_new(arena *a, double max_norm, double percentile, int64_t window) {
    CHECK(max_norm > 0 && percentile >= 0 && percentile <= 100 && window >= 0, "limit %g, percentile %g, window %lld",
          max_norm, percentile, (long long)window);
    clip_state s = {.max_norm = max_norm, .percentile = percentile, .window = window, .limit = max_norm};
    s.ring = arena_zeros(a, (size_t)window * sizeof *s.ring);
    s.sorted = arena_alloc(a, (size_t)window * sizeof *s.sorted);
    return s;
}

double clip_limit(const clip_state *s) {
    return s->limit;
}

double clip_factor(double norm, double limit) {
    float f = (float)limit / ((float)norm + 1e-6f);
    return f > 1 ? 1 : f;
}

double clip_percentile(const float *sorted, int64_t n, double p) {
    double  at = p / 100 * (double)(n - 1);
    int64_t i = (int64_t)at;
    if (i >= n - 1) return sorted[n - 1];
    return sorted[i] + (at - (double)i) * ((double)sorted[i + 1] - sorted[i]);
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

void clip_refresh(clip_state *s) {
    s->limit = s->max_norm;
    if (s->window == 0 || s->seen < s->window) return;
    memcpy(s->sorted, s->ring, (size_t)s->window * sizeof *s->sorted);
    qsort(s->sorted, (size_t)s->window, sizeof *s->sorted, ascending);
    double q = clip_percentile(s->sorted, s->window, s->percentile);
    if (q < s->limit) s->limit = q;
}

void clip_observe(clip_state *s, double norm) {
    if (s->window == 0 || !isfinite(norm)) return;
    s->ring[s->seen++ % s->window] = (float)norm;
    clip_refresh(s);
}
