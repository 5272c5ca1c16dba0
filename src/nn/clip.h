/* Clipping by the global gradient norm, with an adaptive limit (R§8.2): the limit is max_norm until `window` finite
 * norms were seen, then min(max_norm, percentile of the last `window` norms before clipping), linear interpolation
 * between order statistics. window 0: the limit stays max_norm.
 *
 * One step:  f = clip_factor(norm, clip_limit(&s));  gradients *= f;  clip_observe(&s, norm). */
#pragma once
#include "core/arena.h"

typedef struct {
    double  max_norm, percentile; /* percentile in [0,100] */
    int64_t window;
    float  *ring;   /* (window) norms as stored in a checkpoint; the oldest is replaced first */
    float  *sorted; /* (window) workspace */
    int64_t seen;   /* finite norms observed since the start; ring[seen % window] is written next */
    double  limit;
} clip_state;

/* Ring and workspace come from a (CPU). max_norm > 0. */
clip_state clip_new(arena *a, double max_norm, double percentile, int64_t window);
double     clip_limit(const clip_state *s);
/* min(1, limit / (norm + 1e-6)) in float, as torch.nn.utils.clip_grad_norm_; NaN when norm is. */
double     clip_factor(double norm, double limit);
/* Takes in the norm before clipping; a norm that is not finite is left out. */
void       clip_observe(clip_state *s, double norm);
/* The limit follows from ring and seen: call it after both were restored from a checkpoint. */
void       clip_refresh(clip_state *s);
/* Percentile p (0..100) of n >= 1 ascending values, as numpy's default. */
double     clip_percentile(const float *sorted, int64_t n, double p);
