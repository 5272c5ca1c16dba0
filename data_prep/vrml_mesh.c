/* Triangles of a VRML tree: transforms, faces of any number of corners, the bodies, colours. */
#include "data_prep/vrml_tree.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_VISITS = 10000000, MOST_MATERIALS = 100000, MOST_CORNERS = 1 << 20, EARS = 4096, ROUND = 32 };

typedef struct {
    double m[3][4];
} affine3;

typedef struct {
    vrml_scene *s;
    int64_t     vertex_room, face_room, material_room, color_room, max_faces, visits, white; /* white: material, -1 */
    char       *why;
    int32_t    *corner; /* of one face */
    double (*flat)[2];
    int64_t corner_room;
} builder;

static bool stop(builder *b, const char *what) {
    snprintf(b->why, 160, "%s", what);
    return false;
}

static bool grow(builder *b, void **v, int64_t n, int64_t *room, size_t size) {
    if (n <= *room) return true;
    int64_t more = n + n / 2 + 256;
    void   *bigger = realloc(*v, (size_t)more * size);
    if (!bigger) return stop(b, "out of memory");
    *v = bigger;
    *room = more;
    return true;
}

/* ---- transforms ------------------------------------------------------------------------------------------------- */

static affine3 product(const affine3 *a, const affine3 *b) {
    affine3 c;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 4; k++) {
            c.m[i][k] = k == 3 ? a->m[i][3] : 0;
            for (int j = 0; j < 3; j++) c.m[i][k] += a->m[i][j] * b->m[j][k];
        }
    return c;
}

static affine3 shift(const float *t, double sign) {
    return (affine3){{{1, 0, 0, sign * t[0]}, {0, 1, 0, sign * t[1]}, {0, 0, 1, sign * t[2]}}};
}

static affine3 turn(const float *r, double sign) {
    double x = r[0], y = r[1], z = r[2], l = sqrt(x * x + y * y + z * z), c = cos(r[3]), s = sign * sin(r[3]),
           k = 1 - c;
    if (!(l > 0)) return (affine3){{{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}}};
    x /= l, y /= l, z /= l;
    return (affine3){{{c + k * x * x, k * x * y - s * z, k * x * z + s * y, 0},
                      {k * x * y + s * z, c + k * y * y, k * y * z - s * x, 0},
                      {k * x * z - s * y, k * y * z + s * x, c + k * z * z, 0}}};
}

/* T C R SR S SR^-1 C^-1 */
static affine3 transform_of(const vrml_node *n) {
    affine3 part[7] = {shift(n->translation, 1),
                       shift(n->center, 1),
                       turn(n->rotation, 1),
                       turn(n->orientation, 1),
                       {{{n->scale[0], 0, 0, 0}, {0, n->scale[1], 0, 0}, {0, 0, n->scale[2], 0}}},
                       turn(n->orientation, -1),
                       shift(n->center, -1)};
    affine3 all = part[0];
    for (int i = 1; i < 7; i++) all = product(&all, &part[i]);
    return all;
}

/* ---- parts of a shape ------------------------------------------------------------------------------------------- */

static bool add_vertex(builder *b, const affine3 *t, const double p[3], const float *rgb) {
    vrml_scene *s = b->s;
    if (s->n_vertices >= 3 * b->max_faces + 1024) return stop(b, "has too many vertices");
    if (!grow(b, (void **)&s->position, 3 * (s->n_vertices + 1), &b->vertex_room, sizeof *s->position)) return false;
    for (int i = 0; i < 3; i++)
        s->position[3 * s->n_vertices + i] =
            (float)(t->m[i][0] * p[0] + t->m[i][1] * p[1] + t->m[i][2] * p[2] + t->m[i][3]);
    if (rgb || s->color) { /* vertices without colours of their own are white */
        if (!grow(b, (void **)&s->color, 4 * (s->n_vertices + 1), &b->color_room, 1)) return false;
        for (int i = 0; i < 3; i++)
            s->color[4 * s->n_vertices + i] = (uint8_t)(!rgb         ? 255
                                                        : rgb[i] > 0 ? (rgb[i] < 1 ? rgb[i] * 255.0f + 0.5f : 255)
                                                                     : 0);
        s->color[4 * s->n_vertices + 3] = 255;
    }
    s->n_vertices++;
    return true;
}

/* The first shape with colours makes those before it white. */
static bool start_colors(builder *b) {
    vrml_scene *s = b->s;
    if (s->color) return true;
    if (!grow(b, (void **)&s->color, 4 * (s->n_vertices + 1), &b->color_room, 1)) return false;
    memset(s->color, 255, (size_t)(4 * s->n_vertices));
    return true;
}

static bool add_face(builder *b, int64_t i, int64_t j, int64_t k, int64_t material) {
    vrml_scene *s = b->s;
    if (s->n_faces >= b->max_faces) {
        snprintf(b->why, 160, "has over %lld triangles", (long long)b->max_faces);
        return false;
    }
    int64_t room = b->face_room;
    if (!grow(b, (void **)&s->face, 3 * (s->n_faces + 1), &room, sizeof *s->face)) return false;
    if (room != b->face_room) { /* the materials' list grows with it */
        int32_t *m = realloc(s->material, (size_t)(room / 3 + 1) * sizeof *m);
        if (!m) return stop(b, "out of memory");
        s->material = m;
        b->face_room = room;
    }
    s->face[3 * s->n_faces] = (int32_t)i;
    s->face[3 * s->n_faces + 1] = (int32_t)j;
    s->face[3 * s->n_faces + 2] = (int32_t)k;
    s->material[s->n_faces++] = (int32_t)material;
    return true;
}

static int64_t add_material(builder *b, const float rgb[3], float alpha) {
    vrml_scene *s = b->s;
    if (s->n_materials >= MOST_MATERIALS) return stop(b, "has over 100000 materials") ? 0 : -1;
    if (!grow(b, (void **)&s->diffuse, 4 * (s->n_materials + 1), &b->material_room, sizeof *s->diffuse)) return -1;
    for (int i = 0; i < 3; i++) s->diffuse[4 * s->n_materials + i] = rgb[i];
    s->diffuse[4 * s->n_materials + 3] = alpha;
    return s->n_materials++;
}

/* -1: stopped. A shape's own colours take the place of the material's. */
static int64_t material_of(builder *b, vrml_node *shape, bool colored) {
    vrml_node *a = shape->appearance && shape->appearance->kind == VRML_APPEARANCE ? shape->appearance : NULL;
    vrml_node *m = a && a->appearance && a->appearance->kind == VRML_MATERIAL ? a->appearance : NULL;
    if (m && !colored) {
        if (m->number < 0) m->number = add_material(b, m->scale, 1 - m->transparency);
        return m->number;
    }
    static const float white[3] = {1, 1, 1}, grey[3] = {0.8f, 0.8f, 0.8f};
    if (!colored) return add_material(b, grey, 1);
    if (b->white < 0) b->white = add_material(b, white, 1);
    return b->white;
}

/* ---- faces of many corners -------------------------------------------------------------------------------------- */

static double cross2(const double *a, const double *b, const double *c) {
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
}

static bool is_ear(const builder *b, const int32_t *next, const int32_t *before, int32_t i, double turn_sign) {
    const double *p = b->flat[before[i]], *q = b->flat[i], *r = b->flat[next[i]];
    if (!(turn_sign * cross2(p, q, r) > 0)) return false;
    for (int32_t k = next[next[i]]; k != before[i]; k = next[k]) {
        const double *x = b->flat[k];
        if (turn_sign * cross2(p, q, x) >= 0 && turn_sign * cross2(q, r, x) >= 0 && turn_sign * cross2(r, p, x) >= 0 &&
            memcmp(x, p, 2 * sizeof *x) && memcmp(x, q, 2 * sizeof *x) && memcmp(x, r, 2 * sizeof *x))
            return false;
    }
    return true;
}

static bool put_triangle(builder *b, int64_t i, int64_t j, int64_t k, bool flip, int64_t material) {
    return flip ? add_face(b, b->corner[i], b->corner[k], b->corner[j], material)
                : add_face(b, b->corner[i], b->corner[j], b->corner[k], material);
}

/* Corners b->corner[0..n): ears are cut off in the plane that the face lies in most; what has none left (it crosses
 * itself) or has very many corners becomes a fan. */
static bool triangulate(builder *b, int64_t n, bool flip, int64_t material) {
    const float *v = b->s->position;
    double       normal[3] = {0}, area = 0;
    if (n == 3) return put_triangle(b, 0, 1, 2, flip, material);
    for (int64_t i = 0; i < n; i++) { /* Newell */
        const float *p = v + 3 * (int64_t)b->corner[i], *q = v + 3 * (int64_t)b->corner[(i + 1) % n];
        for (int a = 0; a < 3; a++)
            normal[a] +=
                ((double)p[(a + 1) % 3] - (double)q[(a + 1) % 3]) * ((double)p[(a + 2) % 3] + (double)q[(a + 2) % 3]);
    }
    int axis = 0;
    for (int a = 1; a < 3; a++)
        if (fabs(normal[a]) > fabs(normal[axis])) axis = a;
    area = normal[axis];
    int32_t *next = n <= EARS ? malloc((size_t)n * 2 * sizeof *next) : NULL, *before = next ? next + n : NULL, at = 0;
    int64_t  left = n, tried = 0;
    for (int64_t i = 0; i < n; i++) {
        const float *p = v + 3 * (int64_t)b->corner[i];
        b->flat[i][0] = (double)p[(axis + 1) % 3];
        b->flat[i][1] = (double)p[(axis + 2) % 3];
        if (next) next[i] = (int32_t)((i + 1) % n), before[i] = (int32_t)((i + n - 1) % n);
    }
    bool ok = true;
    while (ok && next && left > 3 && tried <= left) {
        if (is_ear(b, next, before, at, area > 0 ? 1 : -1)) {
            ok = put_triangle(b, before[at], at, next[at], flip, material);
            next[before[at]] = next[at];
            before[next[at]] = before[at];
            left--;
            tried = 0;
        } else {
            tried++;
        }
        at = next[at];
    }
    if (next)
        for (int32_t k = next[at]; ok && left >= 3; left--, k = next[k])
            ok = put_triangle(b, at, k, next[k], flip, material);
    else
        for (int64_t i = 1; ok && i + 1 < n; i++) ok = put_triangle(b, 0, i, i + 1, flip, material);
    free(next);
    return ok;
}

/* ---- geometry --------------------------------------------------------------------------------------------------- */

static const float *color_at(const vrml_node *g, int64_t i) {
    return g->color && g->color->kind == VRML_COORDINATE && i >= 0 && 3 * i + 2 < g->color->point.n
               ? g->color->point.v + 3 * i
               : NULL;
}

static bool add_faces(builder *b, vrml_node *shape, const affine3 *t) {
    const vrml_node *g = shape->geometry;
    if (!g->coord || g->coord->kind != VRML_COORDINATE) return true;
    const vrml_floats *p = &g->coord->point;
    const vrml_ints   *index = &g->coord_index;
    bool               colored = color_at(g, 0) != NULL;
    int64_t            points = p->n / 3, first = b->s->n_vertices, n = 0, face = 0;
    int64_t            material = material_of(b, shape, colored);
    if (material < 0 || (colored && !start_colors(b))) return false;
    for (int64_t i = 0; !colored && i < points; i++) { /* corners of colours are vertices of their own */
        const double x[3] = {p->v[3 * i], p->v[3 * i + 1], p->v[3 * i + 2]};
        if (!add_vertex(b, t, x, NULL)) return false;
    }
    for (int64_t i = 0; i <= index->n; i++) {
        int32_t at = i < index->n ? index->v[i] : -1;
        if (at >= 0) {
            if (at >= points) {
                snprintf(b->why, 160, "a face refers to point %d of %lld", at, (long long)points);
                return false;
            }
            if (n >= MOST_CORNERS) return stop(b, "a face has over a million corners");
            int64_t room = b->corner_room;
            if (!grow(b, (void **)&b->corner, n + 1, &room, sizeof *b->corner)) return false;
            if (room != b->corner_room) {
                void *flat = realloc(b->flat, (size_t)room * sizeof *b->flat);
                if (!flat) return stop(b, "out of memory");
                b->flat = flat;
                b->corner_room = room;
            }
            b->corner[n] = (int32_t)(first + at);
            if (colored) {
                int64_t      where = g->per_face ? (g->color_index.n ? face : -1) : (g->color_index.n ? i : -1);
                int64_t      which = where < 0                  ? (g->per_face ? face : at)
                                     : where < g->color_index.n ? g->color_index.v[where]
                                                                : -1;
                const double x[3] = {p->v[3 * at], p->v[3 * at + 1], p->v[3 * at + 2]};
                b->corner[n] = (int32_t)b->s->n_vertices;
                if (!add_vertex(b, t, x, color_at(g, which))) return false;
            }
            n++;
        } else if (n > 0) {
            if (n >= 3 && !triangulate(b, n, g->clockwise, material)) return false;
            face++;
            n = 0;
        }
    }
    return true;
}

/* A profile (radius, height) turned round the y axis; ends at radius 0 close it. */
static bool add_turned(builder *b, const affine3 *t, const double (*profile)[2], int rows, int64_t material) {
    int64_t first = b->s->n_vertices;
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < ROUND; k++) {
            double       a = 2 * 3.14159265358979323846 * k / ROUND;
            const double x[3] = {profile[r][0] * sin(a), profile[r][1], profile[r][0] * cos(a)};
            if (!add_vertex(b, t, x, NULL)) return false;
        }
    for (int r = 0; r + 1 < rows; r++)
        for (int k = 0; k < ROUND; k++) {
            int64_t i = first + r * ROUND + k, j = first + r * ROUND + (k + 1) % ROUND;
            if (profile[r][0] > 0 && !add_face(b, i, j, j + ROUND, material)) return false;
            if (profile[r + 1][0] > 0 && !add_face(b, i, j + ROUND, i + ROUND, material)) return false;
        }
    return true;
}

static bool add_body(builder *b, vrml_node *shape, const affine3 *t) {
    const vrml_node *g = shape->geometry;
    double           r = g->scale[0], h = g->scale[1] / 2, profile[ROUND / 2 + 1][2];
    int64_t          material = material_of(b, shape, false), first = b->s->n_vertices;
    if (material < 0) return false;
    switch (g->kind) {
    case VRML_BOX:
        for (int i = 0; i < 8; i++) {
            const double x[3] = {(i & 1 ? 0.5 : -0.5) * g->scale[0], (i & 2 ? 0.5 : -0.5) * g->scale[1],
                                 (i & 4 ? 0.5 : -0.5) * g->scale[2]};
            if (!add_vertex(b, t, x, NULL)) return false;
        }
        for (int f = 0; f < 6; f++) {
            static const int side[6][4] = {{0, 4, 6, 2}, {1, 3, 7, 5}, {0, 1, 5, 4},
                                           {2, 6, 7, 3}, {0, 2, 3, 1}, {4, 5, 7, 6}};
            const int       *c = side[f];
            if (!add_face(b, first + c[0], first + c[1], first + c[2], material) ||
                !add_face(b, first + c[0], first + c[2], first + c[3], material))
                return false;
        }
        return true;
    case VRML_CONE: {
        const double cone[3][2] = {{0, -h}, {r, -h}, {0, h}};
        return add_turned(b, t, cone, 3, material);
    }
    case VRML_CYLINDER: {
        const double cylinder[4][2] = {{0, -h}, {r, -h}, {r, h}, {0, h}};
        return add_turned(b, t, cylinder, 4, material);
    }
    default:
        for (int i = 0; i <= ROUND / 2; i++) {
            double a = 3.14159265358979323846 * i / (ROUND / 2);
            profile[i][0] = i % (ROUND / 2) ? r * sin(a) : 0;
            profile[i][1] = -r * cos(a);
        }
        return add_turned(b, t, (const double(*)[2])profile, ROUND / 2 + 1, material);
    }
}

static bool add_node(builder *b, vrml_node *n, const affine3 *t, int depth) {
    if (++b->visits > MOST_VISITS || depth > 4 * VRML_DEPTH) return stop(b, "its nodes are used too many times over");
    if (n->kind == VRML_SHAPE && n->geometry) {
        vrml_kind k = n->geometry->kind;
        return k == VRML_FACES ? add_faces(b, n, t) : k < VRML_BOX || add_body(b, n, t);
    }
    if (n->kind != VRML_GROUP && n->kind != VRML_TRANSFORM) return true;
    affine3 own = n->kind == VRML_TRANSFORM ? transform_of(n) : *t;
    affine3 all = n->kind == VRML_TRANSFORM ? product(t, &own) : *t;
    int32_t at = 0, only = n->choice == -3 ? 0 : n->choice;
    for (const vrml_link *l = n->child; l; l = l->next, at++)
        if ((only == -2 || only == at) && !add_node(b, l->to, &all, depth + 1)) return false;
    return true;
}

void vrml_free(vrml_scene *s) {
    free(s->position);
    free(s->face);
    free(s->material);
    free(s->color);
    free(s->diffuse);
    *s = (vrml_scene){0};
}

bool vrml_is(const char *text, int64_t n) {
    return n >= 10 && memcmp(text, "#VRML V2.0", 10) == 0;
}

bool vrml_read(const char *text, int64_t n, int64_t max_faces, vrml_scene *s, char why[160]) {
    static const affine3 one = {{{1, 0, 0, 0}, {0, 1, 0, 0}, {0, 0, 1, 0}}};
    vrml_tree            t = {.why = why};
    *s = (vrml_scene){0};
    why[0] = 0;
    builder b = {.s = s, .max_faces = max_faces, .white = -1, .why = why};
    bool    ok = vrml_is(text, n) || stop(&b, "does not begin with #VRML V2.0");
    ok = ok && vrml_parse(text, n, &t);
    for (const vrml_link *l = t.root; l && ok; l = l->next) ok = add_node(&b, l->to, &one, 0);
    if (ok && s->n_faces == 0) {
        if (t.n_unknown)
            snprintf(why, 160, "no triangles (%lld nodes of kinds that are not read, such as %s)",
                     (long long)t.n_unknown, t.unknown);
        else
            snprintf(why, 160, "no triangles");
        ok = false;
    }
    vrml_tree_free(&t);
    free(b.corner);
    free(b.flat);
    if (!ok) vrml_free(s);
    return ok;
}
