/* Rows of one kind of step over numbers of ranks, and a model of them:
 *
 *   step(N) = computing / balance(N) + interference * beside(N) + exposed(N) + share(N)
 *
 * beside (bytes over rate of sums that run beside backward), exposed and share by the alpha-beta model (app/traffic.h)
 * for the configured network if its gradients have the bytes of the rows (or the rows do not say), else for even
 * buckets; balance by the real plan on sizes like the rows'; computing and, where rows have sums beside backward,
 * interference are fitted to the rows (non-negative, relative errors), else it is cluster.interference. */
#pragma once
#include "app/step_rows.h"
#include "io/options.h"

enum { SERIES_ROWS = 64 };

typedef struct {
    bool     strong; /* the same work on more ranks; else the same work on each */
    int      n;
    step_row row[SERIES_ROWS]; /* one for each number of ranks, ascending; the newest counts */
} scaling_series;

/* Ranks at which the same model on the same device was measured with the same samples each (weak), or in all (strong).
 * A row that is in no series of two is a weak one of its own. Returns their number; malloc'ed. */
int  scaling_series_of(const step_row *rows, int n, scaling_series **out);
void scaling_name(const scaling_series *s, char text[160]);

typedef struct {
    double computing_s, interference, error; /* error: root mean square of relative errors over the rows */
} scaling_model;

typedef struct {
    double step_s, tokens_s, efficiency, exposed_s, sums_s, beside_s, share_s, balance;
} scaling_point;

/* Of a weak series. */
scaling_model scaling_fit(const scaling_series *s, const options *o);
scaling_point scaling_at(const scaling_series *s, const scaling_model *m, const options *o, int ranks);
