#include "sparse/grid.h"

#include <string.h>

#include "sparse/sort_keys.h"

void grid_tensors(grid *g, tensor_visit f, void *user) {
    tensor_visit_given(&g->nb, f, user);
    tensor_visit_given(&g->first, f, user);
    tensor_visit_given(&g->mask, f, user);
    tensor_visit_given(&g->sample_first, f, user);
}

static void check_tables(const char *what, const arena *a, const tensor *coord, const tensor *sample_first) {
    char text[96];
    CHECK(!a->counting && a->dev == DEV_CPU, "%s: index tables need host memory, arena %s has none", what, a->name);
    CHECK(coord->dt == DT_I32 && coord->dev == DEV_CPU && coord->n_dims == 2 && coord->dim[1] == 3,
          "%s: coord is %s, (n,3) i32 wanted", what, tensor_describe(coord, text));
    CHECK(sample_first->dt == DT_I32 && sample_first->dev == DEV_CPU && sample_first->n_dims == 1 &&
              sample_first->dim[0] >= 1,
          "%s: sample_first is %s, (B+1) i32 wanted", what, tensor_describe(sample_first, text));
    coords_check(what, I32(coord), coord->dim[0], I32(sample_first), sample_first->dim[0] - 1);
}

enum { PIECE = 4096 }; /* rows that a thread takes at a time */

/* Both directions of 13 of the 26 neighbours: keys ascend, so do the keys of all neighbours in one direction, and one
 * walk of two pointers finds the matches. */
static void link_neighbors(const key_row *sorted, int64_t n, int32_t *nb) {
#pragma omp parallel for schedule(static) if (n > SERIAL_ROWS)
    for (int64_t begin = 0; begin < n; begin += PIECE)
        for (int k = 0; k < 13; k++) {
            int64_t dx = k % 3 - 1, dy = k / 3 % 3 - 1, dz = k / 9 - 1, end = begin + PIECE < n ? begin + PIECE : n;
            int64_t step = dx * (INT64_C(1) << 42) + dy * (INT64_C(1) << 21) + dz;
            int64_t j = keys_not_below(sorted, n, sorted[begin].key + (uint64_t)step);
            for (int64_t i = begin; i < end; i++) {
                uint64_t target = sorted[i].key + (uint64_t)step;
                while (j < n && sorted[j].key < target) j++;
                if (j == n) break;
                if (sorted[j].key != target) continue;
                nb[(int64_t)sorted[i].row * 27 + k] = sorted[j].row;
                nb[(int64_t)sorted[j].row * 27 + 26 - k] = sorted[i].row;
            }
        }
}

tensor tiles_neighbors(arena *a, const tensor *coord, const tensor *sample_first) {
    check_tables("tiles_neighbors", a, coord, sample_first);
    int64_t        n = coord->dim[0], n_samples = sample_first->dim[0] - 1;
    const int32_t *xyz = I32(coord), *first = I32(sample_first);
    tensor         out = arena_tensor(a, DT_I32, DIMS(n, 27));
    int32_t       *nb = I32(&out);
#pragma omp parallel for schedule(static) if (n > SERIAL_ROWS)
    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < 27; k++) nb[27 * i + k] = k == 13 ? (int32_t)i : -1;

    size_t   mark = arena_mark(a);
    key_row *pair = arena_alloc(a, (size_t)n * sizeof *pair), *spare = arena_alloc(a, (size_t)n * sizeof *pair);
    for (int64_t s = 0; s < n_samples; s++) {
        int64_t n_own = first[s + 1] - first[s];
        for (int64_t i = 0; i < n_own; i++) {
            const int32_t *p = xyz + 3 * (first[s] + i);
            pair[i] = (key_row){coord_key(p[0], p[1], p[2]), (int32_t)(first[s] + i)};
        }
        sort_keys(pair, spare, n_own);
        for (int64_t i = 1; i < n_own; i++) {
            const int32_t *p = xyz + 3 * (int64_t)pair[i].row;
            CHECK(pair[i].key != pair[i - 1].key, "tiles_neighbors: sample %lld has (%d,%d,%d) twice, rows %d and %d",
                  (long long)s, p[0], p[1], p[2], pair[i - 1].row, pair[i].row);
        }
        link_neighbors(pair, n_own, nb);
    }
    arena_reset(a, mark);
    return out;
}

static int n_cells(int side) {
    return side * side * side;
}

static grid grid_new(arena *a, int side, const tensor *nb, const tensor *tile_sample_first) {
    char text[96];
    CHECK(side == 1 || side == 2 || side == 4 || side == 8, "grid: side %d, allowed are 1, 2, 4, 8", side);
    CHECK(!a->counting && a->dev == DEV_CPU, "grid: index tables need host memory, arena %s has none", a->name);
    CHECK(nb->dt == DT_I32 && nb->n_dims == 2 && nb->dim[1] == 27, "grid: neighbours are %s, (T,27) i32 wanted",
          tensor_describe(nb, text));
    int64_t        n_tiles = nb->dim[0], n_samples = tile_sample_first->dim[0] - 1;
    const int32_t *sample = I32(tile_sample_first);
    CHECK(tile_sample_first->dt == DT_I32 && n_samples >= 0 && sample[0] == 0 && sample[n_samples] == n_tiles,
          "grid: samples cover %d of %lld tiles", sample[n_samples], (long long)n_tiles);
    grid g = {.side = side, .n_tiles = n_tiles, .n_samples = (int)n_samples, .nb = *nb};
    g.first = arena_tensor(a, DT_I32, DIMS(n_tiles + 1));
    g.sample_first = arena_tensor(a, DT_I32, DIMS(n_samples + 1));
    return g;
}

/* Row starts from counts already stored in first[1..T], then the starts of samples. */
static void finish_rows(grid *g, const tensor *tile_sample_first) {
    int32_t *first = I32(&g->first);
    int64_t  sum = 0;
    for (int64_t t = 0; t < g->n_tiles; t++) {
        sum += first[t + 1];
        CHECK(sum <= INT32_MAX, "grid: more than %d rows at side %d, split the batch", INT32_MAX, g->side);
        first[t + 1] = (int32_t)sum;
    }
    g->n_rows = sum;
    for (int s = 0; s <= g->n_samples; s++) I32(&g->sample_first)[s] = first[I32(tile_sample_first)[s]];
}

grid grid_dense(arena *a, int side, const tensor *nb, const tensor *tile_sample_first) {
    grid     g = grid_new(a, side, nb, tile_sample_first);
    int32_t *first = I32(&g.first);
    first[0] = 0;
    for (int64_t t = 0; t < g.n_tiles; t++) first[t + 1] = n_cells(side);
    finish_rows(&g, tile_sample_first);
    return g;
}

/* Bit b of the result: byte b of w is not zero. A byte holds the eight children of one cell. */
static uint64_t bytes_set(uint64_t w) {
    const uint64_t low = UINT64_C(0x7f7f7f7f7f7f7f7f);
    uint64_t       top = (((w & low) + low) | w) & ~low; /* the highest bit of each byte */
    return (top >> 7) * UINT64_C(0x0102040810204080) >> 56;
}

/* Byte b of the result: how many bits of byte b of w are set. */
static uint64_t bits_of_bytes(uint64_t w) {
    w -= w >> 1 & UINT64_C(0x5555555555555555);
    w = (w & UINT64_C(0x3333333333333333)) + (w >> 2 & UINT64_C(0x3333333333333333));
    return (w + (w >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
}

static inline int n_words(int side) {
    return side == 8 ? 8 : 1;
}

enum { MOST_PARENTS = 64 }; /* of a tile's cells */

/* pool_first between a level and the one above: a parent's children are one byte of the level's mask. */
static tensor children_first(arena *a, const grid *level, const grid *above) {
    tensor          out = arena_tensor(a, DT_I32, DIMS(above->n_rows + 1));
    const uint64_t *mask = U64(&level->mask);
    const int32_t  *rows = I32(&level->first), *parents = I32(&above->first);
    int32_t        *first = I32(&out);
    int             words = n_words(level->side);
#pragma omp parallel for schedule(static) if (level->n_tiles > SERIAL_ROWS)
    for (int64_t t = 0; t < level->n_tiles; t++) {
        int32_t row = rows[t], own[MOST_PARENTS + 1];
        int     p = 0;
        for (int w = 0; w < words; w++) {
            uint64_t n = bits_of_bytes(mask[t * words + w]);
            for (int b = 0; b < 8; b++, n >>= 8) {
                own[p] = row; /* of the next parent, if this is none */
                row += (int32_t)(n & 255);
                p += (n & 255) != 0;
            }
        }
        memcpy(first + parents[t], own, (size_t)p * sizeof *own);
    }
    first[above->n_rows] = (int32_t)level->n_rows;
    return out;
}

/* A tile's mask at the level above. */
static uint64_t mask_above(const uint64_t *fine, int words) {
    uint64_t m = 0;
    for (int w = 0; w < words; w++) m |= bytes_set(fine[w]) << (8 * w);
    return m;
}

void grid_pyramid(arena *a, const tensor *mask, const tensor *nb, const tensor *tile_sample_first, grid level[4],
                  tensor pool_first[3]) {
    char    text[96];
    int64_t n_tiles = nb->dim[0];
    CHECK(mask->dt == DT_U64 && mask->n_dims == 2 && mask->dim[0] == n_tiles && mask->dim[1] == 8,
          "grid_pyramid: mask is %s, (%lld,8) u64 wanted", tensor_describe(mask, text), (long long)n_tiles);
    for (int l = 0; l < 4; l++) {
        grid *g = &level[l];
        *g = grid_new(a, 8 >> l, nb, tile_sample_first);
        g->mask = l == 0 ? *mask : arena_tensor(a, DT_U64, DIMS(n_tiles, 1));
        const uint64_t *fine = l > 0 ? U64(&level[l - 1].mask) : NULL;
        uint64_t       *own = U64(&g->mask);
        int32_t        *first = I32(&g->first);
        int             words = n_words(g->side), fine_words = l > 0 ? n_words(level[l - 1].side) : 0;
        int64_t         empty = n_tiles;
        first[0] = 0;
#pragma omp parallel for schedule(static) reduction(min : empty) if (n_tiles > SERIAL_ROWS)
        for (int64_t t = 0; t < n_tiles; t++) {
            int n = 0;
            if (fine) own[t] = mask_above(fine + t * fine_words, fine_words);
            for (int w = 0; w < words; w++) n += __builtin_popcountll(own[t * words + w]);
            first[t + 1] = n;
            if (n == 0 && t < empty) empty = t;
        }
        CHECK(empty == n_tiles, "grid_pyramid: tile %lld has no active voxel", (long long)empty);
        finish_rows(g, tile_sample_first);
        if (l > 0) pool_first[l - 1] = children_first(a, &level[l - 1], g);
    }
}

/* ---- neighbour rows ------------------------------------------------------------------------------------------- */

/* One axis of a cell's Morton code: cell part and tile step of the neighbours at -1, 0, +1. `bits` are the code bits of
 * this axis; arithmetic on them alone carries from bit to bit as if they stood side by side. */
typedef struct {
    int cell[3], tile[3];
} axis_step;

static inline axis_step step_axis(int cell, int bits) {
    int one = bits & -bits, at = cell & bits;
    return (axis_step){.cell = {(at - one) & bits, at, ((at | ~bits) + one) & bits},
                       .tile = {bits == 0 || at == 0 ? -1 : 0, 0, bits == 0 || at == bits ? 1 : 0}};
}

/* The 27 tiles around one tile: first row, and for masked levels the mask and the rows before each word. */
typedef struct {
    int32_t         base[27];
    const uint64_t *mask[27];
    int32_t         before[27][8];
} tile_around;

static void look_around(const grid *g, int64_t tile, tile_around *o) {
    const int32_t *nb = I32(&g->nb) + tile * 27, *first = I32(&g->first);
    int            words = n_words(g->side);
    for (int t = 0; t < 27; t++) {
        o->base[t] = nb[t] < 0 ? -1 : first[nb[t]];
        if (!g->mask.data || nb[t] < 0) continue;
        o->mask[t] = U64(&g->mask) + (int64_t)nb[t] * words;
        for (int w = 0, n = 0; w < words; w++) {
            o->before[t][w] = n;
            n += __builtin_popcountll(o->mask[t][w]);
        }
    }
}

static inline int32_t row_of(const tile_around *o, bool masked, int t, int cell) {
    if (o->base[t] < 0) return -1;
    if (!masked) return o->base[t] + cell;
    uint64_t word = o->mask[t][cell >> 6], bit = UINT64_C(1) << (cell & 63);
    return word & bit ? o->base[t] + o->before[t][cell >> 6] + __builtin_popcountll(word & (bit - 1)) : -1;
}

static void cell_neighbors(const tile_around *o, bool masked, int cell, const int bits[3], int32_t *out) {
    axis_step x = step_axis(cell, bits[0]), y = step_axis(cell, bits[1]), z = step_axis(cell, bits[2]);
    for (int c = 0, k = 0; c < 3; c++)
        for (int b = 0; b < 3; b++)
            for (int i = 0; i < 3; i++, k++)
                out[k] = row_of(o, masked, 13 + x.tile[i] + 3 * y.tile[b] + 9 * z.tile[c],
                                x.cell[i] | y.cell[b] | z.cell[c]);
}

static int64_t tile_of_row(const grid *g, int64_t row) {
    if (!g->mask.data) return row / n_cells(g->side);
    const int32_t *first = I32(&g->first);
    int64_t        lo = 0, hi = g->n_tiles;
    while (hi - lo > 1) {
        int64_t mid = (lo + hi) / 2;
        if (first[mid] <= row)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

void grid_neighbors(const grid *g, int64_t row0, int64_t n, int32_t *out) {
    CHECK(row0 >= 0 && n >= 0 && row0 + n <= g->n_rows, "grid_neighbors: rows %lld+%lld of %lld", (long long)row0,
          (long long)n, (long long)g->n_rows);
    if (n == 0) return;
    if (g->near) {
        memcpy(out, g->near + 27 * row0, (size_t)(27 * n) * sizeof *out);
        return;
    }
    bool           masked = g->mask.data != NULL;
    int            all = n_cells(g->side) - 1, bits[3] = {0444 & all, 0222 & all, 0111 & all}, words = n_words(g->side);
    const int32_t *first = I32(&g->first);
    tile_around    o;
    for (int64_t tile = tile_of_row(g, row0), row = row0; row < row0 + n; tile++) {
        look_around(g, tile, &o);
        int64_t end = first[tile + 1] < row0 + n ? first[tile + 1] : row0 + n;
        if (!masked) {
            for (; row < end; row++, out += 27) cell_neighbors(&o, false, (int)(row - first[tile]), bits, out);
            continue;
        }
        int64_t skip = row - first[tile];
        for (int w = 0; w < words && row < end; w++)
            for (uint64_t m = U64(&g->mask)[tile * words + w]; m && row < end; m &= m - 1) {
                if (skip-- > 0) continue;
                cell_neighbors(&o, true, 64 * w + __builtin_ctzll(m), bits, out);
                row++;
                out += 27;
            }
    }
}

void grid_remember(arena *a, grid *g) {
    if (!g->mask.data) return;
    int32_t *near = arena_alloc(a, (size_t)(27 * g->n_rows) * sizeof *near);
    grid_neighbors(g, 0, g->n_rows, near);
    g->near = near;
}
