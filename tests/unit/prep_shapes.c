#include "unit/prep_shapes.h"
#include "core/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static mesh room(int64_t n_vertices, int64_t n_faces) {
    mesh m = {.position = malloc((size_t)n_vertices * 12), .face = malloc((size_t)n_faces * 12)};
    CHECK(m.position && m.face, "no memory for a test mesh");
    return m;
}

static void quad(mesh *m, int32_t a, int32_t b, int32_t c, int32_t d) {
    const int32_t f[6] = {a, b, c, a, c, d};
    memcpy(m->face + 3 * m->n_faces, f, sizeof f);
    m->n_faces += 2;
}

mesh shape_box(const double half[3], int cells) {
    mesh m = room(6 * (int64_t)(cells + 1) * (cells + 1), 12 * (int64_t)cells * cells);
    for (int side = 0; side < 6; side++) {
        int     a = side / 2, b = (a + 1) % 3, c = (a + 2) % 3;
        int32_t v0 = (int32_t)m.n_vertices;
        for (int i = 0; i <= cells; i++)
            for (int j = 0; j <= cells; j++) {
                float *p = m.position + 3 * m.n_vertices++;
                p[a] = (float)(side % 2 ? half[a] : -half[a]);
                p[b] = (float)(half[b] * (2.0 * i / cells - 1));
                p[c] = (float)(half[c] * (2.0 * j / cells - 1));
            }
        for (int i = 0; i < cells; i++)
            for (int j = 0; j < cells; j++) {
                int32_t p = v0 + i * (cells + 1) + j, q = p + cells + 1;
                if (side % 2)
                    quad(&m, p, q, q + 1, p + 1);
                else
                    quad(&m, p, p + 1, q + 1, q);
            }
    }
    return m;
}

mesh shape_sphere(const double center[3], double radius, int levels) {
    int  n = 1 << levels;
    mesh m = room(8 * (int64_t)(n + 1) * (n + 2) / 2, 8 * (int64_t)n * n);
    for (int o = 0; o < 8; o++) {
        double  s[3] = {o & 1 ? 1 : -1, o & 2 ? 1 : -1, o & 4 ? 1 : -1};
        int32_t v0 = (int32_t)m.n_vertices;
        for (int i = 0; i <= n; i++)
            for (int j = 0; j <= n - i; j++) {
                double d[3] = {s[0] * i, s[1] * j, s[2] * (n - i - j)},
                       l = sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2]);
                for (int a = 0; a < 3; a++) m.position[3 * m.n_vertices + a] = (float)(center[a] + radius * d[a] / l);
                m.n_vertices++;
            }
        bool flip = s[0] * s[1] * s[2] < 0;
        for (int i = 0, row = 0; i < n; row += n - i + 1, i++)
            for (int j = 0; j < n - i; j++) {
                int32_t p = v0 + row + j, q = p + (n - i + 1);
                int32_t f[2][3] = {{p, q, p + 1}, {q, q + 1, p + 1}};
                for (int k = 0; k < (j < n - i - 1 ? 2 : 1); k++) {
                    int32_t *out = m.face + 3 * m.n_faces++;
                    out[0] = f[k][0], out[1] = f[k][flip ? 2 : 1], out[2] = f[k][flip ? 1 : 2];
                }
            }
    }
    return m;
}

mesh shape_torus(double radius, double tube, int n_radius, int n_tube) {
    mesh   m = room((int64_t)n_radius * n_tube, 2 * (int64_t)n_radius * n_tube);
    double turn = 6.283185307179586;
    for (int i = 0; i < n_radius; i++)
        for (int j = 0; j < n_tube; j++) {
            double a = turn * i / n_radius, b = turn * j / n_tube, r = radius + tube * cos(b);
            float *p = m.position + 3 * m.n_vertices++;
            p[0] = (float)(r * cos(a)), p[1] = (float)(r * sin(a)), p[2] = (float)(tube * sin(b));
            int i1 = (i + 1) % n_radius, j1 = (j + 1) % n_tube;
            quad(&m, i * n_tube + j, i1 * n_tube + j, i1 * n_tube + j1, i * n_tube + j1);
        }
    return m;
}

mesh shape_sheet(double half, int cells) {
    mesh m = room((int64_t)(cells + 1) * (cells + 1), 2 * (int64_t)cells * cells);
    for (int i = 0; i <= cells; i++)
        for (int j = 0; j <= cells; j++) {
            float *p = m.position + 3 * m.n_vertices++;
            p[0] = (float)(half * (2.0 * i / cells - 1)), p[1] = (float)(half * (2.0 * j / cells - 1)), p[2] = 0;
        }
    for (int i = 0; i < cells; i++)
        for (int j = 0; j < cells; j++) {
            int32_t p = i * (cells + 1) + j, q = p + cells + 1;
            quad(&m, p, q, q + 1, p + 1);
        }
    return m;
}

mesh shape_join(mesh a, mesh b) {
    mesh m = room(a.n_vertices + b.n_vertices, a.n_faces + b.n_faces);
    memcpy(m.position, a.position, (size_t)a.n_vertices * 12);
    memcpy(m.position + 3 * a.n_vertices, b.position, (size_t)b.n_vertices * 12);
    memcpy(m.face, a.face, (size_t)a.n_faces * 12);
    for (int64_t i = 0; i < 3 * b.n_faces; i++) m.face[3 * a.n_faces + i] = b.face[i] + (int32_t)a.n_vertices;
    m.n_vertices = a.n_vertices + b.n_vertices;
    m.n_faces = a.n_faces + b.n_faces;
    mesh_free(&a), mesh_free(&b);
    return m;
}

void shape_damage(mesh *m, double missing, double flipped, uint64_t seed) {
    int64_t n = 0;
    for (int64_t f = 0; f < m->n_faces; f++) {
        rng_key key = {seed, RNG_TEST, 0, (uint64_t)f};
        int32_t t[3];
        memcpy(t, m->face + 3 * f, 12);
        if (rng_uniform(key, 0) < missing) continue;
        if (rng_uniform(key, 1) < flipped) t[1] = m->face[3 * f + 2], t[2] = m->face[3 * f + 1];
        memcpy(m->face + 3 * n++, t, 12);
    }
    m->n_faces = n;
}

void shape_split(mesh *m, int cells, double shrink) {
    int64_t n_pieces = (int64_t)cells * cells * cells;
    mesh    out = room(3 * m->n_faces, m->n_faces);
    double *center = calloc((size_t)n_pieces * 4, sizeof *center);
    int    *piece = malloc((size_t)m->n_faces * sizeof *piece);
    CHECK(center && piece, "no memory for a test mesh");
    for (int pass = 0; pass < 2; pass++)
        for (int64_t f = 0; f < m->n_faces; f++) {
            if (pass == 0) {
                piece[f] = 0;
                for (int a = 0; a < 3; a++) {
                    double mid = 0;
                    for (int j = 0; j < 3; j++) mid += m->position[3 * m->face[3 * f + j] + a] / 3;
                    piece[f] = piece[f] * cells + (int)fmin(cells - 1, fmax(0, (mid + 1) / 2 * cells));
                }
            }
            double *c = center + 4 * piece[f];
            for (int j = 0; j < 3; j++) {
                const float *p = m->position + 3 * m->face[3 * f + j];
                if (pass == 0) {
                    for (int a = 0; a < 3; a++) c[a] += p[a];
                    c[3]++;
                    continue;
                }
                for (int a = 0; a < 3; a++) {
                    double mid = c[a] / c[3];
                    out.position[3 * out.n_vertices + a] = (float)(mid + shrink * (p[a] - mid));
                }
                out.face[3 * f + j] = (int32_t)out.n_vertices++;
            }
        }
    /* corners of faces of one piece that met still meet: vertices are welded by place */
    out.n_faces = m->n_faces;
    mesh_free(m);
    *m = out;
    free(center), free(piece);
}

void shape_repeat(mesh *m, int64_t nth) {
    int64_t  more = (m->n_faces + nth - 1) / nth;
    int32_t *face = realloc(m->face, (size_t)(m->n_faces + more) * 12);
    CHECK(face, "no memory for a test mesh");
    m->face = face;
    for (int64_t i = 0; i < more; i++) {
        const int32_t *t = face + 3 * i * nth, turned[3] = {t[0], t[2], t[1]};
        memcpy(face + 3 * (m->n_faces + i), turned, 12);
    }
    m->n_faces += more;
}
