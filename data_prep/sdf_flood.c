/* What can be reached from the border of the grid through voxels with s > 0 is outside; the rest is sealed and becomes
 * inside. Tiles of the field are flooded as 512-bit masks (word x, bit 8y+z), far tiles as a whole. */
#include "data_prep/sdf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CELLS = 512 };

typedef struct {
    uint64_t w[8];
} mask;

#define Z_LOW 0x0101010101010101ull /* z = 0 of every y */
#define Z_HIGH 0x8080808080808080ull

typedef struct {
    sdf_field *f;
    int        T;
    mask      *open, *seen; /* [n_tiles] */
    uint8_t   *far_seen;    /* [T^3] far tiles reached; also 1 for a tile that waits in the stack */
    int64_t   *stack, n_stack;
} flood;

static int64_t place(const flood *g, int x, int y, int z) {
    return ((int64_t)x * g->T + y) * g->T + z;
}

/* Spreads `seen` inside one tile until nothing changes. */
static void spread(const mask *open, mask *seen) {
    for (bool again = true; again;) {
        again = false;
        for (int x = 0; x < 8; x++) {
            uint64_t s = seen->w[x], n = s | s << 8 | s >> 8 | (s << 1 & ~Z_LOW) | (s >> 1 & ~Z_HIGH);
            if (x > 0) n |= seen->w[x - 1];
            if (x < 7) n |= seen->w[x + 1];
            n &= open->w[x];
            if (n != s) {
                seen->w[x] = n;
                again = true;
            }
        }
    }
}

/* The face of `m` towards direction d (0..5 = -x +x -y +y -z +z), as the bits it lights in the neighbour. */
static mask across(const mask *m, int d) {
    mask out = {{0}};
    for (int x = 0; x < 8; x++) {
        uint64_t s = m->w[x];
        if (d == 0 && x == 0) out.w[7] = s;
        if (d == 1 && x == 7) out.w[0] = s;
        if (d == 2) out.w[x] = s << 56;
        if (d == 3) out.w[x] = s >> 56;
        if (d == 4) out.w[x] = (s & Z_LOW) << 7;
        if (d == 5) out.w[x] = (s & Z_HIGH) >> 7;
    }
    return out;
}

static const mask FULL = {{~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull, ~0ull}};

/* Light falls on tile `at`: what is new makes it wait for its turn. */
static void light(flood *g, int64_t at, const mask *bits) {
    int32_t t = g->f->tile_at[at];
    if (t < 0) {
        if (g->far_seen[at]) return;
        uint64_t any = 0;
        for (int x = 0; x < 8; x++) any |= bits->w[x];
        if (!any) return;
        g->far_seen[at] = 1;
        g->stack[g->n_stack++] = at;
        return;
    }
    uint64_t fresh = 0;
    for (int x = 0; x < 8; x++) {
        uint64_t n = bits->w[x] & g->open[t].w[x] & ~g->seen[t].w[x];
        fresh |= n;
        g->seen[t].w[x] |= n;
    }
    if (!fresh || g->far_seen[at]) return;
    g->far_seen[at] = 1;
    g->stack[g->n_stack++] = at;
}

static void run(flood *g) {
    int T = g->T;
    for (int x = 0; x < T; x++)
        for (int y = 0; y < T; y++)
            for (int z = 0; z < T; z++) {
                int c[3] = {x, y, z};
                for (int a = 0; a < 3; a++) {
                    /* the border of the grid, as if a lit tile stood beyond it */
                    mask from;
                    if (c[a] == 0) from = across(&FULL, 2 * a + 1), light(g, place(g, x, y, z), &from);
                    if (c[a] == T - 1) from = across(&FULL, 2 * a), light(g, place(g, x, y, z), &from);
                }
            }
    while (g->n_stack > 0) {
        int64_t at = g->stack[--g->n_stack];
        int     c[3] = {(int)(at / T / T), (int)(at / T % T), (int)(at % T)};
        int32_t t = g->f->tile_at[at];
        mask    lit = FULL;
        if (t >= 0) {
            g->far_seen[at] = 0;
            spread(&g->open[t], &g->seen[t]);
            lit = g->seen[t];
        }
        for (int d = 0; d < 6; d++) {
            int n[3] = {c[0], c[1], c[2]};
            n[d / 2] += d % 2 ? 1 : -1;
            if (n[d / 2] < 0 || n[d / 2] >= T) continue;
            mask to = across(&lit, d);
            light(g, place(g, n[0], n[1], n[2]), &to);
        }
    }
}

/* ---- sealed voxels -------------------------------------------------------------------------------------------- */

/* Distances are looked for up to REACH voxels, in a window of three tiles a side. */
enum { REACH = 8, WINDOW = 8 + 2 * REACH, NONE = 1 << 12 };

/* Outside voxels of the 3^3 tiles around a tile: bit z of out[x][y], 24 a side, the middle tile at 8..15. Beyond the
 * grid all is outside. */
static void gather_outside(const flood *g, const int32_t *c, uint32_t out[WINDOW][WINDOW]) {
    memset(out, 0, sizeof(uint32_t[WINDOW][WINDOW]));
    for (int d = 0; d < 27; d++) {
        int         x = c[0] + d / 9 - 1, y = c[1] + d / 3 % 3 - 1, z = c[2] + d % 3 - 1;
        const mask *m = &FULL;
        if (x >= 0 && y >= 0 && z >= 0 && x < g->T && y < g->T && z < g->T) {
            int64_t at = place(g, x, y, z);
            int32_t t = g->f->tile_at[at];
            if (t < 0 && !g->far_seen[at]) continue;
            if (t >= 0) m = &g->seen[t];
        }
        for (int i = 0; i < 8; i++)
            for (int j = 0; j < 8; j++)
                out[d / 9 * 8 + i][d / 3 % 3 * 8 + j] |= (uint32_t)(m->w[i] >> 8 * j & 255) << d % 3 * 8;
    }
}

/* Squared distance, in voxels, of the middle tile's voxels to the nearest outside voxel; NONE and more beyond REACH. */
static void outside_distance(uint32_t out[WINDOW][WINDOW], int16_t best[8][8][8]) {
    int16_t along_z[WINDOW][WINDOW][8], along_y[WINDOW][8][8];
    for (int x = 0; x < WINDOW; x++)
        for (int y = 0; y < WINDOW; y++)
            for (int z = 0; z < 8; z++) {
                uint32_t up = out[x][y] >> (REACH + z), down = out[x][y] << (31 - REACH - z);
                int      a = up ? __builtin_ctz(up) : WINDOW, b = down ? __builtin_clz(down) : WINDOW;
                a = a < b ? a : b;
                along_z[x][y][z] = (int16_t)(a <= REACH ? a * a : NONE);
            }
    for (int x = 0; x < WINDOW; x++)
        for (int y = 0; y < 8; y++)
            for (int z = 0; z < 8; z++) {
                int16_t least = NONE;
                for (int k = 0; k <= 2 * REACH; k++) {
                    int16_t d = (int16_t)(along_z[x][y + k][z] + (k - REACH) * (k - REACH));
                    least = d < least ? d : least;
                }
                along_y[x][y][z] = least;
            }
    for (int x = 0; x < 8; x++)
        for (int y = 0; y < 8; y++)
            for (int z = 0; z < 8; z++) {
                int16_t least = NONE;
                for (int k = 0; k <= 2 * REACH; k++) {
                    int16_t d = (int16_t)(along_y[x + k][y][z] + (k - REACH) * (k - REACH));
                    least = d < least ? d : least;
                }
                best[x][y][z] = least;
            }
}

/* Walls inside a sealed pocket, or inside what the closure holds, are not the hull. A voxel whose nearest outside voxel
 * is D away is at least D - sqrt(3) deep (voxels), which pushes such walls below zero and leaves the hull as it is. */
static void deepen(const flood *g, int64_t t, float *s) {
    double   voxel = 1.0 / (g->f->resolution - 1);
    uint32_t out[WINDOW][WINDOW];
    int16_t  best[8][8][8];
    gather_outside(g, g->f->coord + 3 * t, out);
    outside_distance(out, best);
    for (int v = 0; v < CELLS; v++) {
        int   d2 = best[v / 64][v / 8 % 8][v % 8];
        float depth = (float)((sqrt(d2 < REACH * REACH ? d2 : REACH * REACH) - sqrt(3.0)) * voxel);
        if (s[v] <= 0 && -s[v] < depth) s[v] = -depth;
    }
}

/* Across a gap the sign changes where there is no wall: the zero level runs midway between the last voxels of each
 * side, so a voxel is no further from it than from the nearest voxel of the other side. */
static void close_gap(const flood *g, int64_t t, float *s) {
    double   voxel = 1.0 / (g->f->resolution - 1);
    uint32_t out[WINDOW][WINDOW];
    int16_t  best[8][8][8];
    gather_outside(g, g->f->coord + 3 * t, out);
    for (int side = 0; side < 2; side++) {
        for (int x = 0; x < WINDOW && side; x++)
            for (int y = 0; y < WINDOW; y++) out[x][y] ^= (1u << WINDOW) - 1;
        outside_distance(out, best);
        for (int v = 0; v < CELLS; v++) {
            int d2 = best[v / 64][v / 8 % 8][v % 8];
            if (d2 == 0 || d2 > REACH * REACH) continue;
            double d = sqrt(d2);
            if (d >= fabs((double)s[v]) / voxel - 1e-6) continue;
            float to = (float)(fmax(0.5, d - 0.5) * voxel);
            s[v] = s[v] > 0 ? to : -to;
        }
    }
}

static bool has_pocket(const flood *g, int64_t t) {
    uint64_t any = 0;
    for (int x = 0; x < 8; x++) any |= g->open[t].w[x] & ~g->seen[t].w[x];
    return any != 0;
}

/* An inside voxel beside a far tile that was reached: no wall is near enough to be between them. */
static bool has_leak(const flood *g) {
    bool leak = false;
#pragma omp parallel for reduction(|| : leak)
    for (int64_t t = 0; t < g->f->n_tiles; t++) {
        const int32_t *c = g->f->coord + 3 * t;
        for (int d = 0; d < 6; d++) {
            int n[3] = {c[0], c[1], c[2]};
            n[d / 2] += d % 2 ? 1 : -1;
            if (n[d / 2] < 0 || n[d / 2] >= g->T) continue;
            int64_t at = place(g, n[0], n[1], n[2]);
            if (g->f->tile_at[at] >= 0 || !g->far_seen[at]) continue;
            mask border = across(&FULL, d ^ 1); /* the voxels of this tile that touch the neighbour */
            for (int x = 0; x < 8; x++) leak = leak || (border.w[x] & ~g->open[t].w[x]);
        }
    }
    return leak;
}

/* What is not seen becomes inside. */
static void fill_pockets(flood *g, uint8_t *to_deepen) {
    sdf_field *f = g->f;
    int        T = g->T;
    for (int64_t t = 0; t < f->n_tiles; t++) {
        if (f->mark[t] & TILE_CLOSED) to_deepen[t] = 1;
        if (!has_pocket(g, t)) continue;
        const int32_t *c = f->coord + 3 * t;
        for (int d = 0; d < 27; d++) {
            int x = c[0] + d / 9 - 1, y = c[1] + d / 3 % 3 - 1, z = c[2] + d % 3 - 1;
            if (x < 0 || y < 0 || z < 0 || x >= T || y >= T || z >= T) continue;
            int32_t n = f->tile_at[place(g, x, y, z)];
            if (n >= 0) to_deepen[n] = 1;
        }
        for (int v = 0; v < CELLS; v++)
            if ((g->open[t].w[v / 64] & ~g->seen[t].w[v / 64]) >> v % 64 & 1) {
                f->s[CELLS * t + v] *= -1;
                f->n_pocket++;
            }
    }
}

bool sdf_flood(sdf_field *f, bool *leaks) {
    int      T = f->resolution / 8;
    int64_t  n_places = (int64_t)T * T * T;
    flood    g = {f,
                  T,
                  calloc((size_t)f->n_tiles + 1, sizeof(mask)),
                  calloc((size_t)f->n_tiles + 1, sizeof(mask)),
                  calloc((size_t)n_places, 1),
                  malloc((size_t)n_places * 8),
                  0};
    uint8_t *to_deepen = calloc((size_t)f->n_tiles + 1, 1);
    bool     good = g.open && g.seen && g.far_seen && g.stack && to_deepen, closed = false;
    *leaks = false;
    if (good) {
#pragma omp parallel for reduction(|| : closed)
        for (int64_t t = 0; t < f->n_tiles; t++) {
            closed = closed || f->mark[t];
            for (int v = 0; v < CELLS; v++)
                if (f->s[CELLS * t + v] > 0) g.open[t].w[v / 64] |= 1ull << v % 64;
        }
        run(&g);
        *leaks = closed && has_leak(&g);
    }
    if (good && !*leaks) {
        fill_pockets(&g, to_deepen);
#pragma omp parallel for schedule(dynamic, 16)
        for (int64_t t = 0; t < f->n_tiles; t++) {
            if (to_deepen[t]) deepen(&g, t, f->s + CELLS * t);
            if (f->mark[t] & TILE_DOUBT) close_gap(&g, t, f->s + CELLS * t);
        }
        for (int64_t i = 0; i < n_places; i++)
            if (f->tile_at[i] < 0) f->tile_at[i] = g.far_seen[i] ? -1 : -2;
    }
    free(g.open), free(g.seen), free(g.far_seen), free(g.stack), free(to_deepen);
    return good;
}
