/* A triangle soup made ready for signed distance: welded, cut into parts, holes capped, parts judged solid or sheet.
 *
 *   weld     vertices closer than WELD_TOLERANCE are one; triangles that collapse or repeat are dropped
 *   part     triangles connected over edges
 *   caps     the edges of a part with an odd number of triangles form closed loops (the boundary of a boundary is
 * empty, also mod 2); each loop gets a fan around its centre. Then every line meets the part an even number of times,
 * whatever the orientation of its faces: parity is well defined. solid    the caps' area is at most `cap_share` of the
 * part's area (missing faces, tubes without lids); the caps stay and belong to the surface. Otherwise the part is a
 * sheet: it keeps no caps and has no inside.
 *
 * Sharp edges (R§2.7): dihedral angle over the given one, edges of three or more faces, rims of sheets. */
#pragma once
#include "io/mesh.h"

#define WELD_TOLERANCE 2e-6 /* unit-cube units: 1/500 of a voxel at R = 1024 */

typedef struct {
    int64_t  n_vertices, n_faces; /* caps included */
    double  *v;                   /* [n_vertices,3] unit cube */
    int32_t *face;                /* [n_faces,3] */
    int32_t *part;                /* [n_faces] */
    int32_t  n_parts;
    uint8_t *solid; /* [n_parts] */
    double  *area;  /* [n_parts] without caps */
    int64_t  n_sharp;
    double  *sharp; /* [n_sharp,6] end points */
    /* quality figures */
    int64_t  n_edges, n_open_edges, n_many_edges; /* of one face, of three and more */
    int64_t  n_dropped, n_caps;                   /* input faces that vanished; cap faces kept */
    double   cap_area, sheet_area;
    int64_t  genus; /* handles of the solid parts together, from their vertices, edges and faces, caps included */
} surface;

/* `m` is normalised (v_norm); positions are halved. ST_DATA when no triangle is left or memory runs out. */
bool surface_build(const mesh *m, double cap_share, double sharp_degrees, const char *name, surface *s, status *st);
void surface_free(surface *s);
/* Of face f by its orientation; its length is twice the area. */
void surface_normal(const surface *s, int64_t f, double n[3]);

/* The three sides of every face, sorted by their vertices, then by face; malloc'ed, NULL: out of memory. */
typedef struct {
    uint64_t key; /* low vertex << 32 | high vertex */
    int32_t  face, opposite;
} surface_edge;
surface_edge *surface_edges(const surface *s);
