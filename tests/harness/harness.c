#define _GNU_SOURCE /* nftw */
#include "harness/harness.h"

#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

double rel_l2_d(const double *a, const double *b, int64_t n) {
    double num = 0, den = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(a[i])) return INFINITY;
        num += (a[i] - b[i]) * (a[i] - b[i]);
        den += b[i] * b[i];
    }
    return den > 0 ? sqrt(num / den) : sqrt(num);
}

double rel_l2(const float *a, const float *b, int64_t n) {
    double num = 0, den = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(a[i])) return INFINITY;
        num += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        den += (double)b[i] * b[i];
    }
    return den > 0 ? sqrt(num / den) : sqrt(num);
}

double max_abs(const float *a, const float *b, int64_t n) {
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = fabs((double)a[i] - b[i]);
        if (!(e <= worst)) worst = isfinite(e) ? e : INFINITY;
    }
    return worst;
}

void expect_le(double err, double bound, const char *what) {
    if (!(err <= bound)) fail_msg("%s: error %.3e is over the bound %.3e", what, err, bound);
}

static double rule(uint32_t i, uint32_t seed, double scale) {
    uint32_t x = i + 1000003u * seed;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return ((double)x / 4294967296.0 - 0.5) * scale;
}

void fill_rule(float *x, int64_t n, uint32_t seed, double scale) {
    for (int64_t i = 0; i < n; i++) x[i] = (float)rule((uint32_t)i, seed, scale);
}

void fill_rule_d(double *x, int64_t n, uint32_t seed, double scale) {
    for (int64_t i = 0; i < n; i++) x[i] = rule((uint32_t)i, seed, scale);
}

void poison(void *p, size_t bytes) {
    memset(p, 0xFF, bytes);
}

static jmp_buf fatal_jump;
static char    fatal_text[1500];

static void catch_fatal(const char *message) {
    snprintf(fatal_text, sizeof fatal_text, "%s", message);
    longjmp(fatal_jump, 1);
}

const char *expect_fatal(void (*fn)(void *), void *arg) {
    fatal_text[0] = 0;
    fatal_set_hook(catch_fatal);
    if (setjmp(fatal_jump) == 0) fn(arg);
    fatal_set_hook(NULL);
    return fatal_text[0] ? fatal_text : NULL;
}

static int n_skipped;

void note_skip(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fputs("skipped: ", stdout);
    vprintf(fmt, ap);
    putchar('\n');
    va_end(ap);
    fflush(stdout);
    n_skipped++;
}

int test_exit(int n_failed) {
    return n_failed ? n_failed : n_skipped ? 77 : 0;
}

static char folder[64];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static pid_t folder_owner;

static void remove_folder(void) {
    if (getpid() == folder_owner) nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *temp_folder(void) {
    if (!folder[0]) {
        strcpy(folder, "/tmp/d3s2-test-XXXXXX");
        CHECK(mkdtemp(folder), "no temporary folder %s", folder);
        folder_owner = getpid();
        atexit(remove_folder);
    }
    return folder;
}

const char *path_in(const char *parent, const char *name) {
    static char path[8][1024];
    static int  turn;
    char       *out = path[turn++ % 8];
    snprintf(out, sizeof path[0], "%s/%s", parent, name);
    return out;
}

const char *in_folder(const char *name) {
    return path_in(temp_folder(), name);
}

const char *in_source(const char *name) {
    static char path[2][1024];
    static int  turn;
    char       *out = path[turn++ % 2];
    const char *tree = getenv("D3S2_SOURCE");
    snprintf(out, sizeof path[0], "%s/%s", tree && *tree ? tree : D3S2_SOURCE_DIR, name);
    return out;
}

const char *golden_path(const char *name) {
    static char path[1024];
    const char *dir = getenv("D3S2_GOLDEN");
    snprintf(path, sizeof path, "%s/%s.h5", dir && *dir ? dir : in_source("tests/golden"), name);
    return path;
}
