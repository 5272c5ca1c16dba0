/* Sorted (key, row) pairs: the one sort behind tiles, blocks and windows. */
#pragma once
#include "core/base.h"

/* Coordinates are below this, so that three of them (and one step to either side) fit a 64-bit key. */
#define COORD_LIMIT (1 << 20)

/* Loops over more rows than this are shared out over threads. */
enum { SERIAL_ROWS = 8192 };

typedef struct {
    uint64_t key;
    int32_t  row;
} key_row;

/* Ascending by (key, row), in place; `spare` has room for n pairs. Least significant byte first, bytes that do not
 * vary are skipped. Rows must come in ascending order. */
void sort_keys(key_row *a, key_row *spare, int64_t n);

/* Place of the first of n sorted pairs whose key is not below `key`; n: there is none. */
int64_t keys_not_below(const key_row *sorted, int64_t n, uint64_t key);

/* Three coordinates, each offset by one so that a step down does not borrow from the next field. */
static inline uint64_t coord_key(int64_t x, int64_t y, int64_t z) {
    return (uint64_t)(x + 1) << 42 | (uint64_t)(y + 1) << 21 | (uint64_t)(z + 1);
}

/* The rows of coord (n,3) i32 in samples: fatal unless sample_first (B+1) i32 runs from 0 to n without falling and all
 * coordinates are in 0 .. COORD_LIMIT-1. */
void coords_check(const char *what, const int32_t *coord, int64_t n, const int32_t *sample_first, int64_t n_samples);
