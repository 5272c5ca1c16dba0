/* Meshes for tests of the data preparation. All are malloc'ed: mesh_free. */
#pragma once
#include "io/mesh.h"

mesh shape_box(const double half[3], int cells);                        /* every side cut into cells x cells x 2 */
mesh shape_sphere(const double center[3], double radius, int levels);   /* octahedron, subdivided */
mesh shape_torus(double radius, double tube, int n_radius, int n_tube); /* around z */
mesh shape_sheet(double half, int cells);                               /* square in z = 0 */
mesh shape_join(mesh a, mesh b);                                        /* frees both */
void shape_damage(mesh *m, double missing, double flipped, uint64_t seed);
/* Cuts the mesh along the cells^3 cells of its box into pieces without common vertices, each drawn together around its
 * centre by `shrink`. */
void shape_split(mesh *m, int cells, double shrink);
/* Every nth face once more, turned over. */
void shape_repeat(mesh *m, int64_t nth);
