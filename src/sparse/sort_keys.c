#include "sparse/sort_keys.h"

#include <string.h>

void sort_keys(key_row *a, key_row *spare, int64_t n) {
    uint64_t any = 0, all = ~(uint64_t)0;
    for (int64_t i = 0; i < n; i++) {
        any |= a[i].key;
        all &= a[i].key;
    }
    uint64_t varies = any & ~all;
    key_row *from = a, *to = spare;
    for (int shift = 0; shift < 64; shift += 8) {
        if (!(varies >> shift & 255)) continue;
        int64_t start[257] = {0};
        for (int64_t i = 0; i < n; i++) start[(from[i].key >> shift & 255) + 1]++;
        for (int d = 0; d < 256; d++) start[d + 1] += start[d];
        for (int64_t i = 0; i < n; i++) to[start[from[i].key >> shift & 255]++] = from[i];
        key_row *t = from;
        from = to;
        to = t;
    }
    if (from != a) memcpy(a, from, (size_t)n * sizeof *a);
}

int64_t keys_not_below(const key_row *sorted, int64_t n, uint64_t key) {
    int64_t lo = 0, hi = n;
    while (lo < hi) {
        int64_t mid = (lo + hi) / 2;
        if (sorted[mid].key < key)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

void coords_check(const char *what, const int32_t *coord, int64_t n, const int32_t *sample_first, int64_t n_samples) {
    CHECK(n_samples >= 0 && sample_first[0] == 0 && sample_first[n_samples] == n,
          "%s: samples cover rows %d..%d of %lld", what, sample_first[0], sample_first[n_samples], (long long)n);
    for (int64_t s = 0; s < n_samples; s++)
        CHECK(sample_first[s] <= sample_first[s + 1], "%s: sample %lld starts at row %d and ends at row %d", what,
              (long long)s, sample_first[s], sample_first[s + 1]);
    for (int64_t i = 0; i < n; i++) {
        const int32_t *p = coord + 3 * i;
        for (int d = 0; d < 3; d++)
            CHECK(p[d] >= 0 && p[d] < COORD_LIMIT, "%s: row %lld has coordinate (%d,%d,%d), allowed are 0..%d", what,
                  (long long)i, p[0], p[1], p[2], COORD_LIMIT - 1);
    }
}
