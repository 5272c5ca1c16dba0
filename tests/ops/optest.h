/* What every op test shares. A test declares its tensors once with their roles; the same input bits then go to each
 * back end. Every tensor sits between two guard zones of 0xFF; outputs and scratch are filled with 0xFF (NaN in all
 * float types) before each run, integer outputs with 0x7F.
 *
 * The bound on |cpu - ref| is derived: twice the largest error of `optest_rounded` (the reference source compiled with
 * float in place of double) plus a few roundings of the largest value of that output: four, and sqrt(K) more where a
 * test says that an element is a sum of K terms (partial sums are rounded K times, with random signs; a tensor of one
 * element may have met a lucky order in the rounded run). A test adds a floor where larger intermediates cancel. Where
 * a test sets `tol` the bound is tol * the largest value. */
#pragma once
#include "harness/harness.h"
#include "kernels/backend.h"

/* Below this float results of exponentials are as good as zero. */
#define OPTEST_TINY 1e-20

enum { OPTEST_MAX = 32, OPTEST_REPEAT = 50 };

typedef enum {
    OPTEST_IN,  /* read only */
    OPTEST_OUT, /* overwritten: poisoned before each run */
    OPTEST_ACC  /* accumulated or updated: starts at its fill values before each run */
} optest_role;

typedef struct {
    const char *name;
    optest_role role;
    tensor      t;
    char       *block;      /* guard, elements, guard */
    void       *start;      /* fill values of IN and ACC */
    void       *want;       /* result of ref */
    double      worst, max; /* of the rounded run against ref: largest error, largest |value| */
    double      terms;      /* of a sum; 0: no sum */
    double      floor;      /* roundings of intermediates that may cancel, absolute */
    double      tol;        /* > 0 replaces the derived bound: relative to max */
} optest_item;

typedef struct {
    optest_item item[OPTEST_MAX];
    int         n;
    int         repeat; /* how often the cpu run is repeated; OPTEST_REPEAT */
} optest;

/* Any op, type-erased: OPTEST_FN(linear_fwd). */
typedef void (*optest_fn)(ctx *, const void *);
#define OPTEST_FN(op) ((optest_fn)(void (*)(void))(op))

/* Back end whose tables hold the references with rounded intermediates; NULL entries (or NULL) mean: tol must be set.
 */
extern const backend *optest_rounded;

/* A ctx of a back end on a shared scratch arena, which is filled with 0xFF here. */
ctx optest_ctx(const backend *be);

void optest_begin(optest *o);
void optest_end(optest *o);

/* The returned tensors live until optest_end. Fill: fill_rule(seed, scale), values in [-scale/2, scale/2]. */
tensor *optest_in(optest *o, const char *name, uint32_t seed, double scale, const int64_t *dims, int n_dims);
tensor *optest_i32(optest *o, const char *name, const int32_t *values, const int64_t *dims, int n_dims);
tensor *optest_bytes(optest *o, const char *name, const uint8_t *values, int64_t n);
tensor *optest_acc(optest *o, const char *name, uint32_t seed, double scale, const int64_t *dims, int n_dims);
tensor *optest_out(optest *o, const char *name, dtype dt, const int64_t *dims, int n_dims);
/* first (B+1) from B row counts. */
tensor *optest_first(optest *o, const char *name, const int *counts, int n_samples);
/* Turns the outputs of a forward into inputs of the backward that follows, with their present values. Tensors of the
 * backward are declared after it. */
void    optest_freeze(optest *o);
/* Keeps what the test itself wrote into an input. */
void    optest_keep(optest *o, const tensor *t);
void    optest_set_terms(optest *o, const tensor *t, int64_t terms);
void    optest_set_floor(optest *o, const tensor *t, double magnitude); /* four roundings of a value of this size */
void    optest_set_tol(optest *o, const tensor *t, double tol);

/* Fills outputs, runs, checks guards and that no input changed. */
void optest_run(optest *o, const backend *be, optest_fn fn, const void *args);
/* ref against cpu with the derived bound, then the repeats with equal bits. fn is the op's front. */
void optest_compare(optest *o, optest_fn fn, const void *args);

/* Central differences of ref (Richardson, steps h and 2h) for L = sum_i <dy_i, y_i>. pairs: x0, dx0, x1, dx1, ...,
 * NULL; outs: y0, dy0, ..., NULL. dy of an f64 output may be NULL: then its weights are 1. Runs fwd and bwd on ref
 * first. ACC gradients are compared less their start. Error bound: tol * largest |gradient| of that tensor + tol/100.
 */
void optest_grad(optest *o, optest_fn fwd, optest_fn bwd, const void *args, tensor *const *pairs, tensor *const *outs,
                 double h, double tol);

/* The front must end fatally with a message that contains `part`. */
void optest_fatal(optest_fn fn, const void *args, const char *part);

/* Puts NaN into element 0 of in, runs cpu and ref; out must then hold a NaN in both. Restores in. */
void optest_nan(optest *o, optest_fn fn, const void *args, tensor *in, tensor *out);
