/* A cell's Morton code is three octal digits, one bit of each axis in a digit. A symmetry of the cube permutes and
 * mirrors axes, which does the same to every digit: eight numbers say it all. */
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
    int     old[8]; /* digit of the old cell, for the new one's */
    uint8_t bits_of[256];
    CHECK(g >= 0 && g < CUBE_SYMMETRIES, "symmetry %d of the cube", g);
    for (int c = 0; c < 8; c++) {
        int from[3] = {c >> 2 & 1, c >> 1 & 1, c & 1}, to[3];
        turn(g, 2, from, to);
        old[to[0] << 2 | to[1] << 1 | to[2]] = c;
    }
    for (int b = 0; b < 256; b++) {
        bits_of[b] = 0;
        for (int c = 0; c < 8; c++) bits_of[b] |= (uint8_t)((b >> old[c] & 1) << c);
    }
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < s->n_tiles; t++) {
        uint16_t *coord = s->coord + 3 * t, *v = s->value + t * TILE_CELLS, value[TILE_CELLS];
        uint8_t  *bits = s->sharp + t * TILE_SHARP_BYTES, sharp[TILE_SHARP_BYTES];
        int       from[3] = {coord[0], coord[1], coord[2]}, to[3];
        turn(g, resolution / 8, from, to);
        for (int a = 0; a < 3; a++) coord[a] = (uint16_t)to[a];
        memcpy(value, v, sizeof value);
        memcpy(sharp, bits, sizeof sharp);
        for (int c = 0; c < TILE_SHARP_BYTES; c++) { /* two digits; the third is a place in eight */
            int eight = 8 * old[c / 8] + old[c % 8];
            for (int k = 0; k < 8; k++) v[8 * c + k] = value[8 * eight + old[k]];
            bits[c] = bits_of[sharp[eight]];
        }
    }
}
