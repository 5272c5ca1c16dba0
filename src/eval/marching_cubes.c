/* Passes over the tiles in sorted order, each independent per tile, with prefix sums between:
 *   ghosts   absent neighbours of tiles whose voxels the Lipschitz bound decides (+1, -1 or unknown)
 *   count    bits of the edges that cross the level (edge = lower voxel + axis, owned by the voxel's tile), triangles
 *   fill     vertices in the order of the bits, triangles in the order of the cells
 * The number of a vertex is its tile's first plus the count of bits before its own: no table of edges is kept. */
#include "eval/marching_cubes.h"
#include "eval/mc_table.h"
#include "sparse/grid.h"
#include "sparse/sort_keys.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TILE = 8, CELLS = 512, EDGE_WORDS = 3 * CELLS / 64, SPAN = TILE + 3 };

typedef struct {
    int32_t      x[3];
    const float *value; /* NULL: ghost */
    int8_t      *sign;  /* of a ghost: +1, -1, 0 unknown */
    int32_t      nb[27];
    uint64_t     edge[EDGE_WORDS];
    int32_t      first_vertex;
    int64_t      n_vertices, n_triangles, first_triangle;
} mc_tile;

typedef struct {
    mc_tile *tile;
    int64_t  n;
    float    level;
    double   tau;
    int      resolution;
    int16_t  morton[TILE][TILE][TILE];
} mc_state;

/* Values around a tile: index o + 1 per axis, o = -1 .. 9; NaN = unknown. */
typedef float mc_block[SPAN][SPAN][SPAN];

static void *alloc(int64_t n, size_t size) {
    void *p = calloc((size_t)(n > 0 ? n : 1), size);
    CHECK(p, "no memory for %lld records of %zu bytes", (long long)n, size);
    return p;
}

static int span_tile(int o) {
    return o < 0 ? 0 : o < TILE ? 1 : 2;
}

static void load_block(const mc_state *s, const mc_tile *t, bool with_ghosts, mc_block b) {
    for (int x = 0; x < SPAN; x++)
        for (int y = 0; y < SPAN; y++)
            for (int z = 0; z < SPAN; z++) {
                int     ox = x - 1, oy = y - 1, oz = z - 1;
                int32_t n = t->nb[span_tile(ox) + 3 * span_tile(oy) + 9 * span_tile(oz)];
                float   v = NAN;
                if (n >= 0) {
                    const mc_tile *u = &s->tile[n];
                    int            c = s->morton[ox & 7][oy & 7][oz & 7];
                    if (u->value)
                        v = u->value[c];
                    else if (with_ghosts && u->sign[c])
                        v = (float)u->sign[c];
                }
                b[x][y][z] = v;
            }
}

/* ---- tiles and ghosts ------------------------------------------------------------------------------------------ */

static int64_t find_key(const key_row *keys, int64_t n, uint64_t key) {
    int64_t at = keys_not_below(keys, n, key);
    return at < n && keys[at].key == key ? at : -1;
}

static void set_neighbors(mc_state *s, const key_row *keys) {
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < s->n; i++) {
        mc_tile *t = &s->tile[i];
        for (int k = 0; k < 27; k++)
            t->nb[k] = (int32_t)find_key(keys, s->n,
                                         coord_key(t->x[0] + k % 3 - 1, t->x[1] + k / 3 % 3 - 1, t->x[2] + k / 9 - 1));
    }
}

static key_row *sorted_tiles(const int32_t *coord, int64_t n, int side) {
    for (int64_t i = 0; i < 3 * n; i++)
        CHECK(coord[i] >= 0 && coord[i] < side, "tile %lld at (%d,%d,%d) outside of 0..%d", (long long)(i / 3),
              coord[i / 3 * 3], coord[i / 3 * 3 + 1], coord[i / 3 * 3 + 2], side - 1);
    key_row *keys = alloc(n, sizeof *keys), *spare = alloc(n, sizeof *keys), same[2] = {{0}, {0}};
    for (int64_t i = 0; i < n; i++)
        keys[i] = (key_row){coord_key(coord[3 * i], coord[3 * i + 1], coord[3 * i + 2]), (int32_t)i};
    sort_keys(keys, spare, n);
    for (int64_t i = 1; i < n; i++)
        if (keys[i].key == keys[i - 1].key) same[0] = keys[i - 1], same[1] = keys[i];
    free(spare);
    if (same[1].key) free(keys);
    CHECK(!same[1].key, "tiles %d and %d have one place", same[0].row, same[1].row);
    return keys;
}

/* Absent tiles beside decoded ones, sorted, without repetition. */
static int64_t list_ghosts(const int32_t *coord, int64_t n, int side, const key_row *keys, key_row **out) {
    key_row *list = alloc(26 * n, sizeof *list), *spare = alloc(26 * n, sizeof *list);
    int64_t  m = 0, unique = 0;
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < 27; k++) {
            const int32_t *c = coord + 3 * i;
            int64_t        x = c[0] + k % 3 - 1, y = c[1] + k / 3 % 3 - 1, z = c[2] + k / 9 - 1;
            if (x < 0 || y < 0 || z < 0 || x >= side || y >= side || z >= side) continue;
            uint64_t key = coord_key(x, y, z);
            if (find_key(keys, n, key) < 0) list[m++] = (key_row){key, 0};
        }
    sort_keys(list, spare, m);
    for (int64_t i = 0; i < m; i++)
        if (i == 0 || list[i].key != list[i - 1].key) list[unique++] = list[i];
    free(spare);
    *out = list;
    return unique;
}

/* A value v of a decoded voxel d voxels away forbids -1 when v > -1 + d/tau, and +1 when v < 1 - d/tau. */
static void decide_ghost(const mc_state *s, mc_tile *t) {
    const double slack = 2e-3; /* stored values are half floats, steps of 5e-4 near 1 */
    mc_block     b;
    load_block(s, t, false, b);
    for (int x = 1; x <= TILE; x++)
        for (int y = 1; y <= TILE; y++)
            for (int z = 1; z <= TILE; z++) {
                bool plus = false, minus = false;
                for (int k = 0; k < 27; k++) {
                    int    dx = k % 3 - 1, dy = k / 3 % 3 - 1, dz = k / 9 - 1;
                    double v = (double)b[x + dx][y + dy][z + dz];
                    double reach = sqrt(dx * dx + dy * dy + dz * dz) / s->tau + slack;
                    plus = plus || v > reach - 1;
                    minus = minus || v < 1 - reach;
                }
                if (plus != minus) t->sign[s->morton[x - 1][y - 1][z - 1]] = plus ? 1 : -1;
            }
}

static int8_t *add_tiles(mc_state *s, const int32_t *coord, const float *value, int64_t n) {
    int      side = s->resolution / TILE;
    key_row *keys = sorted_tiles(coord, n, side), *ghost = NULL;
    int64_t  n_ghosts = s->tau > 0 ? list_ghosts(coord, n, side, keys, &ghost) : 0;
    s->n = n + n_ghosts;
    CHECK(s->n < INT32_MAX, "%lld tiles are too many", (long long)s->n);
    s->tile = alloc(s->n, sizeof *s->tile);
    int8_t  *sign = alloc(n_ghosts * CELLS, 1);
    key_row *all = alloc(s->n, sizeof *all);
    for (int64_t i = 0, a = 0, g = 0; i < s->n; i++) {
        bool     real = g >= n_ghosts || (a < n && keys[a].key < ghost[g].key);
        mc_tile *t = &s->tile[i];
        all[i].key = real ? keys[a].key : ghost[g].key;
        for (int k = 0; k < 3; k++) t->x[k] = (int32_t)(all[i].key >> (42 - 21 * k) & 0x1fffff) - 1;
        if (real)
            t->value = value + CELLS * (int64_t)keys[a++].row;
        else
            t->sign = sign + CELLS * g++;
    }
    set_neighbors(s, all);
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t i = 0; i < s->n; i++)
        if (!s->tile[i].value) decide_ghost(s, &s->tile[i]);
    free(keys);
    free(ghost);
    free(all);
    return sign;
}

/* ---- cells ----------------------------------------------------------------------------------------------------- */

/* The case of the cell at voxel (x,y,z) of the tile; NULL: a corner is unknown, or no surface. */
static const mc_case *cell_case(const mc_state *s, mc_block b, int x, int y, int z) {
    float v[8];
    int   inside = 0, joined = 0;
    for (int c = 0; c < 8; c++) {
        v[c] = b[x + 1 + (c & 1)][y + 1 + (c >> 1 & 1)][z + 1 + (c >> 2)];
        if (isnan(v[c])) return NULL;
        inside |= (v[c] < s->level) << c;
    }
    if (inside == 0 || inside == 255) return NULL;
    for (int f = 0, amb = mc_ambiguous(inside); amb >> f; f++) {
        if (!(amb >> f & 1)) continue;
        /* The saddle of the bilinear interpolant has the sign of (p - q) for the outside diagonal's product p. Products
         * of floats are exact in double, so both cells of the face see the same. */
        const uint8_t *k = mc_face_corner[f];
        double         d[4];
        for (int i = 0; i < 4; i++) d[i] = (double)(v[k[i]] - s->level);
        double p = d[0] * d[2], q = d[1] * d[3];
        if (inside >> k[0] & 1 ? q > p : p > q) joined |= 1 << f;
    }
    return mc_lookup(inside, joined);
}

static void count_tile(const mc_state *s, mc_tile *t) {
    mc_block b;
    load_block(s, t, true, b);
    for (int x = 0; x < TILE; x++)
        for (int y = 0; y < TILE; y++)
            for (int z = 0; z < TILE; z++) {
                float v = b[x + 1][y + 1][z + 1];
                for (int a = 0; a < 3; a++) {
                    float w = b[x + 1 + (a == 0)][y + 1 + (a == 1)][z + 1 + (a == 2)];
                    if (isnan(v) || isnan(w) || (v < s->level) == (w < s->level)) continue;
                    int e = 3 * (64 * x + 8 * y + z) + a;
                    t->edge[e / 64] |= 1ull << (e % 64);
                }
                const mc_case *c = cell_case(s, b, x, y, z);
                if (c) t->n_triangles += c->n_triangles, t->n_vertices += c->n_center > 0;
            }
    for (int w = 0; w < EDGE_WORDS; w++) t->n_vertices += __builtin_popcountll(t->edge[w]);
}

static int32_t edge_vertex(const mc_state *s, const mc_tile *t, int x, int y, int z, int axis) {
    const mc_tile *u = &s->tile[t->nb[span_tile(x) + 3 * span_tile(y) + 9 * span_tile(z)]];
    int            e = 3 * (64 * (x & 7) + 8 * (y & 7) + (z & 7)) + axis;
    int32_t        n = u->first_vertex;
    for (int w = 0; w < e / 64; w++) n += __builtin_popcountll(u->edge[w]);
    return n + __builtin_popcountll(u->edge[e / 64] & ((1ull << (e % 64)) - 1));
}

/* Derivative along an axis from the known neighbours. */
static double slope(mc_block b, const int p[3], int axis) {
    int lo[3] = {p[0], p[1], p[2]}, hi[3] = {p[0], p[1], p[2]};
    lo[axis]--, hi[axis]++;
    double v = (double)b[p[0]][p[1]][p[2]], l = (double)b[lo[0]][lo[1]][lo[2]], h = (double)b[hi[0]][hi[1]][hi[2]];
    if (!isnan(l) && !isnan(h)) return 0.5 * (h - l);
    return !isnan(h) ? h - v : !isnan(l) ? v - l : 0.0;
}

static void put_vertex(const mc_state *s, const mc_tile *t, mc_block b, const int o[3], int axis, mesh *out,
                       int64_t at) {
    int p[3] = {o[0] + 1, o[1] + 1, o[2] + 1}, q[3] = {p[0], p[1], p[2]};
    q[axis]++;
    double v = (double)b[p[0]][p[1]][p[2]], w = (double)b[q[0]][q[1]][q[2]];
    /* Kept off the corners, where neighbouring crossings would meet and triangles lose their area. */
    double f = fmin(fmax(((double)s->level - v) / (w - v), 1e-3), 1 - 1e-3), g[3], norm = 0;
    for (int a = 0; a < 3; a++) {
        double i = TILE * t->x[a] + o[a] + (a == axis ? f : 0);
        out->position[3 * at + a] = (float)(2 * i / (s->resolution - 1) - 1);
        g[a] = a == axis ? w - v : (1 - f) * slope(b, p, a) + f * slope(b, q, a);
        norm += g[a] * g[a];
    }
    for (int a = 0; a < 3; a++) out->normal[3 * at + a] = (float)(g[a] / sqrt(norm));
}

static void put_center(const mc_case *c, const int32_t vertex[MC_EDGES], mesh *out, int64_t at) {
    double p[3] = {0}, g[3] = {0};
    for (int i = 0; i < c->n_center; i++)
        for (int a = 0; a < 3; a++) {
            p[a] += (double)out->position[3 * (int64_t)vertex[c->center[i]] + a] / c->n_center;
            g[a] += (double)out->normal[3 * (int64_t)vertex[c->center[i]] + a];
        }
    double norm = sqrt(g[0] * g[0] + g[1] * g[1] + g[2] * g[2]);
    for (int a = 0; a < 3; a++) {
        out->position[3 * at + a] = (float)p[a];
        out->normal[3 * at + a] = norm > 0 ? (float)(g[a] / norm) : (float)(a == 2);
    }
}

static void fill_vertices(const mc_state *s, const mc_tile *t, mesh *out) {
    mc_block b;
    int64_t  at = t->first_vertex;
    load_block(s, t, true, b);
    for (int w = 0; w < EDGE_WORDS; w++)
        for (uint64_t bits = t->edge[w]; bits; bits &= bits - 1) {
            int e = 64 * w + __builtin_ctzll(bits), cell = e / 3;
            put_vertex(s, t, b, (const int[3]){cell / 64, cell / 8 % 8, cell % 8}, e % 3, out, at++);
        }
}

/* Centres come behind the tile's edge vertices; they need the vertices of all tiles. */
static void fill_triangles(const mc_state *s, const mc_tile *t, mesh *out) {
    mc_block b;
    int64_t  face = t->first_triangle, at = t->first_vertex;
    for (int w = 0; w < EDGE_WORDS; w++) at += __builtin_popcountll(t->edge[w]);
    load_block(s, t, true, b);
    for (int x = 0; x < TILE; x++)
        for (int y = 0; y < TILE; y++)
            for (int z = 0; z < TILE; z++) {
                const mc_case *c = cell_case(s, b, x, y, z);
                int32_t        vertex[MC_EDGES + 1] = {0};
                if (!c) continue;
                uint32_t used = 0;
                for (int i = 0; i < c->n_triangles; i++)
                    for (int k = 0; k < 3; k++) used |= 1u << c->triangle[i][k];
                for (int e = 0; e < MC_EDGES; e++)
                    if (used >> e & 1) {
                        int corner = mc_edge_corner[e][0];
                        vertex[e] =
                            edge_vertex(s, t, x + (corner & 1), y + (corner >> 1 & 1), z + (corner >> 2), e / 4);
                    }
                if (c->n_center) {
                    vertex[MC_CENTER] = (int32_t)at;
                    put_center(c, vertex, out, at++);
                }
                for (int i = 0; i < c->n_triangles; i++, face++)
                    for (int k = 0; k < 3; k++) out->face[3 * face + k] = vertex[c->triangle[i][k]];
            }
}

/* Crossings all of whose cells were left out have no face: taken out of the list. */
static void drop_unused(mesh *m) {
    int32_t *place = alloc(m->n_vertices, sizeof *place);
    int32_t  n = 0;
    for (int64_t i = 0; i < 3 * m->n_faces; i++) place[m->face[i]] = 1;
    for (int64_t i = 0; i < m->n_vertices; i++) {
        if (!place[i]) continue;
        memmove(m->position + 3 * (int64_t)n, m->position + 3 * i, 3 * sizeof(float));
        memmove(m->normal + 3 * (int64_t)n, m->normal + 3 * i, 3 * sizeof(float));
        place[i] = n++;
    }
    for (int64_t i = 0; i < 3 * m->n_faces; i++) m->face[i] = place[m->face[i]];
    m->n_vertices = n;
    free(place);
}

void marching_cubes(const int32_t *coord, const float *value, int64_t n_tiles, const mc_options *opt, mesh *out) {
    CHECK(opt->resolution >= TILE && opt->resolution % TILE == 0, "resolution %d is no multiple of 8", opt->resolution);
    CHECK(opt->level > -1 && opt->level < 1, "level %g is not in (-1,1)", opt->level);
    mc_state s = {.level = (float)opt->level, .tau = opt->tau_voxels, .resolution = opt->resolution};
    mc_table_build();
    for (int c = 0; c < CELLS; c++) {
        int x, y, z;
        morton_decode(c, &x, &y, &z);
        s.morton[x][y][z] = (int16_t)c;
    }
    int8_t *sign = add_tiles(&s, coord, value, n_tiles);
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t i = 0; i < s.n; i++) count_tile(&s, &s.tile[i]);

    *out = (mesh){0};
    for (int64_t i = 0; i < s.n; i++) {
        CHECK(out->n_vertices + s.tile[i].n_vertices < INT32_MAX, "over 2^31 vertices");
        s.tile[i].first_vertex = (int32_t)out->n_vertices;
        s.tile[i].first_triangle = out->n_faces;
        out->n_vertices += s.tile[i].n_vertices;
        out->n_faces += s.tile[i].n_triangles;
    }
    out->position = alloc(3 * out->n_vertices, sizeof(float));
    out->normal = alloc(3 * out->n_vertices, sizeof(float));
    out->face = alloc(3 * out->n_faces, sizeof(int32_t));
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t i = 0; i < s.n; i++) fill_vertices(&s, &s.tile[i], out);
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t i = 0; i < s.n; i++) fill_triangles(&s, &s.tile[i], out);
    drop_unused(out);
    free(sign);
    free(s.tile);
}
