/* Generalised winding number of a set of oriented triangles (Jacobson 2013) by a tree of clusters: a far cluster counts
 * as a dipole with its second moments (Barill 2018), a near one by the solid angles of its triangles. For a closed,
 * outward set 1 inside and 0 outside; between, where it is open. Error below 1e-2. Thread safe after building. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    double  center[3], reach; /* all corners lie within reach of the center */
    double  dipole[3], moment[9];
    int32_t first, n, right; /* triangles of a leaf; right child, or -1 for a leaf; the left child follows its parent */
} winding_node;

typedef struct {
    int64_t       n;
    double       *corner; /* [n,9] */
    winding_node *node;
    int32_t       n_nodes;
} winding;

/* corner [n,9] in the order of orientation, n > 0; it is copied. False: out of memory. */
bool   winding_build(winding *w, const double *corner, int64_t n);
void   winding_free(winding *w);
double winding_at(const winding *w, const double p[3]);
