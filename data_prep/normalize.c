#include "data_prep/normalize.h"

#include <math.h>

bool normalize_of(const mesh *m, const char *name, double center[3], double *scale, status *st) {
    double lo[3] = {INFINITY, INFINITY, INFINITY}, hi[3] = {-INFINITY, -INFINITY, -INFINITY}, longest = 0;
    for (int64_t i = 0; i < m->n_vertices; i++)
        for (int a = 0; a < 3; a++) {
            double x = m->position[3 * i + a];
            if (!isfinite(x)) return status_set(st, ST_DATA, "%s: vertex %lld is not finite", name, (long long)i);
            lo[a] = fmin(lo[a], x);
            hi[a] = fmax(hi[a], x);
        }
    for (int a = 0; a < 3; a++) {
        center[a] = 0.5 * (lo[a] + hi[a]);
        longest = fmax(longest, hi[a] - lo[a]);
    }
    /* an extent that float coordinates cannot resolve is a point */
    double size = 0;
    for (int a = 0; a < 3; a++) size = fmax(size, fmax(fabs(lo[a]), fabs(hi[a])));
    if (!(longest > 1e-6 * size) || !isfinite(2 * NORMALIZE_HALF_EXTENT / longest))
        return status_set(st, ST_DATA, "%s: the mesh has no extent (%g wide at %g)", name, longest, size);
    *scale = 2 * NORMALIZE_HALF_EXTENT / longest;
    return true;
}

void normalize_apply(mesh *m, const double center[3], double scale) {
    for (int64_t i = 0; i < m->n_vertices; i++)
        for (int a = 0; a < 3; a++)
            m->position[3 * i + a] = (float)(((double)m->position[3 * i + a] - center[a]) * scale);
}
