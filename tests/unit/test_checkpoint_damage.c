/* Checkpoints that were hit: flipped bits, other lengths, parts of other checkpoints, another version; and writers that
 * are killed at any of their steps. What is read is either what was written or refused with file and place. */
#define _GNU_SOURCE
#include "core/fault.h"
#include "harness/harness.h"
#include "io/checkpoint_file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_PARAMS = 3000, N_NORMS = 16, FLIPS = 10000, LENGTHS = 1000, PATH = PATH_CAP + 100 };

static const char *const slab_name[] = {"params", "adam_m", "ema"};

/* ---- a checkpoint of two parts --------------------------------------------------------------------------------- */

static float *slab_values(int64_t step, int which) {
    float *x = malloc(N_PARAMS * sizeof *x);
    fill_rule(x, N_PARAMS, (uint32_t)(10 * step + which), 2);
    return x;
}

static void save(const char *run, int64_t step) {
    static ckpt_param row[2] = {{.name = "blocks.0.weight", .rank = 2, .shape = {2, 1000}, .offset = 0},
                                {.name = "blocks.0.bias", .rank = 1, .shape = {1000}, .offset = 2000}};
    ckpt_manifest     m = {.step = step,
                           .seed = 7,
                           .model = "vae",
                           .config = (char[]){"vae:\n  width: 64\n"},
                           .n_numbers = 1,
                           .number = {{"tokens", 1000}},
                           .n_params = 2,
                           .param = row};
    char              part[PATH_CAP];
    status            st = {0};
    float            *x[3], norms[N_NORMS] = {1, 2, 3};
    if (!make_folder(run, &st) || !ckpt_begin(run, step, 1, part, &st)) fail_msg("%s", st.text);
    for (int i = 0; i < 3; i++) x[i] = slab_values(step, i);
    for (int r = 0; r < 2; r++) {
        int64_t   lo = r * 1700, hi = r ? N_PARAMS : 1700;
        ckpt_slab s[4] = {{.name = "clip_norms", .data = norms, .count = N_NORMS}};
        for (int i = 0; i < 3; i++) s[1 + i] = (ckpt_slab){slab_name[i], x[i] + lo, lo, hi - lo};
        if (!ckpt_write_part(part, r, r ? s + 1 : s, r ? 3 : 4, NULL, &st)) fail_msg("%s", st.text);
    }
    if (!ckpt_commit(part, 2, &m, NULL, &st)) fail_msg("%s", st.text);
    for (int i = 0; i < 3; i++) free(x[i]);
}

/* Opens and reads everything; false with the reason. Values that differ from what was saved end the test. */
static bool reads(const char *folder, int64_t step, status *st) {
    ckpt_manifest m;
    float         got[N_PARAMS];
    if (!ckpt_open(folder, &m, st)) return false;
    bool ok = ckpt_verify(&m, st);
    for (int i = 0; ok && i < 3; i++) {
        float *want = slab_values(step, i);
        ok = ckpt_read_range(&m, slab_name[i], 0, N_PARAMS, got, st);
        if (ok) assert_memory_equal(got, want, sizeof got);
        free(want);
    }
    if (ok) {
        assert_int_equal(m.step, step);
        assert_int_equal(m.n_params, 2);
        assert_int_equal(m.param[1].offset, 2000);
        assert_int_equal(ckpt_number_of(&m, "tokens", 0), 1000);
        assert_string_equal(m.config, "vae:\n  width: 64\n");
    }
    ckpt_close(&m);
    return ok;
}

static char base[PATH_CAP];

/* In memory, where there is such a disk: fsync costs nothing there, and it is the page cache that survives a kill. */
static int make_base(void **state) {
    (void)state;
    strcpy(base, "/dev/shm/d3s2-test-XXXXXX");
    if (!mkdtemp(base)) snprintf(base, sizeof base, "%s", temp_folder());
    return 0;
}
static int remove_base(void **state) {
    (void)state;
    status st = {0};
    return remove_tree(base, &st) ? 0 : -1;
}

/* Path of a file of a step; "" and ".part": its folder. */
static const char *file_of(const char *run, int64_t step, const char *file) {
    static char path[4][PATH];
    static int  turn;
    char       *p = path[turn++ % 4];
    snprintf(p, PATH, "%s/%s/step-%lld%s%s", base, run, (long long)step, *file && *file != '.' ? "/" : "", file);
    return p;
}

static const char *run_of(const char *name) {
    static char path[2][PATH];
    static int  turn;
    char       *p = path[turn++ % 2];
    snprintf(p, PATH, "%s/%s", base, name);
    return p;
}

static const char *const files[] = {"part-00000.h5", "part-00001.h5", "manifest.json"};

static int64_t size_of(const char *path) {
    struct stat s;
    assert_int_equal(stat(path, &s), 0);
    return s.st_size;
}

/* ---- damage ---------------------------------------------------------------------------------------------------- */

static void flip_bit(const char *path, int64_t bit) {
    uint8_t b;
    int     fd = open(path, O_RDWR);
    assert_true(fd >= 0 && pread(fd, &b, 1, bit / 8) == 1);
    b ^= (uint8_t)(1 << bit % 8);
    assert_true(pwrite(fd, &b, 1, bit / 8) == 1);
    close(fd);
}

/* Where a flip passes unseen nothing that is read is another: reads() has compared it all. */
static void flipped_bits(void **state) {
    (void)state;
    int64_t  bits[3], all = 0;
    uint64_t random = 12345;
    int      seen = 0, named = 0;
    save(run_of("flip"), 1);
    for (int f = 0; f < 3; f++) all += bits[f] = 8 * size_of(file_of("flip", 1, files[f]));
    for (int i = 0; i < FLIPS; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        int64_t at = (int64_t)(random >> 20) % all;
        int     f = 0;
        while (at >= bits[f]) at -= bits[f++];
        status st = {0};
        flip_bit(file_of("flip", 1, files[f]), at);
        if (!reads(file_of("flip", 1, ""), 1, &st)) {
            seen++;
            if (!strstr(st.text, files[f])) fail_msg("bit %lld of %s: \"%s\"", (long long)at, files[f], st.text);
            if (st.code != ST_DATA) fail_msg("bit %lld of %s: code %d", (long long)at, files[f], st.code);
            named += strstr(st.text, "(blocks.0.") != NULL;
        }
        flip_bit(file_of("flip", 1, files[f]), at);
    }
    print_message("%d of %d flipped bits refused, %d with the tensor; the others change nothing that is read\n", seen,
                  FLIPS, named);
    assert_true(seen > FLIPS * 8 / 10 && named > FLIPS / 2);
    status st = {0};
    assert_true(reads(file_of("flip", 1, ""), 1, &st));
}

static void other_lengths(void **state) {
    (void)state;
    uint64_t random = 99;
    save(run_of("cut"), 1);
    for (int f = 0; f < 3; f++) {
        const char *path = file_of("cut", 1, files[f]);
        int64_t     size = size_of(path);
        uint8_t    *whole = malloc((size_t)size);
        int         fd = open(path, O_RDWR);
        assert_true(pread(fd, whole, (size_t)size, 0) == size);
        for (int i = 0; i < LENGTHS; i++) {
            static const int64_t edge[] = {0, 1, 7, 8, 48, 512, 4096};
            random = random * 6364136223846793005u + 1442695040888963407u;
            int64_t to = i < 7 ? edge[i] : i < 14 ? size - edge[i - 7] - 1 : (int64_t)(random >> 20) % (2 * size);
            if (to < 0 || to == size) to = size + 1;
            status st = {0};
            assert_int_equal(ftruncate(fd, to), 0);
            if (reads(file_of("cut", 1, ""), 1, &st))
                fail_msg("%s of %lld bytes was read with %lld", files[f], (long long)size, (long long)to);
            if (!strstr(st.text, files[f])) fail_msg("%s cut to %lld: \"%s\"", files[f], (long long)to, st.text);
            assert_true(pwrite(fd, whole, (size_t)size, 0) == size && ftruncate(fd, size) == 0);
        }
        close(fd);
        free(whole);
    }
    status st = {0};
    assert_true(reads(file_of("cut", 1, ""), 1, &st));
}

static void exchange(const char *a, const char *b) {
    char via[PATH + 8];
    snprintf(via, sizeof via, "%s.via", a);
    assert_true(rename(a, via) == 0 && rename(b, a) == 0 && rename(via, b) == 0);
}

static void refused(const char *folder, int64_t step, const char *name) {
    status st = {0};
    if (reads(folder, step, &st)) fail_msg("%s was read", folder);
    assert_int_equal(st.code, ST_DATA);
    if (!strstr(st.text, name)) fail_msg("no %s in \"%s\"", name, st.text);
}

static void wrong_parts(void **state) {
    (void)state;
    ckpt_manifest m;
    status        st = {0};
    for (int step = 1; step <= 3; step++) save(run_of("parts"), step);
    exchange(file_of("parts", 2, files[0]), file_of("parts", 3, files[0])); /* of two steps: same size, other numbers */
    refused(file_of("parts", 2, ""), 2, files[0]);
    refused(file_of("parts", 3, ""), 3, files[0]);
    assert_true(ckpt_latest(run_of("parts"), true, &m, &st)); /* the one before is taken */
    assert_int_equal(m.step, 1);
    ckpt_close(&m);
    exchange(file_of("parts", 2, files[0]), file_of("parts", 3, files[0]));
    exchange(file_of("parts", 3, files[0]), file_of("parts", 3, files[1])); /* of two ranks */
    refused(file_of("parts", 3, ""), 3, files[0]);
    exchange(file_of("parts", 3, files[0]), file_of("parts", 3, files[1]));
    assert_int_equal(unlink(file_of("parts", 3, files[1])), 0);
    refused(file_of("parts", 3, ""), 3, files[1]);
    /* One too many is not looked at: the manifest says which there are. */
    assert_int_equal(link(file_of("parts", 1, files[1]), file_of("parts", 2, "part-00002.h5")), 0);
    if (!reads(file_of("parts", 2, ""), 2, &st)) fail_msg("%s", st.text);
    exchange(file_of("parts", 1, files[2]), file_of("parts", 2, files[2])); /* manifests of two steps */
    refused(file_of("parts", 1, ""), 1, files[0]);
}

/* A program of tomorrow wrote it: its number is in the message. */
static void another_version(void **state) {
    (void)state;
    uint8_t *text;
    int64_t  n;
    status   st = {0};
    save(run_of("version"), 1);
    assert_true(read_whole_file(file_of("version", 1, files[2]), 1 << 20, &text, &n, &st));
    char *at = strstr((char *)text, "\"version\":1");
    assert_non_null(at);
    at[10] = '7';
    assert_true(atomic_write(file_of("version", 1, files[2]), text, n, &st));
    free(text);
    refused(file_of("version", 1, ""), 1, "version 7, this program reads version 1");
}

/* ---- killed writers -------------------------------------------------------------------------------------------- */

enum { MANY = 3 }; /* of points: comes often in each save */
static const char *const points[] = {"ckpt.begin",           "ckpt.before_part",    "ckpt.tables",
                                     "ckpt.write",           "ckpt.before_fsync",   "ckpt.after_part",
                                     "ckpt.before_manifest", "ckpt.after_manifest", "ckpt.before_rename",
                                     "ckpt.after_rename",    "ckpt.before_prune",   "ckpt.prune"};

/* Three saves of which the newest is kept, in a process that ends at the nth pass of a point. False: it came through.
 */
static bool killed_at(const char *run, const char *point, int n) {
    char text[80];
    snprintf(text, sizeof text, "kill@%s:%d", point, n);
    fflush(stdout);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (!freopen("/dev/null", "w", stderr)) _exit(2);
        setenv("D3S2_FAULT", text, 1);
        fault_reset();
        for (int64_t step = 1; step <= 3; step++) {
            status st = {0};
            save(run, step);
            if (!ckpt_prune(run, 1, 0, &st)) _exit(3);
        }
        _exit(0);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    if (WIFEXITED(how)) assert_int_equal(WEXITSTATUS(how), 0);
    return WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL;
}

/* Bytes of all that lies in the run's folder. */
static int64_t used(const char *run, int64_t *folders) {
    char  **names, **parts, path[PATH_CAP], file[PATH_CAP];
    int     n, k;
    int64_t bytes = 0;
    status  st = {0};
    assert_true(list_folder(run, "", &names, &n, &st));
    *folders = n;
    for (int i = 0; i < n; i++) {
        assert_true(join_path(run, names[i], path, &st) && list_folder(path, "", &parts, &k, &st));
        for (int j = 0; j < k; j++) {
            assert_true(join_path(path, parts[j], file, &st));
            bytes += size_of(file);
        }
        free_names(parts, k);
    }
    free_names(names, n);
    return bytes;
}

static void killed_writers(void **state) {
    (void)state;
    int     kills = 0;
    int64_t n, size;
    save(run_of("size"), 1);
    size = used(run_of("size"), &n);
    for (size_t p = 0; p < sizeof points / sizeof *points; p++)
        for (int pass = 1;; pass += p == MANY ? 5 : 1) {
            char          run[40];
            ckpt_manifest m;
            status        st = {0};
            snprintf(run, sizeof run, "kill-%zu-%d", p, pass);
            if (!killed_at(run_of(run), points[p], pass)) {
                if (pass < 3) fail_msg("%s came %d times in three saves", points[p], pass - 1);
                break;
            }
            kills++;
            /* What is there: whole checkpoints by their names, as many as were finished, and one more at most. */
            int64_t bytes = used(run_of(run), &n);
            expect_le((double)bytes, 2.0 * (double)size + 64, "bytes used");
            expect_le((double)n, 2, "folders");
            for (int64_t step = 1; step <= 3; step++)
                if (!access(file_of(run, step, ""), F_OK) && !reads(file_of(run, step, ""), step, &st))
                    fail_msg("killed at %s, pass %d: %s", points[p], pass, st.text);
            bool any = ckpt_latest(run_of(run), true, &m, &st);
            if (any) ckpt_close(&m);
            if (!any && (st.code != ST_NO_INPUT || n > 1 || (n == 1 && access(file_of(run, 1, ".part"), F_OK))))
                fail_msg("killed at %s, pass %d: %s", points[p], pass, st.text);
            /* The next save goes as if nothing had been, and takes what is left away. */
            st = (status){0};
            save(run_of(run), 6);
            assert_true(ckpt_prune(run_of(run), 1, 0, &st) && ckpt_latest(run_of(run), true, &m, &st));
            assert_int_equal(m.step, 6);
            ckpt_close(&m);
            used(run_of(run), &n);
            assert_int_equal(n, 1);
        }
    print_message("%d writers killed\n", kills);
}

/* ---- failing writes -------------------------------------------------------------------------------------------- */

/* As the disk says it: an error with the path, nothing left, and the next save works. */
static void failing_writes(void **state) {
    (void)state;
    static const struct {
        const char *fault, *cause;
    } row[] = {{"fail=ENOSPC@ckpt.write:%d", "No space left"},
               {"fail@ckpt.write:%d", "Input/output error"},
               {"fail@ckpt.fsync", "Input/output error"},
               {"fail=EDQUOT@ckpt.manifest", "quota"},
               {"fail=EROFS@ckpt.begin", "Read-only"}};
    float         x[N_PARAMS] = {1};
    ckpt_slab     s[2] = {{"params", x, 0, 1700}, {"params", x + 1700, 1700, N_PARAMS - 1700}};
    ckpt_manifest m = {.step = 1, .model = "vae", .config = (char[]){""}};
    status        st = {0};
    assert_true(make_folder(run_of("fail"), &st));
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        for (int pass = 1; pass <= 4; pass++) { /* two ranges and their hashes are four writes */
            char    text[80];
            int64_t n;
            snprintf(text, sizeof text, row[i].fault, pass);
            setenv("D3S2_FAULT", text, 1);
            fault_reset();
            st = (status){0};
            if (ckpt_save(run_of("fail"), s, 2, &m, &st)) fail_msg("%s did not fail", text);
            assert_int_equal(st.code, ST_IO);
            if (!strstr(st.text, "step-1") || !strstr(st.text, row[i].cause)) fail_msg("%s: \"%s\"", text, st.text);
            used(run_of("fail"), &n);
            assert_int_equal(n, 0);
        }
    /* Not failures: signals that break a write off, and writes that end early. */
    setenv("D3S2_FAULT", "fail=EINTR@ckpt.write:1-3;nan@ckpt.short:1-20", 1);
    fault_reset();
    st = (status){0};
    if (!ckpt_save(run_of("fail"), s, 2, &m, &st)) fail_msg("%s", st.text);
    unsetenv("D3S2_FAULT");
    fault_reset();
    ckpt_manifest found;
    float         got[N_PARAMS];
    assert_true(ckpt_latest(run_of("fail"), true, &found, &st));
    assert_true(ckpt_read_range(&found, "params", 0, N_PARAMS, got, &st));
    assert_memory_equal(got, x, sizeof got);
    ckpt_close(&found);
}

/* More than the disk has free is refused before anything is written. */
static void no_room(void **state) {
    (void)state;
    char    part[PATH_CAP];
    status  st = {0};
    int64_t n;
    assert_true(make_folder(run_of("room"), &st));
    assert_false(ckpt_begin(run_of("room"), 1, INT64_MAX / 2, part, &st));
    assert_int_equal(st.code, ST_IO);
    assert_true(strstr(st.text, "step-1") && strstr(st.text, "are free"));
    used(run_of("room"), &n);
    assert_int_equal(n, 0);
    /* What an interrupted save of another step left gives its space back first. */
    assert_true(make_folder(file_of("room", 7, ".part"), &st) && make_folder(run_of("room/step-x.part"), &st));
    st = (status){0};
    if (!ckpt_begin(run_of("room"), 8, 1, part, &st)) fail_msg("%s", st.text);
    assert_true(access(file_of("room", 7, ".part"), F_OK) != 0 && !access(file_of("room", 8, ".part"), F_OK));
    assert_int_equal(access(run_of("room/step-x.part"), F_OK), 0); /* not ours */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flipped_bits),    cmocka_unit_test(other_lengths),  cmocka_unit_test(wrong_parts),
        cmocka_unit_test(another_version), cmocka_unit_test(killed_writers), cmocka_unit_test(failing_writes),
        cmocka_unit_test(no_room),
    };
    log_init(0, 1, LOG_QUIET);
    return cmocka_run_group_tests_name("checkpoint_damage", tests, make_base, remove_base);
}
