#include "data_prep/sdf_kernel.h"

#include <math.h>

/* Nobody reads the exception flags of a comparison; with them in mind the compiler refuses to turn the choices below
 * into vector selects (gcc 12). NaN and rounding are not touched. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math")
#endif

static void cross(double *out, const double *a, const double *b) {
    out[0] = a[1] * b[2] - a[2] * b[1];
    out[1] = a[2] * b[0] - a[0] * b[2];
    out[2] = a[0] * b[1] - a[1] * b[0];
}

static double dot3(const double *a, const double *b) {
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

void near_triangle_set(near_triangle *t, const double *a, const double *b, const double *c, const double origin[3],
                       double per_unit) {
    for (int i = 0; i < 3; i++) {
        t->a[i] = (a[i] - origin[i]) * per_unit;
        t->b[i] = (b[i] - origin[i]) * per_unit;
        t->c[i] = (c[i] - origin[i]) * per_unit;
        t->ab[i] = (b[i] - a[i]) * per_unit;
        t->bc[i] = (c[i] - b[i]) * per_unit;
        t->ca[i] = (a[i] - c[i]) * per_unit;
    }
    double ab = dot3(t->ab, t->ab), bc = dot3(t->bc, t->bc), ca = dot3(t->ca, t->ca), longest = fmax(ab, fmax(bc, ca));
    t->iab = ab > 0 ? 1 / ab : 0;
    t->ibc = bc > 0 ? 1 / bc : 0;
    t->ica = ca > 0 ? 1 / ca : 0;
    cross(t->n, t->ab, t->bc);
    double nn = dot3(t->n, t->n);
    bool   plane = nn > 1e-22 * longest * longest; /* a height below 1e-11 of the length: the edges say it all */
    t->inn = plane ? 1 / nn : 0;
    t->flat = plane ? 0 : INFINITY;
    cross(t->na, t->n, t->ab);
    cross(t->nb, t->n, t->bc);
    cross(t->nc, t->n, t->ca);
}

/* Squared distance to the segment from corner q with edge e: |d - e clamp(<e,d>/|e|^2, 0, 1)|^2. */
static inline double segment(double dx, double dy, double dz, const double *e, double inv) {
    double s = (dx * e[0] + dy * e[1] + dz * e[2]) * inv;
    s = s > 0 ? s : 0;
    s = s < 1 ? s : 1;
    dx -= s * e[0], dy -= s * e[1], dz -= s * e[2];
    return dx * dx + dy * dy + dz * dz;
}

static inline double distance2(const near_triangle *t, double x, double y, double z) {
    double ax = x - t->a[0], ay = y - t->a[1], az = z - t->a[2];
    double bx = x - t->b[0], by = y - t->b[1], bz = z - t->b[2];
    double cx = x - t->c[0], cy = y - t->c[1], cz = z - t->c[2];
    double ia = ax * t->na[0] + ay * t->na[1] + az * t->na[2];
    double ib = bx * t->nb[0] + by * t->nb[1] + bz * t->nb[2];
    double ic = cx * t->nc[0] + cy * t->nc[1] + cz * t->nc[2];
    double least = ia < ib ? ia : ib;
    least = least < ic ? least : ic;
    double h = ax * t->n[0] + ay * t->n[1] + az * t->n[2], plane = h * h * t->inn + t->flat;
    double d = segment(ax, ay, az, t->ab, t->iab), e = segment(bx, by, bz, t->bc, t->ibc),
           f = segment(cx, cy, cz, t->ca, t->ica);
    d = d < e ? d : e;
    d = d < f ? d : f;
    plane = plane < d ? plane : d;
    return least >= 0 ? plane : d;
}

double near_triangle_d2(const near_triangle *t, double x, double y, double z) {
    return distance2(t, x, y, z);
}

void near_triangle_min(const near_triangle *t, int n, const double *x, const double *y, const double *z, double *d2) {
    near_triangle k = *t; /* a local copy cannot alias d2 */
#pragma omp simd
    for (int i = 0; i < n; i++) {
        double d = distance2(&k, x[i], y[i], z[i]);
        d2[i] = d < d2[i] ? d : d2[i];
    }
}

void near_triangle_eight(const near_triangle *t, const double x[8], const double y[8], const double z[8], double d[8]) {
    near_triangle k = *t;
    double        out[8];
#pragma omp simd
    for (int i = 0; i < 8; i++) out[i] = sqrt(distance2(&k, x[i], y[i], z[i]));
    for (int i = 0; i < 8; i++) d[i] = out[i];
}
