#define _GNU_SOURCE /* memmem */
/* Checkpoints: written by 1, 2, 3 ranks, read by other splits; damage, half saves, pruning, another
 * architecture. */
#include "core/fault.h"
#include "harness/harness.h"
#include "io/checkpoint_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { N_PARAMS = 3 * CKPT_CHUNK + 777, N_NORMS = 5 };

static float *slab(uint32_t seed) {
    float *x = malloc(N_PARAMS * sizeof *x);
    fill_rule(x, N_PARAMS, seed, 2);
    return x;
}

static ckpt_manifest manifest_of(int64_t step) {
    static ckpt_param param[2] = {{.name = "blocks.0.weight", .rank = 2, .shape = {3, CKPT_CHUNK}, .offset = 0},
                                  {.name = "blocks.0.bias", .rank = 1, .shape = {777}, .offset = 3 * CKPT_CHUNK}};
    ckpt_manifest     m = {.step = step,
                           .seed = 0xffffffffffffffffu,
                           .fingerprint = 0x123456789abcdef0u,
                           .model = "vae",
                           .config = "vae:\n  width: 64 # \"ü\"\n",
                           .n_numbers = 2,
                           .number = {{"data_position", 12345}, {"bad_steps", 2}},
                           .n_params = 2,
                           .param = param};
    return m;
}

/* Writes step-N as n ranks would, one after the other; the slabs are cut differently by each n. */
static void save(const char *run, int64_t step, int n_ranks, float *params, float *ema, float *norms) {
    char          part[PATH_CAP];
    status        st = {0};
    ckpt_manifest m = manifest_of(step);
    if (!make_folder(run, &st) || !ckpt_begin(run, step, 1, part, &st)) fail_msg("%s", st.text);
    for (int r = n_ranks - 1; r >= 0; r--) {
        int64_t   lo = (int64_t)N_PARAMS * r / n_ranks, hi = (int64_t)N_PARAMS * (r + 1) / n_ranks, mid = (lo + hi) / 2;
        ckpt_slab s[4] = {{"params", params + lo, lo, hi - lo},
                          {"ema", ema + mid, mid, hi - mid}, /* two ranges of one slab in one part */
                          {"ema", ema + lo, lo, mid - lo},
                          {"clip_norms", norms, 0, N_NORMS}};
        if (!ckpt_write_part(part, r, s, r == 0 ? 4 : 3, NULL, &st)) fail_msg("%s", st.text);
    }
    if (!ckpt_commit(part, n_ranks, &m, NULL, &st)) fail_msg("%s", st.text);
    assert_true(access(part, F_OK) != 0);
}

static void round_trip(void **state) {
    (void)state;
    float *params = slab(1), *ema = slab(2), *got = malloc(N_PARAMS * sizeof *got), norms[N_NORMS] = {1, 2, 3, 4, 5};
    for (int writers = 1; writers <= 3; writers++) {
        char run[160];
        snprintf(run, sizeof run, "%s/run%d", temp_folder(), writers);
        save(run, 100, writers, params, ema, norms);
        ckpt_manifest m;
        status        st = {0};
        if (!ckpt_latest(run, true, &m, &st)) fail_msg("%s", st.text);
        assert_int_equal(m.step, 100);
        assert_true(m.seed == 0xffffffffffffffffu && m.fingerprint == 0x123456789abcdef0u);
        assert_string_equal(m.model, "vae");
        assert_string_equal(m.config, manifest_of(0).config);
        assert_int_equal(ckpt_number_of(&m, "data_position", -1), 12345);
        assert_int_equal(ckpt_number_of(&m, "bad_steps", -1), 2);
        assert_int_equal(ckpt_number_of(&m, "other", -1), -1);
        assert_int_equal(ckpt_slab_count(&m, "params"), N_PARAMS);
        assert_int_equal(ckpt_slab_count(&m, "adam_m"), 0);
        for (int readers = 1; readers <= 4; readers++) {
            poison(got, N_PARAMS * sizeof *got);
            for (int r = 0; r < readers; r++) {
                int64_t lo = (int64_t)N_PARAMS * r / readers, hi = (int64_t)N_PARAMS * (r + 1) / readers;
                if (!ckpt_read_range(&m, readers % 2 ? "params" : "ema", lo, hi - lo, got + lo, &st))
                    fail_msg("%s", st.text);
            }
            assert_memory_equal(got, readers % 2 ? params : ema, N_PARAMS * sizeof *got);
        }
        float small[N_NORMS];
        assert_true(ckpt_read_range(&m, "clip_norms", 0, N_NORMS, small, &st));
        assert_memory_equal(small, norms, sizeof norms);
        assert_true(ckpt_read_range(&m, "params", CKPT_CHUNK - 1, 2, small, &st)); /* over a chunk's border */
        assert_memory_equal(small, params + CKPT_CHUNK - 1, 2 * sizeof(float));
        assert_false(ckpt_read_range(&m, "params", N_PARAMS - 1, 2, small, &st));
        assert_int_equal(st.code, ST_CONFIG);
        ckpt_manifest want = manifest_of(0);
        st = (status){0};
        assert_true(ckpt_match(&m, want.param, want.n_params, &st));
        ckpt_close(&m);
    }
    free(params);
    free(ema);
    free(got);
}

static void flip(const char *path, long at) {
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    if (at < 0) fseek(f, at, SEEK_END);
    if (at >= 0) fseek(f, at, SEEK_SET);
    int c = fgetc(f);
    fseek(f, -1, SEEK_CUR);
    fputc(c ^ 4, f);
    fclose(f);
}

/* Byte offset of a float of the slab in the part file: the pattern is looked for. */
static long find_floats(const char *path, const float *x) {
    FILE *f = fopen(path, "rb");
    fseek(f, 0, SEEK_END);
    long  n = ftell(f);
    char *b = malloc((size_t)n);
    rewind(f);
    assert_int_equal(fread(b, 1, (size_t)n, f), n);
    fclose(f);
    char *at = memmem(b, (size_t)n, x, 16);
    assert_non_null(at);
    long out = at - b;
    free(b);
    return out;
}

static void damage(void **state) {
    (void)state;
    float      *params = slab(3), *ema = slab(4), norms[N_NORMS] = {0}, x[4];
    const char *run = strdup(in_folder("damage"));
    char        path[300];
    save(run, 10, 2, params, ema, norms);
    save(run, 20, 2, params, ema, norms);
    ckpt_manifest m;
    status        st = {0};
    snprintf(path, sizeof path, "%s/step-20/part-00001.h5", run);
    flip(path, find_floats(path, params + 2 * CKPT_CHUNK));
    assert_true(ckpt_latest(run, false, &m, &st)); /* a flipped byte shows on reading */
    assert_int_equal(m.step, 20);
    assert_true(ckpt_read_range(&m, "params", 0, 4, x, &st));
    assert_false(ckpt_read_range(&m, "params", 2 * CKPT_CHUNK, 4, x, &st));
    assert_int_equal(st.code, ST_DATA);
    assert_non_null(strstr(st.text, path));
    assert_non_null(strstr(st.text, "slab params"));
    st = (status){0};
    assert_false(ckpt_verify(&m, &st));
    ckpt_close(&m);
    st = (status){0};
    if (!ckpt_latest(run, true, &m, &st)) fail_msg("%s", st.text); /* falls back */
    assert_int_equal(m.step, 10);
    ckpt_close(&m);

    save(run, 30, 2, params, ema, norms); /* a missing part */
    snprintf(path, sizeof path, "%s/step-30/part-00000.h5", run);
    unlink(path);
    char folder[300];
    snprintf(folder, sizeof folder, "%s/step-30", run);
    assert_false(ckpt_open(folder, &m, &st));
    assert_non_null(strstr(st.text, "part-00000.h5"));
    save(run, 40, 1, params, ema, norms); /* a part cut short */
    snprintf(path, sizeof path, "%s/step-40/part-00000.h5", run);
    assert_int_equal(truncate(path, 5000), 0);
    save(run, 50, 1, params, ema, norms); /* a manifest with one byte changed */
    snprintf(path, sizeof path, "%s/step-50/manifest.json", run);
    flip(path, -300);
    make_folder(in_folder("damage/step-60.part"), &st); /* a save that was interrupted */
    make_folder(in_folder("damage/step-70"), &st);      /* and one without manifest */
    make_folder(in_folder("damage/step-8x"), &st);
    st = (status){0};
    if (!ckpt_latest(run, true, &m, &st)) fail_msg("%s", st.text);
    assert_int_equal(m.step, 10);
    ckpt_close(&m);
    snprintf(path, sizeof path, "%s/step-10/manifest.json", run);
    unlink(path);
    assert_false(ckpt_latest(run, true, &m, &st));
    assert_int_equal(st.code, ST_DATA);
    st = (status){0};
    assert_true(make_folder(in_folder("empty"), &st));
    assert_false(ckpt_latest(in_folder("empty"), true, &m, &st));
    assert_int_equal(st.code, ST_NO_INPUT);
    free(params);
    free(ema);
    free((void *)(uintptr_t)run);
}

static void coverage(void **state) {
    (void)state;
    float         x[10] = {0};
    ckpt_manifest m = manifest_of(1);
    ckpt_slab     hole[2] = {{"params", x, 0, 4}, {"params", x, 5, 3}},
              twice[2] = {{"params", x, 0, 4}, {"params", x, 3, 3}};
    for (int i = 0; i < 2; i++) {
        status st = {0};
        assert_true(make_folder(in_folder("cover"), &st));
        assert_false(ckpt_save(in_folder("cover"), i ? hole : twice, 2, &m, &st));
        assert_non_null(strstr(st.text, "slab params"));
        assert_true(access(in_folder("cover/step-1"), F_OK) && access(in_folder("cover/step-1.part"), F_OK));
    }
}

static void replace_and_prune(void **state) {
    (void)state;
    float       x[10] = {1, 2, 3}, y;
    const char *run = in_folder("prune");
    ckpt_slab   s = {"params", x, 0, 10};
    status      st = {0};
    assert_true(make_folder(run, &st));
    for (int64_t step = 10; step <= 80; step += 10) {
        ckpt_manifest m = manifest_of(step);
        if (!ckpt_save(run, &s, 1, &m, &st)) fail_msg("%s", st.text);
    }
    x[0] = 42; /* saving a step again replaces it */
    ckpt_manifest m = manifest_of(80);
    if (!ckpt_save(run, &s, 1, &m, &st)) fail_msg("%s", st.text);
    assert_true(ckpt_latest(run, true, &m, &st));
    assert_true(ckpt_read_range(&m, "params", 0, 1, &y, &st) && y == 42);
    ckpt_close(&m);
    make_folder(in_folder("prune/step-90.part"), &st);
    unlink(in_folder("prune/step-80/manifest.json"));
    unlink(in_folder("prune/step-70/manifest.json"));
    run = in_folder("prune");
    assert_true(ckpt_prune(run, 1, 30, &st));
    int64_t kept[] = {30, 60, 70, 80}, gone[] = {10, 20, 40, 50};
    char    path[300];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/step-%lld", in_folder("prune"), (long long)kept[i]);
        if (access(path, F_OK)) fail_msg("%s was removed", path);
        snprintf(path, sizeof path, "%s/step-%lld", in_folder("prune"), (long long)gone[i]);
        if (!access(path, F_OK)) fail_msg("%s is still there", path);
    }
    assert_true(access(in_folder("prune/step-90.part"), F_OK) != 0);
    assert_true(ckpt_latest(in_folder("prune"), true, &m, &st)); /* the newest good one survived */
    assert_int_equal(m.step, 60);
    ckpt_close(&m);
}

static void another_architecture(void **state) {
    (void)state;
    float         x[1] = {0};
    ckpt_slab     s = {"params", x, 0, 1};
    ckpt_manifest given = manifest_of(1), m;
    status        st = {0};
    assert_true(make_folder(in_folder("arch"), &st));
    assert_true(ckpt_save(in_folder("arch"), &s, 1, &given, &st));
    assert_true(ckpt_open_any(in_folder("arch/step-1"), true, &m, &st));
    ckpt_param want[3] = {given.param[0], given.param[1], given.param[1]};
    want[1].shape[0] = 778;
    assert_false(ckpt_match(&m, want, 2, &st));
    assert_int_equal(st.code, ST_CONFIG);
    assert_non_null(strstr(st.text, "blocks.0.bias has shape [777], in this model [778]"));
    want[1].shape[0] = 777;
    st = (status){0};
    assert_false(ckpt_match(&m, want, 3, &st));
    st = (status){0};
    assert_false(ckpt_match(&m, want, 1, &st));
    assert_non_null(strstr(st.text, "blocks.0.bias [777]"));
    strcpy(want[0].name, "other");
    st = (status){0};
    assert_false(ckpt_match(&m, want, 2, &st));
    assert_non_null(strstr(st.text, "other"));
    ckpt_close(&m);
}

typedef struct {
    double held, since;
    int    times;
    bool   is_held;
} held_guard;

static void hold(void *user) {
    held_guard *g = user;
    assert_false(g->is_held);
    g->is_held = true;
    g->since = now_seconds();
    g->times++;
}
static void let_go(void *user) {
    held_guard *g = user;
    assert_true(g->is_held);
    g->is_held = false;
    g->held += now_seconds() - g->since;
}

/* HDF5 is not held while a slow disk takes the numbers, so the loader goes on. */
static void guard_is_short(void **state) {
    (void)state;
    float        *x = slab(8);
    ckpt_slab     s = {"params", x, 0, N_PARAMS};
    ckpt_manifest m = manifest_of(1);
    held_guard    g = {0};
    ckpt_guard    guard = {hold, let_go, &g};
    char          part[PATH_CAP];
    status        st = {0};
    assert_true(make_folder(in_folder("guard"), &st) && ckpt_begin(in_folder("guard"), 1, 1, part, &st));
    setenv("D3S2_FAULT", "delay=200@ckpt.write:1-", 1); /* four chunks by two threads, then the hashes */
    fault_reset();
    double t = now_seconds();
    assert_true(ckpt_write_part(part, 0, &s, 1, &guard, &st));
    unsetenv("D3S2_FAULT");
    fault_reset();
    t = now_seconds() - t;
    assert_int_equal(g.times, 1);
    expect_le(g.held, t - 0.59, "seconds HDF5 was held");
    assert_true(ckpt_commit(part, 1, &m, &guard, &st));
    assert_true(g.times == 2 && !g.is_held);
    free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),
        cmocka_unit_test(damage),
        cmocka_unit_test(coverage),
        cmocka_unit_test(replace_and_prune),
        cmocka_unit_test(another_architecture),
        cmocka_unit_test(guard_is_short),
    };
    log_init(0, 1, LOG_QUIET);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
