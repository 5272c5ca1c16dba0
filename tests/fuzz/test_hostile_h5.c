/* Shards made to hurt: what HDF5 allows and no shard has. Each is opened, read whole and checked in a child with little
 * memory and time; it is refused with one line, and nothing outside the file is read. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/half.h"
#include "data/shard.h"
#include "harness/harness.h"
#include "io/atomic_file.h"
#include "io/h5.h"
#include "train/fixture.h"

static char good[PATH_CAP], bad[PATH_CAP];

static int set_up(void **state) {
    fixture_spec spec = {.n_samples = 1, .per_shard = 1, .resolution = 16, .vae = 7};
    (void)state;
    fixture_write(temp_folder(), &spec);
    snprintf(good, sizeof good, "%.400s/shards/part-0.h5", temp_folder());
    snprintf(bad, sizeof bad, "%.400s/bad.h5", temp_folder());
    return 0;
}

/* ---- ways to hurt ------------------------------------------------------------------------------------------------ */

static void replace_link(hid_t f, const char *name) {
    assert_true(H5Ldelete(f, name, H5P_DEFAULT) >= 0);
}

static void put(hid_t f, const char *name, hid_t type, hid_t space, hid_t dcpl) {
    replace_link(f, name);
    hid_t d = H5Dcreate2(f, name, type, space, H5P_DEFAULT, dcpl, H5P_DEFAULT);
    if (d < 0) fail_msg("HDF5 does not make this %s", name);
    H5Dclose(d);
}

static void link_loop(hid_t f) {
    replace_link(f, "sample/id");
    assert_true(H5Lcreate_soft("/sample/id", f, "sample/id", H5P_DEFAULT, H5P_DEFAULT) >= 0);
}
static void link_chain(hid_t f) {
    replace_link(f, "tile/coord");
    assert_true(H5Lcreate_soft("/tile/b", f, "tile/coord", H5P_DEFAULT, H5P_DEFAULT) >= 0);
    assert_true(H5Lcreate_soft("/tile/coord", f, "tile/b", H5P_DEFAULT, H5P_DEFAULT) >= 0);
}
static void link_dangling(hid_t f) {
    replace_link(f, "tile/value");
    assert_true(H5Lcreate_soft("/nowhere", f, "tile/value", H5P_DEFAULT, H5P_DEFAULT) >= 0);
}
static void link_passwd(hid_t f) {
    replace_link(f, "tile/value");
    assert_true(H5Lcreate_external("/etc/passwd", "/x", f, "tile/value", H5P_DEFAULT, H5P_DEFAULT) >= 0);
}
/* Good data, but another file's. */
static void link_other_file(hid_t f) {
    replace_link(f, "sample/id");
    assert_true(H5Lcreate_external(good, "/sample/id", f, "sample/id", H5P_DEFAULT, H5P_DEFAULT) >= 0);
}
static void group_in_itself(hid_t f) {
    replace_link(f, "tile/value");
    assert_true(H5Lcreate_hard(f, "tile", f, "tile/value", H5P_DEFAULT, H5P_DEFAULT) >= 0);
}
static void raw_passwd(hid_t f) {
    hsize_t n = 1;
    hid_t   space = H5Screate_simple(1, &n, NULL), dcpl = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(dcpl, "/etc/passwd", 0, 8);
    put(f, "sample/id", H5T_STD_U64LE, space, dcpl);
}
static void virtual_passwd(hid_t f) {
    hsize_t n = 1;
    hid_t   space = H5Screate_simple(1, &n, NULL), dcpl = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_virtual(dcpl, space, good, "/sample/id", space);
    put(f, "sample/id", H5T_STD_U64LE, space, dcpl);
}
static void shaped(hid_t f, const char *name, hid_t type, int rank, hsize_t rows, hsize_t cols, hsize_t chunk) {
    hsize_t dims[2] = {rows, cols}, c[2] = {chunk, cols};
    hsize_t most[2] = {H5S_UNLIMITED, cols};
    hid_t   space = H5Screate_simple(rank, dims, most), dcpl = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(dcpl, rank, c);
    put(f, name, type, space, dcpl);
}
static void set_number(hid_t f, const char *name, int64_t v) {
    hid_t a = H5Aopen(f, name, H5P_DEFAULT);
    assert_true(a >= 0 && H5Awrite(a, H5T_NATIVE_INT64, &v) >= 0);
    H5Aclose(a);
}
static void huge_table(hid_t f) {
    set_number(f, "n_samples", (int64_t)1 << 30);
    shaped(f, "sample/id", H5T_STD_U64LE, 1, (hsize_t)1 << 30, 0, 1 << 20);
}
static void many_chunks(hid_t f) {
    set_number(f, "n_tiles", (int64_t)1 << 60);
    shaped(f, "tile/coord", H5T_STD_U16LE, 2, (hsize_t)1 << 60, 3, 1);
}
static void huge_chunk(hid_t f) {
    shaped(f, "tile/value", H5T_STD_U16LE, 2, 1, 512, (hsize_t)1 << 21);
}
/* 64 MB of zeros, deflated twice: some hundred bytes. */
static void bomb(hid_t f) {
    enum { ROWS = 8 << 20 };
    hsize_t n = ROWS;
    hid_t   space = H5Screate_simple(1, &n, NULL), dcpl = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(dcpl, 1, &n);
    H5Pset_deflate(dcpl, 9);
    H5Pset_deflate(dcpl, 9);
    set_number(f, "n_samples", ROWS);
    put(f, "sample/id", H5T_STD_U64LE, space, dcpl);
    uint64_t *zero = calloc(ROWS, sizeof *zero);
    hid_t     d = H5Dopen2(f, "sample/id", H5P_DEFAULT);
    assert_true(zero && d >= 0 && H5Dwrite(d, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, zero) >= 0);
    assert_true(H5Dget_storage_size(d) < 4096);
    H5Dclose(d);
    free(zero);
}
static void negative_samples(hid_t f) {
    set_number(f, "n_samples", -1);
}
static void most_samples(hid_t f) {
    set_number(f, "n_samples", INT64_MAX);
}
static void negative_resolution(hid_t f) {
    set_number(f, "resolution", -8);
}
static void id_as_float(hid_t f) {
    shaped(f, "sample/id", H5T_IEEE_F64LE, 1, 1, 0, 1);
}
static void id_as_text(hid_t f) {
    hid_t t = H5Tcopy(H5T_C_S1);
    H5Tset_size(t, H5T_VARIABLE);
    shaped(f, "sample/id", t, 1, 1, 0, 1);
}
static void id_as_group(hid_t f) {
    replace_link(f, "sample/id");
    hid_t g = H5Gcreate2(f, "sample/id", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(g >= 0);
}
static void source_variable(hid_t f) {
    hid_t t = H5Tcopy(H5T_C_S1);
    H5Tset_size(t, H5T_VARIABLE);
    shaped(f, "sample/source", t, 1, 1, 0, 1);
}
static void id_without_space(hid_t f) {
    put(f, "sample/id", H5T_STD_U64LE, H5Screate(H5S_NULL), H5P_DEFAULT);
}
static void id_of_rank_32(hid_t f) {
    hsize_t dims[32];
    for (int i = 0; i < 32; i++) dims[i] = 1;
    put(f, "sample/id", H5T_STD_U64LE, H5Screate_simple(32, dims, NULL), H5P_DEFAULT);
}
static void text_attribute(hid_t f) {
    hid_t t = H5Tcopy(H5T_C_S1);
    H5Tset_size(t, 1 << 15);
    H5Adelete(f, "format");
    hid_t a = H5Acreate2(f, "format", t, H5Screate(H5S_SCALAR), H5P_DEFAULT, H5P_DEFAULT);
    char *text = malloc(1 << 15);
    memset(text, 'd', 1 << 15);
    assert_true(a >= 0 && text && H5Awrite(a, t, text) >= 0);
    free(text);
}
/* A value of the first tile's first cell, or its place. */
static void poke(hid_t f, const char *name, uint16_t v, hsize_t row, hsize_t col) {
    hid_t   d = H5Dopen2(f, name, H5P_DEFAULT), space = H5Dget_space(d);
    hsize_t start[2] = {row, col}, one[2] = {1, 1};
    hid_t   memory = H5Screate_simple(2, one, NULL), type = H5Dget_type(d);
    assert_true(H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, one, NULL) >= 0 &&
                H5Dwrite(d, type, memory, space, H5P_DEFAULT, &v) >= 0);
    H5Dclose(d);
}
static void value_nan(hid_t f) {
    poke(f, "tile/value", 0x7e00, 0, 0);
}
static void coord_far(hid_t f) {
    poke(f, "tile/coord", 65535, 0, 0);
}

static void spoil(void (*how)(hid_t f)) {
    uint8_t *bytes;
    int64_t  n;
    status   st = {0};
    assert_true(read_whole_file(good, 1 << 24, &bytes, &n, &st) && remove_tree(bad, &st) &&
                atomic_write(bad, bytes, n, &st));
    free(bytes);
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(fapl, H5F_LIBVER_V110, H5F_LIBVER_LATEST);
    H5Pset_fclose_degree(fapl, H5F_CLOSE_STRONG);
    hid_t f = H5Fopen(bad, H5F_ACC_RDWR, fapl);
    assert_true(f >= 0);
    how(f);
    assert_true(H5Fclose(f) >= 0);
    H5Pclose(fapl);
}

/* ---- what is made of it ------------------------------------------------------------------------------------------ */

/* In the child: 1 when it was refused in good order, 0 when it was taken. */
static int read_whole(char text[512]) {
    shard   s;
    status  st = {0};
    int64_t n_bad;
    bool    ok = shard_open(&s, bad, &st);
    if (ok) {
        for (int64_t i = 0; i < s.n_samples && ok; i++) {
            sample x;
            ok = shard_read_sample(&s, i, true, &x, &st);
            if (ok) sample_free(&x);
        }
        shard_close(&s);
    }
    ok = ok && shard_check(bad, &n_bad, &st);
    snprintf(text, 512, "%s", st.text);
    return ok ? 0 : st.code == ST_DATA || st.code == ST_NO_INPUT ? 1 : 2;
}

static void expect_refused(const char *what, bool refused) {
    int  ends[2], ended;
    char text[512] = "";
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit cpu = {20, 20};
        setrlimit(RLIMIT_CPU, &cpu);
#ifndef __SANITIZE_ADDRESS__
        struct rlimit memory = {(rlim_t)1 << 30, (rlim_t)1 << 30};
        setrlimit(RLIMIT_AS, &memory);
#endif
        int code = read_whole(text);
        if (write(ends[1], text, sizeof text) < 0) code = 3;
        _exit(code);
    }
    close(ends[1]);
    if (read(ends[0], text, sizeof text) < 0) text[0] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(pid, &ended, 0), pid);
    if (!WIFEXITED(ended) || WEXITSTATUS(ended) != (refused ? 1 : 0) || strchr(text, '\n') ||
        (refused && !strstr(text, "bad.h5")))
        fail_msg("%s: %s %d, \"%s\"", what, WIFEXITED(ended) ? "code" : "signal",
                 WIFEXITED(ended) ? WEXITSTATUS(ended) : WTERMSIG(ended), text);
}

static void nothing(hid_t f) {
    (void)f;
}

static void test_hostile(void **state) {
    (void)state;
#define CASE(f)                                                                                                        \
    { #f, f }
    static const struct {
        const char *name;
        void (*how)(hid_t f);
    } cases[] = {CASE(link_loop),        CASE(link_chain),      CASE(link_dangling),       CASE(link_passwd),
                 CASE(link_other_file),  CASE(group_in_itself), CASE(raw_passwd),          CASE(virtual_passwd),
                 CASE(huge_table),       CASE(many_chunks),     CASE(huge_chunk),          CASE(bomb),
                 CASE(negative_samples), CASE(most_samples),    CASE(negative_resolution), CASE(id_as_float),
                 CASE(id_as_text),       CASE(id_as_group),     CASE(source_variable),     CASE(id_without_space),
                 CASE(id_of_rank_32),    CASE(text_attribute),  CASE(value_nan),           CASE(coord_far)};
    spoil(nothing);
    expect_refused("the file as it is", false);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        print_message("%s\n", cases[i].name);
        spoil(cases[i].how);
        expect_refused(cases[i].name, true);
    }
}

/* Cut at every 16th byte of the head, and all over. */
static void test_cut(void **state) {
    uint8_t *bytes;
    int64_t  n;
    status   st = {0};
    (void)state;
    assert_true(read_whole_file(good, 1 << 24, &bytes, &n, &st));
    for (int64_t to = 0; to < n; to += to < 512 ? 16 : n / 40 + 1) {
        assert_true(remove_tree(bad, &st) && atomic_write(bad, bytes, to, &st));
        expect_refused("a cut file", true);
    }
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_hostile), cmocka_unit_test(test_cut)};
    return cmocka_run_group_tests_name("hostile_h5", tests, set_up, NULL);
}
