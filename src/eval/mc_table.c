#include "eval/mc_table.h"

#include <string.h>

const uint8_t mc_edge_corner[MC_EDGES][2] = {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {0, 2}, {1, 3},
                                             {4, 6}, {5, 7}, {0, 4}, {1, 5}, {2, 6}, {3, 7}};
const uint8_t mc_face_corner[MC_FACES][4] = {{4, 6, 2, 0}, {1, 3, 7, 5}, {1, 5, 4, 0},
                                             {2, 6, 7, 3}, {2, 3, 1, 0}, {4, 5, 7, 6}};

static mc_case table[256][64];
static uint8_t ambiguous[256];
static uint8_t edge_faces[MC_EDGES]; /* bit f: the edge lies on face f */
static bool    built;

static int edge_between(int a, int b) {
    for (int e = 0; e < MC_EDGES; e++)
        if ((mc_edge_corner[e][0] == a && mc_edge_corner[e][1] == b) ||
            (mc_edge_corner[e][0] == b && mc_edge_corner[e][1] == a))
            return e;
    FATAL("corners %d and %d share no edge", a, b);
}

static bool same_face(int e, int f) {
    return (edge_faces[e] & edge_faces[f]) != 0;
}

/* Triangles of loop[i..j] on the base (i,j) without a forbidden diagonal; false when there is none. A loop runs with
 * the inside on its left as seen from outside the cell, so triangles take it backwards. */
static bool triangulate(const uint8_t *loop, int i, int j, mc_case *c) {
    if (j - i < 2) return true;
    int n0 = c->n_triangles;
    for (int k = i + 1; k < j; k++) {
        if ((k > i + 1 && same_face(loop[i], loop[k])) || (k < j - 1 && same_face(loop[k], loop[j]))) continue;
        if (triangulate(loop, i, k, c) && triangulate(loop, k, j, c)) {
            uint8_t *t = c->triangle[c->n_triangles++];
            t[0] = loop[j], t[1] = loop[k], t[2] = loop[i];
            return true;
        }
        c->n_triangles = (uint8_t)n0;
    }
    return false;
}

static void add_loop(const uint8_t *loop, int n, mc_case *c) {
    if (triangulate(loop, 0, n - 1, c)) return;
    CHECK(c->n_center == 0, "two loops of one cell need a centre");
    c->n_center = (uint8_t)n;
    memcpy(c->center, loop, (size_t)n);
    for (int i = 0; i < n; i++) {
        uint8_t *t = c->triangle[c->n_triangles++];
        t[0] = loop[(i + 1) % n], t[1] = loop[i], t[2] = MC_CENTER;
    }
}

/* The links of one face: from a crossing that leaves the inside to one that enters it, walking around the face. */
static void link_face(int inside, int face, bool joined, int8_t next[MC_EDGES]) {
    int n = 0, edge[4], leaves[4];
    for (int i = 0; i < 4; i++) {
        int a = mc_face_corner[face][i], b = mc_face_corner[face][(i + 1) % 4];
        if ((inside >> a & 1) == (inside >> b & 1)) continue;
        leaves[n] = inside >> a & 1;
        edge[n++] = edge_between(a, b);
    }
    for (int i = 0; i < n; i++) {
        if (!leaves[i]) continue;
        /* The next crossing cuts off the outside corner between; the one before cuts off the inside corner. */
        int step = n == 4 && joined ? n - 1 : 1;
        next[edge[i]] = (int8_t)edge[(i + step) % n];
    }
}

static void build_case(int inside, int joined, mc_case *c) {
    int8_t  next[MC_EDGES];
    bool    seen[MC_EDGES] = {false};
    uint8_t loop[MC_EDGES];
    memset(next, -1, sizeof next);
    for (int f = 0; f < MC_FACES; f++) link_face(inside, f, joined >> f & 1, next);
    for (int e = 0; e < MC_EDGES; e++) {
        int n = 0;
        for (int x = e; next[x] >= 0 && !seen[x]; x = next[x]) {
            seen[x] = true;
            loop[n++] = (uint8_t)x;
        }
        if (n) add_loop(loop, n, c);
    }
}

void mc_table_build(void) {
    if (built) return;
    for (int f = 0; f < MC_FACES; f++)
        for (int i = 0; i < 4; i++)
            edge_faces[edge_between(mc_face_corner[f][i], mc_face_corner[f][(i + 1) % 4])] |= (uint8_t)(1 << f);
    for (int inside = 0; inside < 256; inside++) {
        int amb = 0;
        for (int f = 0; f < MC_FACES; f++) {
            const uint8_t *v = mc_face_corner[f];
            int            s[4];
            for (int i = 0; i < 4; i++) s[i] = inside >> v[i] & 1;
            if (s[0] == s[2] && s[1] == s[3] && s[0] != s[1]) amb |= 1 << f;
        }
        ambiguous[inside] = (uint8_t)amb;
        for (int joined = 0; joined < 64; joined++)
            if ((joined & ~amb) == 0) build_case(inside, joined, &table[inside][joined]);
    }
    built = true;
}

int mc_ambiguous(int inside) {
    return ambiguous[inside];
}

const mc_case *mc_lookup(int inside, int joined) {
    return &table[inside][joined & ambiguous[inside]];
}
