/* What every test program shares: comparison that NaN fails, catching fatals, golden files' folder, temporary folders.
 */
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "core/tensor.h"

/* Relative L2 error |a-b| / |b| in double; any NaN or Inf in a gives INFINITY; |b| = 0 gives |a|. */
double rel_l2(const float *a, const float *b, int64_t n);
double rel_l2_d(const double *a, const double *b, int64_t n);
double max_abs(const float *a, const float *b, int64_t n);

/* Fails the test with names and numbers unless err <= bound (so NaN fails). */
void expect_le(double err, double bound, const char *what);

/* Deterministic test data in [-scale/2, scale/2]: the fill rule of R§15 (seed, scale). */
void fill_rule(float *x, int64_t n, uint32_t seed, double scale);
void fill_rule_d(double *x, int64_t n, uint32_t seed, double scale);

/* Fills memory with 0xFF (NaN in all float types). */
void poison(void *p, size_t bytes);

/* Runs fn(arg) and returns the fatal message it ended with, or NULL if it returned. The text is static. */
const char *expect_fatal(void (*fn)(void *), void *arg);

/* A test that cannot run here says why and is skipped; main returns test_exit(failed), so that ctest shows it (77). */
#define skip_because(...) (note_skip(__VA_ARGS__), skip())
void note_skip(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int  test_exit(int n_failed);

/* A fresh folder under /tmp, removed at exit. */
const char *temp_folder(void);
/* PARENT/NAME, and the same in the temporary folder. The last eight results of both together stay as they are. */
const char *path_in(const char *parent, const char *name);
const char *in_folder(const char *name);
/* A file of the source tree, which is $D3S2_SOURCE where a test runs elsewhere than it was built; static text, good for
 * one more call. */
const char *in_source(const char *name);

/* $D3S2_GOLDEN/<name>.h5, or tests/golden/<name>.h5 of the source tree. Static text. */
const char *golden_path(const char *name);
