#include "data_prep/plates.h"

#include <math.h>

enum { MOST_WALLS = 64 };
static const double STEP = 1e-6, LEAST_COSINE = 0.9;

static bool unit_normal(const surface *s, int64_t f, double n[3]) {
    surface_normal(s, f, n);
    double len = sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]);
    for (int a = 0; a < 3 && len > 0; a++) n[a] /= len;
    return len > 0;
}

/* Moves p along dir to just behind the next wall; its way there, +inf when there is none. */
static double next_wall(const bvh *tree, double p[3], const double dir[3], double limit, int64_t *face) {
    double way = bvh_ray(tree, p, dir, limit, face);
    for (int a = 0; a < 3 && !isinf(way); a++) p[a] += (way + STEP) * dir[a];
    return way;
}

static float way_through(const surface *s, const bvh *tree, double limit, int64_t f) {
    double n[3], best = INFINITY;
    if (!unit_normal(s, f, n)) return INFINITY;
    for (int side = -1; side <= 1; side += 2) {
        double  p[3], dir[3], behind[3], way;
        int64_t hit = 0;
        int     walls = 0;
        for (int a = 0; a < 3; a++) {
            dir[a] = side * n[a];
            p[a] = STEP * dir[a];
            for (int j = 0; j < 3; j++) p[a] += s->v[3 * (int64_t)s->face[3 * f + j] + a] / 3;
        }
        way = next_wall(tree, p, dir, limit, &hit);
        if (!(way < best) || s->part[hit] != s->part[f] || !unit_normal(s, hit, behind)) continue;
        if (fabs(n[0] * behind[0] + n[1] * behind[1] + n[2] * behind[2]) < LEAST_COSINE) continue;
        for (int i = 0; i < MOST_WALLS && !isinf(next_wall(tree, p, dir, INFINITY, &hit)); i++)
            walls += s->part[hit] == s->part[f];
        if (walls % 2 == 0) best = way; /* else it was the air between two plates */
    }
    return (float)best;
}

void        plates_measure(const surface *s, const bvh *tree, double limit, float *way) {
#pragma omp parallel for schedule(dynamic, 256)
    for (int64_t f = 0; f < s->n_faces; f++) way[f] = s->solid[s->part[f]] ? way_through(s, tree, limit, f) : INFINITY;
}
