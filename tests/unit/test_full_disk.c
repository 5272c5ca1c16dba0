/* Writing to a file system of 1 MB: an error that names the file, nothing left behind, the space given back. */
#include "core/half.h"
#include "core/rng.h"
#include "data/shard.h"
#include "harness/harness.h"
#include "io/checkpoint_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TILES = 300, N_PARAMS = 1 << 20 };

static char disk[160];

static int mount_disk(void **state) {
    (void)state;
    snprintf(disk, sizeof disk, "%s/small", temp_folder());
    mkdir(disk, 0777);
    if (mount("tmpfs", disk, "tmpfs", 0, "size=1m")) disk[0] = 0;
    return 0;
}

static int unmount_disk(void **state) {
    (void)state;
    return disk[0] ? umount2(disk, MNT_DETACH) : 0;
}

static bool is_there(const char *name) {
    char path[200];
    snprintf(path, sizeof path, "%s/%s", disk, name);
    return access(path, F_OK) == 0;
}

/* 300 KB that do not compress. */
static sample make_sample(int number, int64_t n) {
    char text[32];
    snprintf(text, sizeof text, "shape-%d.obj", number);
    sample s = {.id = hash_text(text), .scale = 1, .n_tiles = n};
    s.source = strdup(text);
    s.category = strdup("");
    s.report = strdup("{}");
    s.coord = calloc((size_t)n * 3, sizeof *s.coord);
    s.value = malloc((size_t)n * TILE_CELLS * sizeof *s.value);
    s.sharp = calloc((size_t)n, TILE_SHARP_BYTES);
    float *f = malloc(sizeof *f * (size_t)n * TILE_CELLS);
    fill_rule(f, n * TILE_CELLS, (uint32_t)number + 1, 2);
    for (int64_t i = 0; i < n * TILE_CELLS; i++) s.value[i] = f32_to_f16(f[i]);
    free(f);
    for (int64_t t = 0; t < n; t++) {
        s.coord[3 * t] = (uint16_t)(t >> 6);
        s.coord[3 * t + 1] = (uint16_t)(t >> 3 & 7);
        s.coord[3 * t + 2] = (uint16_t)(t & 7);
    }
    return s;
}

/* Appends until something fails; true when all fitted. */
static bool write_shard(const char *path, int n_samples, int64_t tiles, status *st) {
    shard_meta    meta = {128, 2.0};
    shard_writer *w = shard_create(path, &meta, st);
    if (!w) fail_msg("%s", st->text);
    bool ok = true;
    for (int i = 0; ok && i < n_samples; i++) {
        sample s = make_sample(i, tiles);
        ok = shard_append(w, &s, st);
        sample_free(&s);
    }
    if (ok) return shard_finish(w, st);
    shard_abandon(w);
    return false;
}

static void shard_on_full_disk(void **state) {
    (void)state;
    if (!disk[0]) skip_because("mounting a small tmpfs needs root");
    char path[200];
    snprintf(path, sizeof path, "%s/x.h5", disk);
    for (int round = 0; round < 2; round++) { /* twice: the first failure must give its space and file back */
        status st = {0};
        if (write_shard(path, 12, TILES, &st)) fail_msg("3.6 MB were written to a disk of 1 MB");
        assert_int_equal(st.code, ST_IO);
        assert_non_null(strstr(st.text, "x.h5"));
        assert_false(is_there("x.h5") || is_there("x.h5.part"));
    }
    status st = {0};
    if (!write_shard(path, 2, 100, &st)) fail_msg("space was not given back: %s", st.text);
    assert_true(is_there("x.h5"));
}

static void checkpoint_on_full_disk(void **state) {
    (void)state;
    if (!disk[0]) skip_because("mounting a small tmpfs needs root");
    float *x = malloc(N_PARAMS * sizeof *x), y;
    fill_rule(x, N_PARAMS, 9, 2);
    ckpt_param    row = {.name = "weight", .rank = 1, .shape = {1000}};
    ckpt_slab     small = {"params", x, 0, 1000}, big = {"params", x, 0, N_PARAMS};
    ckpt_manifest m = {
        .step = 1, .model = "vae", .config = (char[]){"vae:\n  width: 64\n"}, .n_params = 1, .param = &row};
    ckpt_manifest found;
    status        st = {0};
    if (!ckpt_save(disk, &small, 1, &m, &st)) fail_msg("%s", st.text);
    for (int round = 0; round < 2; round++) {
        st = (status){0};
        m.step = 2;
        assert_false(ckpt_save(disk, &big, 1, &m, &st));
        assert_int_equal(st.code, ST_IO);
        assert_non_null(strstr(st.text, "step-2"));
        assert_false(is_there("step-2") || is_there("step-2.part"));
    }
    st = (status){0};
    m.step = 3;
    if (!ckpt_save(disk, &small, 1, &m, &st)) fail_msg("space was not given back: %s", st.text);
    assert_true(ckpt_latest(disk, true, &found, &st));
    assert_int_equal(found.step, 3);
    assert_true(ckpt_read_range(&found, "params", 999, 1, &y, &st) && y == x[999]);
    ckpt_close(&found);
    free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(shard_on_full_disk, mount_disk, unmount_disk),
        cmocka_unit_test_setup_teardown(checkpoint_on_full_disk, mount_disk, unmount_disk)};
    log_init(0, 1, LOG_QUIET);
    return test_exit(cmocka_run_group_tests_name("full_disk", tests, NULL, NULL));
}
