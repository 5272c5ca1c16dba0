/* Large tables decoded chunk by chunk, against HDF5's own filters; and chunks that are damaged. */
#include "harness/harness.h"

#include <stdlib.h>
#include <string.h>
#include "core/rng.h"
#include "io/h5.h"
#include "io/h5_chunks.h"

enum { ROWS = 3000, COLS = 64, CHUNK = 128 };

typedef enum { NOISE, RUNS, TEXT, STEPS, ZERO, KINDS } kind;

static uint32_t draw(uint64_t i) {
    return rng_u32((rng_key){.seed = 11, .purpose = RNG_TEST}, i);
}

static void fill(uint8_t *x, size_t n, kind k) {
    for (size_t i = 0; i < n; i++) switch (k) {
        case NOISE:
            x[i] = (uint8_t)draw(i);
            break;
        case RUNS: /* long equal stretches, now and then another byte */
            x[i] = draw(i) % 97 == 0 ? (uint8_t)draw(i + n) : 7;
            break;
        case TEXT: /* few letters, of unequal frequency */
            x[i] = (uint8_t)('a' + __builtin_ctz(draw(i) | 1u << 20));
            break;
        case STEPS: /* repeats at all distances */
            x[i] = (uint8_t)(i % (3 + i / 5000));
            break;
        default:
            x[i] = 0;
        }
}

static hid_t make_table(hid_t f, const char *name, hid_t type, int cols, int level, const void *data) {
    status st = {0};
    hid_t  t = h5_table_create(f, name, type, cols, CHUNK, level, &st);
    if (t < 0 || !h5_table_append(t, type, ROWS, data, &st)) fail_msg("%s", st.text);
    return t;
}

static bool read_rows(hid_t t, hid_t type, int64_t first, int64_t n, void *out) {
    hsize_t dims[2] = {0, 0};
    hid_t   space = H5Dget_space(t);
    int     rank = H5Sget_simple_extent_dims(space, dims, NULL);
    H5Sclose(space);
    return h5_chunks_read(t, type, rank, dims, first, n, out);
}

/* The bytes of a stored chunk, without Fletcher's sum. */
static uint8_t *stored(hid_t t, int64_t chunk, size_t *n) {
    hsize_t  offset[2] = {(hsize_t)(chunk * CHUNK), 0}, size = 0;
    uint32_t skipped;
    assert_true(H5Dget_chunk_storage_size(t, offset, &size) >= 0);
    uint8_t *x = malloc(size);
    assert_true(H5Dread_chunk(t, H5P_DEFAULT, offset, &skipped, x) >= 0);
    *n = size - 4;
    return x;
}

static void test_tables(void **state) {
    static const int64_t part[][2] = {{0, ROWS}, {0, CHUNK},    {1, CHUNK},       {CHUNK - 1, 2},
                                      {700, 1},  {ROWS - 1, 1}, {129, ROWS - 129}};
    size_t               bytes = (size_t)ROWS * COLS * 4;
    uint8_t             *data = malloc(bytes), *out = malloc(bytes + 8);
    char                 path[256];
    status               st = {0};
    (void)state;
    snprintf(path, sizeof path, "%s/tables.h5", temp_folder());
    hid_t f = h5_file_create(path, &st), type[3] = {H5T_NATIVE_UINT8, h5_half(), H5T_NATIVE_FLOAT};
    for (int k = 0; k < KINDS; k++) {
        fill(data, bytes, (kind)k);
        for (int w = 0; w < 3; w++)
            for (int cols = 0; cols <= COLS; cols += COLS)
                for (int level = 1; level <= 9; level += 4) {
                    char   name[64];
                    size_t row = (size_t)(cols ? cols : 1) << w;
                    snprintf(name, sizeof name, "t%d-%d-%d-%d", k, w, cols, level);
                    hid_t t = make_table(f, name, type[w], cols, level, data);
                    for (size_t p = 0; p < sizeof part / sizeof part[0]; p++) {
                        size_t n = row * (size_t)part[p][1];
                        memset(out, 0xa5, n + 8);
                        /* deflate gives up on noise, and HDF5 stores it: not such a table */
                        bool ok = read_rows(t, type[w], part[p][0], part[p][1], out);
                        if (k != NOISE) assert_true(ok);
                        if (!ok) assert_true(h5_table_rows(t, type[w], part[p][0], part[p][1], out, &st));
                        assert_memory_equal(out, data + row * (size_t)part[p][0], n);
                        for (int i = 0; i < 8; i++) assert_int_equal(out[n + (size_t)i], 0xa5);
                    }
                    H5Dclose(t);
                }
    }
    hid_t plain = make_table(f, "plain", H5T_NATIVE_FLOAT, COLS, 0, data);
    assert_false(read_rows(plain, H5T_NATIVE_FLOAT, 0, ROWS, out)); /* no deflate */
    hid_t other = make_table(f, "other", H5T_NATIVE_FLOAT, COLS, 4, data);
    assert_false(read_rows(other, H5T_NATIVE_INT32, 0, ROWS, out)); /* to be converted */
    H5Dclose(plain);
    H5Dclose(other);
    assert_true(h5_file_finish(f, path, &st));
    free(data);
    free(out);
}

/* A bit of a stored chunk flipped: neither this reader nor h5_table_rows takes it. */
static void test_damage(void **state) {
    size_t   bytes = (size_t)ROWS * COLS * 4, n;
    uint8_t *data = malloc(bytes), *out = malloc(bytes);
    char     path[256];
    status   st = {0};
    (void)state;
    snprintf(path, sizeof path, "%s/damage.h5", temp_folder());
    fill(data, bytes, TEXT);
    hid_t    f = h5_file_create(path, &st), t = make_table(f, "t", H5T_NATIVE_FLOAT, COLS, 4, data);
    uint8_t *x = stored(t, 5, &n);
    for (int k = 0; k < 40; k++) {
        size_t  at = draw((uint64_t)k) % (n + 4);
        hsize_t offset[2] = {5 * CHUNK, 0};
        x[at] ^= 1 << k % 8;
        assert_true(H5Dwrite_chunk(t, H5P_DEFAULT, 0, offset, n + 4, x) >= 0);
        assert_false(read_rows(t, H5T_NATIVE_FLOAT, 0, ROWS, out));
        st = (status){0};
        assert_false(h5_table_rows(t, H5T_NATIVE_FLOAT, 0, ROWS, out, &st));
        assert_int_equal(st.code, ST_DATA);
        assert_true(read_rows(t, H5T_NATIVE_FLOAT, 0, 5 * CHUNK, out)); /* the chunks before it are whole */
        x[at] ^= 1 << k % 8;
    }
    H5Dclose(t);
    free(x);
    free(data);
    free(out);
    h5_file_discard(f, path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tables), cmocka_unit_test(test_damage)};
    return test_exit(cmocka_run_group_tests(tests, NULL, NULL));
}
