#include "io/h5_chunks.h"

#include <libdeflate.h>
#include <stdlib.h>
#include <string.h>

enum { SUM_BYTES = 4, BLOCK = 256 };

typedef struct {
    hid_t   table;
    int     rank;
    int64_t rows;           /* of a chunk */
    size_t  width, n_bytes; /* bytes of a number, of a row */
} chunking;

/* What h5_table_create makes, in the type of the caller. */
static bool known(hid_t table, hid_t type, int rank, const hsize_t dims[2], chunking *c) {
    static const H5Z_filter_t want[] = {H5Z_FILTER_SHUFFLE, H5Z_FILTER_DEFLATE, H5Z_FILTER_FLETCHER32};
    hsize_t                   chunk[2] = {0, 0};
    hid_t                     have = H5Dget_type(table), list = H5Dget_create_plist(table);
    bool ok = have >= 0 && list >= 0 && H5Tequal(have, type) > 0 && H5Pget_layout(list) == H5D_CHUNKED &&
              H5Pget_chunk(list, 2, chunk) == rank && (rank == 1 || chunk[1] == dims[1]) && H5Pget_nfilters(list) == 3;
    for (unsigned i = 0; ok && i < 3; i++) {
        unsigned flags, config;
        size_t   none = 0;
        ok = H5Pget_filter2(list, i, &flags, &none, NULL, 0, NULL, &config) == want[i];
    }
    if (ok) {
        size_t width = H5Tget_size(have);
        *c = (chunking){table, rank, (int64_t)chunk[0], width, width * (rank == 1 ? 1 : chunk[1])};
        ok = (width == 1 || width == 2 || width == 4) && chunk[0] > 0;
    }
    if (have >= 0) H5Tclose(have);
    if (list >= 0) H5Pclose(list);
    return ok;
}

/* Fletcher's sum of big-endian 16-bit words modulo 65535, where a swap of bytes is a product by 256: the words are
 * taken as they lie, and the sums are swapped. */
static uint32_t fletcher(const uint8_t *x, size_t n) {
    uint64_t low = 0, high = 0, words = n / 2;
    for (uint64_t at = 0; at < words; at += BLOCK) {
        uint32_t k = (uint32_t)(words - at < BLOCK ? words - at : BLOCK), sum = 0, weighted = 0;
        for (uint32_t i = 0; i < k; i++) {
            uint16_t w;
            memcpy(&w, x + 2 * (at + i), 2);
            sum += w;
            weighted += (k - i) * w;
        }
        high = (high + k * low + weighted) % 65535;
        low = (low + sum) % 65535;
    }
    if (n % 2) {
        low = (low + x[n - 1]) % 65535;
        high = (high + low) % 65535;
    }
    /* 0 stands for bytes that are all 0 only, and a stream is never that */
    uint16_t a = (uint16_t)(low ? low : 65535), b = (uint16_t)(high ? high : 65535);
    return (uint32_t)__builtin_bswap16(b) << 16 | __builtin_bswap16(a);
}

/* n numbers of `width` bytes whose bytes of equal place lie together. */
static void unshuffle(const uint8_t *plane, size_t width, size_t n, uint8_t *out) {
    if (width == 1) {
        memcpy(out, plane, n);
    } else if (width == 2) {
        for (size_t i = 0; i < n; i++) {
            uint16_t v = (uint16_t)(plane[i] | plane[n + i] << 8);
            memcpy(out + 2 * i, &v, 2);
        }
    } else {
        for (size_t i = 0; i < n; i++) {
            uint32_t v = plane[i] | (uint32_t)plane[n + i] << 8 | (uint32_t)plane[2 * n + i] << 16 |
                         (uint32_t)plane[3 * n + i] << 24;
            memcpy(out + 4 * i, &v, 4);
        }
    }
}

/* What a thread works with. */
typedef struct {
    uint8_t                        *stored, *planes, *whole;
    size_t                          room; /* of stored */
    struct libdeflate_decompressor *inflate;
} desk;

static bool fetch(const chunking *c, int64_t chunk, desk *d, size_t *n) {
    hsize_t  offset[2] = {(hsize_t)(chunk * c->rows), 0}, size = 0;
    uint32_t skipped = 0;
    bool     ok;
#pragma omp critical(h5_chunks)
    {
        H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* per thread */
        ok = H5Dget_chunk_storage_size(c->table, offset, &size) >= 0 && size > SUM_BYTES;
        if (ok && size > d->room) {
            d->room = size;
            d->stored = realloc(d->stored, d->room);
            CHECK(d->stored, "no memory for a chunk of %zu bytes", d->room);
        }
        ok = ok && H5Dread_chunk(c->table, H5P_DEFAULT, offset, &skipped, d->stored) >= 0;
    }
    *n = size;
    return ok && skipped == 0;
}

/* The rows of a chunk that are wanted, to their place. */
static bool read_chunk(const chunking *c, int64_t chunk, desk *d, int64_t first, int64_t n, uint8_t *out) {
    size_t   size, all = (size_t)c->rows * c->n_bytes;
    uint32_t sum;
    int64_t  from = chunk * c->rows, end = from + c->rows;
    if (!fetch(c, chunk, d, &size)) return false;
    size -= SUM_BYTES;
    memcpy(&sum, d->stored + size, SUM_BYTES);
    if (sum != fletcher(d->stored, size) ||
        libdeflate_zlib_decompress(d->inflate, d->stored, size, d->planes, all, NULL) != LIBDEFLATE_SUCCESS)
        return false;
    if (from >= first && end <= first + n) {
        unshuffle(d->planes, c->width, all / c->width, out + (size_t)(from - first) * c->n_bytes);
        return true;
    }
    unshuffle(d->planes, c->width, all / c->width, d->whole);
    int64_t low = from > first ? from : first, high = end < first + n ? end : first + n;
    memcpy(out + (size_t)(low - first) * c->n_bytes, d->whole + (size_t)(low - from) * c->n_bytes,
           (size_t)(high - low) * c->n_bytes);
    return true;
}

bool h5_chunks_read(hid_t table, hid_t type, int rank, const hsize_t dims[2], int64_t first, int64_t n, void *out) {
    chunking c;
    bool     failed = false;
    if (!known(table, type, rank, dims, &c)) return false;
    size_t all = (size_t)c.rows * c.n_bytes;
#pragma omp parallel
    {
        desk d = {.planes = malloc(all), .whole = malloc(all), .inflate = libdeflate_alloc_decompressor()};
        CHECK(d.planes && d.whole && d.inflate, "no memory for chunks of %zu bytes", all);
#pragma omp for schedule(dynamic)
        for (int64_t k = first / c.rows; k <= (first + n - 1) / c.rows; k++) {
            bool stop;
#pragma omp atomic read
            stop = failed;
            if (stop || read_chunk(&c, k, &d, first, n, out)) continue;
#pragma omp atomic write
            failed = true;
        }
        libdeflate_free_decompressor(d.inflate);
        free(d.stored);
        free(d.planes);
        free(d.whole);
    }
    return !failed;
}
