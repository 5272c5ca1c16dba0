#include "data/symmetry.h"

#include <string.h>
#include "sparse/grid.h"

static const int permutation[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};

/* Where old place `from` (each axis in [0,n)) goes. */
static void turn(int g, int n, const int from[3], int to[3]) {
    for (int a = 0; a < 3; a++) {
        int x = from[permutation[g / 8][a]];
        to[a] = g >> a & 1 ? n - 1 - x : x;
    }
}

int upright_symmetry(int i) {
    int swapped = i & 4 ? 5 : 0; /* first and third axis */
    return 8 * swapped + (i & 1) + (i & 2) * 2;
}

void sample_turn(sample *s, int resolution, int g) {
    int      source[TILE_CELLS]; /* new cell <- old cell */
    uint16_t value[TILE_CELLS];
    uint8_t  sharp[TILE_SHARP_BYTES];
    CHECK(g >= 0 && g < CUBE_SYMMETRIES, "symmetry %d of the cube", g);
    for (int c = 0; c < TILE_CELLS; c++) {
        int from[3], to[3];
        morton_decode(c, &from[0], &from[1], &from[2]);
        turn(g, 8, from, to);
        source[morton_encode(to[0], to[1], to[2])] = c;
    }
    for (int64_t t = 0; t < s->n_tiles; t++) {
        uint16_t *coord = s->coord + 3 * t, *v = s->value + t * TILE_CELLS;
        uint8_t  *bits = s->sharp + t * TILE_SHARP_BYTES;
        int       from[3] = {coord[0], coord[1], coord[2]}, to[3];
        turn(g, resolution / 8, from, to);
        for (int a = 0; a < 3; a++) coord[a] = (uint16_t)to[a];
        memcpy(value, v, sizeof value);
        memcpy(sharp, bits, sizeof sharp);
        memset(bits, 0, sizeof sharp);
        for (int c = 0; c < TILE_CELLS; c++) {
            int old = source[c];
            v[c] = value[old];
            bits[c / 8] |= (uint8_t)((sharp[old / 8] >> (old % 8) & 1) << (c % 8));
        }
    }
}
