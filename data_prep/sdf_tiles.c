/* From the field to what a shard stores: active tiles, half values in Morton order, sharp bits, final order. */
#include "core/half.h"
#include "data_prep/sdf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CELLS = 512, SHARP_BYTES = 64, BLOCK = 8 };

int sdf_morton(int x, int y, int z) {
    int m = 0;
    for (int b = 2; b >= 0; b--) m = m << 3 | (x >> b & 1) << 2 | (y >> b & 1) << 1 | (z >> b & 1);
    return m;
}

uint64_t sdf_order_key(int x, int y, int z, int block) {
    uint64_t c[3] = {(uint64_t)x, (uint64_t)y, (uint64_t)z}, b = (uint64_t)block, key = 0;
    for (int a = 0; a < 3; a++) key = key << 10 | c[a] / b;
    for (int a = 0; a < 3; a++) key = key << 10 | c[a] % b;
    return key;
}

void sdf_tiles_free(sdf_tiles *t) {
    free(t->coord), free(t->value), free(t->sharp);
    *t = (sdf_tiles){0};
}

/* Half of clamp(s/tau, -1, 1); a value inside the band must not round to its end, since n_in counts |value| < 1. */
static uint16_t quantise(float s, double tau) {
    double   v = s / tau;
    uint16_t below_one = 0x3bff;
    if (v >= 1) return f32_to_f16(1.0f);
    if (v <= -1) return f32_to_f16(-1.0f);
    uint16_t h = f32_to_f16((float)v);
    return (h & 0x7fff) > below_one ? (uint16_t)((h & 0x8000) | below_one) : h;
}

typedef struct {
    uint64_t key;
    int64_t  tile;
} entry;

static int by_entry(const void *a, const void *b) {
    const entry *x = a, *y = b;
    return x->key < y->key ? -1 : x->key > y->key;
}

/* Squared distance of p to segment q. */
static double segment_d2(const double p[3], const double *q) {
    double e[3], d[3], ee = 0, ed = 0, out = 0;
    for (int a = 0; a < 3; a++) {
        e[a] = q[3 + a] - q[a];
        d[a] = p[a] - q[a];
        ee += e[a] * e[a];
        ed += e[a] * d[a];
    }
    double t = ee > 0 ? fmin(1, fmax(0, ed / ee)) : 0;
    for (int a = 0; a < 3; a++) out += (d[a] - t * e[a]) * (d[a] - t * e[a]);
    return out;
}

/* Sets the bits of voxels closer than `width` (voxels) to the segment (voxel units), piece by piece so that a long
 * diagonal does not visit its whole bounding box. */
static void mark_segment(const double *seg, double width, int R, const int32_t *row_at, sdf_tiles *t) {
    double len2 = 0;
    for (int a = 0; a < 3; a++) len2 += (seg[3 + a] - seg[a]) * (seg[3 + a] - seg[a]);
    int pieces = (int)(sqrt(len2) / 4) + 1, T = R / 8;
    for (int i = 0; i < pieces; i++) {
        int    lo[3], hi[3];
        double q[6];
        for (int a = 0; a < 3; a++) {
            q[a] = seg[a] + (seg[3 + a] - seg[a]) * i / pieces;
            q[3 + a] = seg[a] + (seg[3 + a] - seg[a]) * (i + 1) / pieces;
            lo[a] = (int)fmax(0, ceil(fmin(q[a], q[3 + a]) - width));
            hi[a] = (int)fmin(R - 1, floor(fmax(q[a], q[3 + a]) + width));
        }
        for (int x = lo[0]; x <= hi[0]; x++)
            for (int y = lo[1]; y <= hi[1]; y++)
                for (int z = lo[2]; z <= hi[2]; z++) {
                    int32_t row = row_at[((int64_t)(x / 8) * T + y / 8) * T + z / 8];
                    if (row < 0 || segment_d2((const double[3]){x, y, z}, q) >= width * width) continue;
                    int m = sdf_morton(x % 8, y % 8, z % 8);
                    t->sharp[(int64_t)SHARP_BYTES * row + m / 8] |= (uint8_t)(1 << m % 8);
                }
    }
}

static void mark_sharp(const surface *s, const sdf_options *o, const int32_t *row_at, sdf_tiles *t) {
    int R = o->resolution;
    for (int64_t e = 0; e < s->n_sharp; e++) {
        double q[6];
        for (int a = 0; a < 6; a++) q[a] = (s->sharp[6 * e + a] + 0.5) * (R - 1);
        mark_segment(q, o->sharp_voxels, R, row_at, t);
    }
    for (int64_t r = 0; r < t->n_tiles; r++) /* only voxels of the band count */
        for (int m = 0; m < CELLS; m++)
            if ((t->value[CELLS * r + m] & 0x7fff) >= 0x3c00)
                t->sharp[SHARP_BYTES * r + m / 8] &= (uint8_t) ~(1 << m % 8);
}

bool sdf_tiles_build(const sdf_field *f, const surface *s, const sdf_options *o, const char *name, sdf_tiles *t,
                     status *st) {
    int      T = f->resolution / 8, place[CELLS];
    entry   *order = malloc((size_t)(f->n_tiles + 1) * sizeof *order);
    int32_t *row_at = malloc((size_t)T * T * T * 4);
    *t = (sdf_tiles){0};
    for (int64_t i = 0; order && i < f->n_tiles; i++) {
        bool           active = false;
        const int32_t *c = f->coord + 3 * i;
        for (int v = 0; v < CELLS && !active; v++) active = fabs((double)f->s[CELLS * i + v]) < f->tau;
        if (active) order[t->n_tiles++] = (entry){sdf_order_key(c[0], c[1], c[2], BLOCK), i};
    }
    t->coord = malloc((size_t)t->n_tiles * 6 + 1);
    t->value = malloc((size_t)t->n_tiles * CELLS * 2 + 1);
    t->sharp = calloc((size_t)t->n_tiles * SHARP_BYTES + 1, 1);
    if (!order || !row_at || !t->coord || !t->value || !t->sharp) {
        free(order), free(row_at);
        sdf_tiles_free(t);
        return status_set(st, ST_DATA, "%s: out of memory for its tiles", name);
    }
    qsort(order, (size_t)t->n_tiles, sizeof *order, by_entry);
    memset(row_at, 0xff, (size_t)T * T * T * 4);
    for (int v = 0; v < CELLS; v++) place[v] = sdf_morton(v / 64, v / 8 % 8, v % 8);
    for (int64_t r = 0; r < t->n_tiles; r++) {
        const int32_t *c = f->coord + 3 * order[r].tile;
        const float   *from = f->s + CELLS * order[r].tile;
        row_at[((int64_t)c[0] * T + c[1]) * T + c[2]] = (int32_t)r;
        for (int a = 0; a < 3; a++) t->coord[3 * r + a] = (uint16_t)c[a];
        for (int v = 0; v < CELLS; v++) t->value[CELLS * r + place[v]] = quantise(from[v], f->tau);
    }
    mark_sharp(s, o, row_at, t);
    free(order), free(row_at);
    return true;
}
