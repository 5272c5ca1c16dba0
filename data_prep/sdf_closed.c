/* Signs of the walls of a closure (closure.h) in one tile. Two voxels whose distances to the walls add up to more than
 * the way between them lie on the same side; so the tile falls into few clumps, and one winding number decides each.
 * Where a gap lets a clump through, its numbers differ or are no integers: then every voxel is asked. */
#include "data_prep/sdf.h"
#include "data_prep/sdf_closed.h"

#include <limits.h>
#include <math.h>
#include <string.h>

enum { CELLS = 512, ASK = 3, ASK_CAREFUL = 12 };
static const double CLEAR = 0.25;

static double number_of(const closure *c, const double center[3], double voxel, int v) {
    const double p[3] = {center[0] + (v / 64 - 3.5) * voxel, center[1] + (v / 8 % 8 - 3.5) * voxel,
                         center[2] + (v % 8 - 3.5) * voxel};
    return winding_at(&c->number, p);
}

static int way2(int a, int b) {
    int x = a / 64 - b / 64, y = a / 8 % 8 - b / 8 % 8, z = a % 8 - b % 8;
    return x * x + y * y + z * z;
}

/* The voxels on one side with `seed`, from those not yet taken; returns their number. */
static int collect(const double *d, int seed, uint8_t *taken, int16_t *clump) {
    static const double LEN[4] = {0, 1, 1.4142135623730951, 1.7320508075688772};
    int                 n = 0;
    clump[n++] = (int16_t)seed;
    taken[seed] = 1;
    for (int i = 0; i < n; i++) {
        int v = clump[i], x = v / 64, y = v / 8 % 8, z = v % 8;
        for (int a = x > 0 ? x - 1 : 0; a <= (x < 7 ? x + 1 : 7); a++)
            for (int b = y > 0 ? y - 1 : 0; b <= (y < 7 ? y + 1 : 7); b++)
                for (int c = z > 0 ? z - 1 : 0; c <= (z < 7 ? z + 1 : 7); c++) {
                    int o = 64 * a + 8 * b + c;
                    if (taken[o]) continue;
                    if (!(d[v] + d[o] > LEN[(a != x) + (b != y) + (c != z)] + 1e-6)) continue;
                    taken[o] = 1;
                    clump[n++] = (int16_t)o;
                }
    }
    return n;
}

static bool is_clear(double w) {
    return fabs(w - nearbyint(w)) < CLEAR;
}

int sdf_closed_signs(const closure *c, const double center[3], double voxel, const double *d2, bool careful,
                     uint8_t *inside) {
    double  d[CELLS];
    uint8_t taken[CELLS] = {0};
    int16_t clump[CELLS];
    int     doubt = 0;
    for (int v = 0; v < CELLS; v++) d[v] = sqrt(d2[v]);
    for (int v = 0; v < CELLS; v++) {
        if (taken[v]) continue;
        int    n = collect(d, v, taken, clump), n_ask = careful ? ASK_CAREFUL : ASK, deepest = v, first = 0;
        int    away[CELLS];
        double w = 0;
        bool   agree = true;
        for (int i = 1; i < n; i++)
            if (d[clump[i]] > d[deepest]) deepest = clump[i];
        for (int i = 0; i < n; i++) away[i] = INT_MAX;
        for (int k = 0, at = deepest; k < n_ask && k < n && agree; k++) { /* next: the furthest from all before */
            double own = number_of(c, center, voxel, at);
            int    furthest = 0;
            if (k == 0) w = own, first = (int)nearbyint(own);
            agree = is_clear(own) && (int)nearbyint(own) == first;
            for (int i = 0; i < n; i++) {
                int a = way2(clump[i], at);
                away[i] = a < away[i] ? a : away[i];
                if (away[i] > away[furthest]) furthest = i;
            }
            at = clump[furthest];
        }
        for (int i = 0; i < n; i++) {
            double own = agree || n == 1 ? w : number_of(c, center, voxel, clump[i]);
            inside[clump[i]] = fabs(own) >= 0.5;
            doubt += !is_clear(own);
        }
    }
    return doubt;
}
