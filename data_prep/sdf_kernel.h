/* Distance from many points to one triangle, without branches so that the compiler makes vectors of it. Voxel units
 * relative to a near origin, double. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    double  a[3], b[3], c[3];
    double  ab[3], bc[3], ca[3]; /* edges, and 1/length^2 (0 for a point) */
    double  iab, ibc, ica;
    double  na[3], nb[3], nc[3]; /* in-plane normals of the edges, pointing inward */
    double  n[3], inn;           /* normal and 1/|n|^2 */
    double  flat;                /* 0, or +inf: no plane, edges only */
    int32_t part;
    bool    thin;
} near_triangle;

void   near_triangle_set(near_triangle *t, const double *a, const double *b, const double *c, const double origin[3],
                         double per_unit);
double near_triangle_d2(const near_triangle *t, double x, double y, double z);
/* Distances of 8 points. */
void near_triangle_eight(const near_triangle *t, const double x[8], const double y[8], const double z[8], double d[8]);
/* d2[i] = min(d2[i], squared distance of point i). */
void near_triangle_min(const near_triangle *t, int n, const double *x, const double *y, const double *z, double *d2);
