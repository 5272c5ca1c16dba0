#include "sparse/blocks.h"

#include <stdlib.h>
#include <string.h>

#include "sparse/sort_keys.h"

void block_tensors(block_tables *t, tensor_visit f, void *user) {
    tensor *all[] = {&t->sample_first, &t->slc_first,        &t->slc_sample_first, &t->cmp_first,
                     &t->cmp_order,    &t->cmp_sample_first, &t->slc_cmp_first,    &t->cmp_coord,
                     &t->pe_index,     &t->pe_first,         &t->pe_order};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) tensor_visit_given(all[i], f, user);
    grid_tensors(&t->cmp_grid, f, user);
}

void window_tensors(window_tables *w, tensor_visit f, void *user) {
    tensor_visit_given(&w->first, f, user);
    tensor_visit_given(&w->order, f, user);
}

/* Key of R§4.2: block x, y, z, then place in the block x, y, z. `n` bounds the block numbers of one axis. */
static uint64_t block_key(const int32_t *p, int m, uint64_t n) {
    uint64_t u = (uint64_t)m, b = 0, in = 0;
    for (int d = 0; d < 3; d++) {
        b = b * n + (uint64_t)p[d] / u;
        in = in * u + (uint64_t)p[d] % u;
    }
    return b * (u * u * u) + in;
}

static uint64_t n_blocks_axis(int m) {
    return (uint64_t)(COORD_LIMIT - 1) / (uint64_t)m + 1;
}

void blocks_sort(const int32_t *coord, const int32_t *sample_first, int n_samples, int m, int32_t *order) {
    CHECK(m >= 1 && m <= COORD_LIMIT, "blocks_sort: block size %d", m);
    int64_t n = sample_first[n_samples];
    coords_check("blocks_sort", coord, n, sample_first, n_samples);
    key_row *pair = malloc((size_t)(n ? n : 1) * 2 * sizeof *pair);
    CHECK(pair, "blocks_sort: no memory for %lld rows", (long long)n);
    for (int s = 0; s < n_samples; s++) {
        int64_t n_own = sample_first[s + 1] - sample_first[s];
        for (int64_t i = 0; i < n_own; i++) {
            int32_t row = (int32_t)(sample_first[s] + i);
            pair[i] = (key_row){block_key(coord + 3 * (int64_t)row, m, n_blocks_axis(m)), row};
        }
        sort_keys(pair, pair + n, n_own);
        for (int64_t i = 0; i < n_own; i++) order[sample_first[s] + i] = pair[i].row;
    }
    free(pair);
}

static void check_tokens(const char *what, const arena *a, const tensor *coord, const tensor *sample_first) {
    char text[96];
    CHECK(!a->counting && a->dev == DEV_CPU, "%s: index tables need host memory, arena %s has none", what, a->name);
    CHECK(coord->dt == DT_I32 && coord->dev == DEV_CPU && coord->n_dims == 2 && coord->dim[1] == 3,
          "%s: coord is %s, (N,3) i32 wanted", what, tensor_describe(coord, text));
    CHECK(coord->dim[0] <= INT32_MAX, "%s: %lld tokens", what, (long long)coord->dim[0]);
    CHECK(sample_first->dt == DT_I32 && sample_first->n_dims == 1 && sample_first->dim[0] >= 1,
          "%s: sample_first is %s, (B+1) i32 wanted", what, tensor_describe(sample_first, text));
    coords_check(what, I32(coord), coord->dim[0], I32(sample_first), sample_first->dim[0] - 1);
}

/* The cell of (coord + shift) div m that each row lies in, as a key that orders cells by x, y, z; the caller frees. */
static uint64_t *cells_of(const tensor *coord, int m, int shift) {
    const int32_t *xyz = I32(coord);
    int64_t        n = coord->dim[0];
    uint64_t      *cell = malloc((size_t)(n ? n : 1) * sizeof *cell);
    CHECK(cell, "no memory for the cells of %lld rows", (long long)n);
#pragma omp parallel for schedule(static) if (n > SERIAL_ROWS)
    for (int64_t i = 0; i < n; i++) {
        const int32_t *p = xyz + 3 * i;
        cell[i] = coord_key((p[0] + shift) / m, (p[1] + shift) / m, (p[2] + shift) / m);
    }
    return cell;
}

/* Rows grouped by their cells inside outer ranges: starts of the groups, and the first group of each outer range.
 * `order` NULL is the identity; results that are NULL are only counted. */
static int64_t group_ranges(const uint64_t *cell, const int32_t *order, const int32_t *outer, int64_t n_outer,
                            int32_t *start, int32_t *outer_start) {
    int64_t n_groups = 0;
    for (int64_t s = 0; s < n_outer; s++) {
        if (outer_start) outer_start[s] = (int32_t)n_groups;
        uint64_t last = 0; /* no cell's key */
        for (int64_t i = outer[s]; i < outer[s + 1]; i++) {
            uint64_t own = cell[order ? order[i] : i];
            if (own == last) continue;
            last = own;
            if (start) start[n_groups] = (int32_t)i;
            n_groups++;
        }
    }
    if (outer_start) outer_start[n_outer] = (int32_t)n_groups;
    if (start) start[n_groups] = outer[n_outer];
    return n_groups;
}

/* order[i]: the rows of each outer range sorted by their cell, rows of a cell ascending. */
static void group_rows(arena *a, const uint64_t *cell, const int32_t *outer, int64_t n_outer, int32_t *order) {
    int64_t longest = 0;
    for (int64_t s = 0; s < n_outer; s++)
        if (outer[s + 1] - outer[s] > longest) longest = outer[s + 1] - outer[s];
    size_t   mark = arena_mark(a);
    key_row *pair = arena_alloc(a, (size_t)longest * sizeof *pair),
            *spare = arena_alloc(a, (size_t)longest * sizeof *pair);
    for (int64_t s = 0; s < n_outer; s++) {
        int64_t n = outer[s + 1] - outer[s];
        for (int64_t i = 0; i < n; i++) pair[i] = (key_row){cell[outer[s] + i], (int32_t)(outer[s] + i)};
        sort_keys(pair, spare, n);
        for (int64_t i = 0; i < n; i++) order[outer[s] + i] = pair[i].row;
    }
    arena_reset(a, mark);
}

static void check_sorted(const tensor *coord, const tensor *sample_first, int m) {
    const int32_t *xyz = I32(coord), *first = I32(sample_first);
    for (int64_t s = 0; s + 1 < sample_first->dim[0]; s++) {
        int64_t begin = first[s], end = first[s + 1], wrong = end;
#pragma omp parallel for schedule(static) reduction(min : wrong) if (end - begin > SERIAL_ROWS)
        for (int64_t i = begin + 1; i < end; i++)
            if (block_key(xyz + 3 * (i - 1), m, n_blocks_axis(m)) >= block_key(xyz + 3 * i, m, n_blocks_axis(m)) &&
                i < wrong)
                wrong = i;
        const int32_t *p = xyz + 3 * (wrong - 1), *q = p + 3;
        CHECK(wrong == end,
              "blocks_build: rows %lld (%d,%d,%d) and %lld (%d,%d,%d) of sample %lld are %s; sort by blocks of %d",
              (long long)wrong - 1, p[0], p[1], p[2], (long long)wrong, q[0], q[1], q[2], (long long)s,
              memcmp(p, q, 3 * sizeof *p) == 0 ? "the same" : "out of order", m);
    }
}

/* The tables pe_*. */
static void add_places(arena *a, const tensor *coord, int m, block_tables *t) {
    int64_t n = coord->dim[0], places = (int64_t)m * m * m;
    CHECK(places < INT32_MAX, "blocks_build: compression block %d is too large for a position table", m);
    t->pe_index = arena_tensor(a, DT_I32, DIMS(n));
    t->pe_first = arena_tensor(a, DT_I32, DIMS(places + 1));
    t->pe_order = arena_tensor(a, DT_I32, DIMS(n));
    int32_t *index = I32(&t->pe_index), *first = I32(&t->pe_first), *order = I32(&t->pe_order);
    memset(first, 0, (size_t)(places + 1) * sizeof *first);
    for (int64_t i = 0; i < n; i++) {
        const int32_t *p = I32(coord) + 3 * i;
        index[i] = (p[0] % m * m + p[1] % m) * m + p[2] % m;
        first[index[i] + 1]++;
    }
    for (int64_t k = 0; k < places; k++) first[k + 1] += first[k];
    for (int64_t i = 0; i < n; i++) order[first[index[i]]++] = (int32_t)i; /* first[k] becomes first[k+1] */
    memmove(first + 1, first, (size_t)places * sizeof *first);
    first[0] = 0;
}

block_tables blocks_build(arena *a, const tensor *coord, const tensor *sample_first, int m_cmp, int m_slc,
                          bool want_grid) {
    CHECK(m_cmp >= 1 && m_slc >= m_cmp && m_slc % m_cmp == 0 && m_slc <= COORD_LIMIT,
          "blocks_build: compression block %d has to divide selection block %d", m_cmp, m_slc);
    check_tokens("blocks_build", a, coord, sample_first);
    check_sorted(coord, sample_first, m_slc);
    int64_t      n = coord->dim[0], n_samples = sample_first->dim[0] - 1;
    block_tables t = {.n_tokens = n, .n_samples = (int)n_samples, .sample_first = *sample_first};

    const int32_t *sample = I32(sample_first);
    uint64_t      *cell = cells_of(coord, m_slc, 0);
    t.n_slc = group_ranges(cell, NULL, sample, n_samples, NULL, NULL);
    t.slc_first = arena_tensor(a, DT_I32, DIMS(t.n_slc + 1));
    t.slc_sample_first = arena_tensor(a, DT_I32, DIMS(n_samples + 1));
    group_ranges(cell, NULL, sample, n_samples, I32(&t.slc_first), I32(&t.slc_sample_first));
    free(cell);
    for (int64_t s = 0; s < n_samples; s++) {
        int64_t own = I32(&t.slc_sample_first)[s + 1] - I32(&t.slc_sample_first)[s];
        if (own > t.max_slc_per_sample) t.max_slc_per_sample = own;
    }

    t.slc_cmp_first = arena_tensor(a, DT_I32, DIMS(t.n_slc + 1));
    if (m_cmp == m_slc) {
        t.n_cmp = t.n_slc;
        t.cmp_first = t.slc_first;
        t.cmp_sample_first = t.slc_sample_first;
        for (int64_t b = 0; b <= t.n_slc; b++) I32(&t.slc_cmp_first)[b] = (int32_t)b;
    } else {
        const int32_t *slc = I32(&t.slc_first);
        t.cmp_order = arena_tensor(a, DT_I32, DIMS(n));
        int32_t *order = I32(&t.cmp_order);
        cell = cells_of(coord, m_cmp, 0);
        group_rows(a, cell, slc, t.n_slc, order);
        t.n_cmp = group_ranges(cell, order, slc, t.n_slc, NULL, NULL);
        t.cmp_first = arena_tensor(a, DT_I32, DIMS(t.n_cmp + 1));
        group_ranges(cell, order, slc, t.n_slc, I32(&t.cmp_first), I32(&t.slc_cmp_first));
        free(cell);
        t.cmp_sample_first = arena_tensor(a, DT_I32, DIMS(n_samples + 1));
        for (int64_t s = 0; s <= n_samples; s++)
            I32(&t.cmp_sample_first)[s] = I32(&t.slc_cmp_first)[I32(&t.slc_sample_first)[s]];
    }

    t.cmp_coord = arena_tensor(a, DT_I32, DIMS(t.n_cmp, 3));
    for (int64_t j = 0; j < t.n_cmp; j++) {
        int64_t at = I32(&t.cmp_first)[j], row = t.cmp_order.data ? I32(&t.cmp_order)[at] : at;
        for (int d = 0; d < 3; d++) I32(&t.cmp_coord)[3 * j + d] = I32(coord)[3 * row + d] / m_cmp;
    }
    add_places(a, coord, m_cmp, &t);
    if (want_grid) {
        tensor nb = tiles_neighbors(a, &t.cmp_coord, &t.cmp_sample_first);
        t.cmp_grid = grid_dense(a, 1, &nb, &t.cmp_sample_first);
    }
    return t;
}

window_tables windows_build(arena *a, const tensor *coord, const tensor *sample_first, int m_win, int shift,
                            bool rows_are_block_sorted, int m_slc) {
    CHECK(m_win >= 1 && shift >= 0 && m_win <= COORD_LIMIT && shift < COORD_LIMIT, "windows_build: window %d, shift %d",
          m_win, shift);
    check_tokens("windows_build", a, coord, sample_first);
    int64_t        n_samples = sample_first->dim[0] - 1;
    const int32_t *sample = I32(sample_first), *order = NULL;
    window_tables  w = {0};
    bool           rows_are_groups = rows_are_block_sorted && shift == 0 && m_win == m_slc;
    if (rows_are_groups)
        check_sorted(coord, sample_first, m_slc);
    else
        w.order = arena_tensor(a, DT_I32, DIMS(coord->dim[0]));
    uint64_t *cell = cells_of(coord, m_win, shift);
    if (!rows_are_groups) {
        order = I32(&w.order);
        group_rows(a, cell, sample, n_samples, I32(&w.order));
    }
    w.n_windows = group_ranges(cell, order, sample, n_samples, NULL, NULL);
    w.first = arena_tensor(a, DT_I32, DIMS(w.n_windows + 1));
    group_ranges(cell, order, sample, n_samples, I32(&w.first), NULL);
    free(cell);
    return w;
}
