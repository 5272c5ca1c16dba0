/* What every op test shares. A test declares its tensors once with their roles; the same input bits then go to each
 * back end. Every tensor sits between two guard zones of 0xFF; outputs and scratch are filled with 0xFF (NaN in all
 * float types) before each run, integer outputs with 0x7F.
 *
 * A program of op tests runs in one of three forms: the cpu back end; with the argument "gpu" the CUDA back end in f32,
 * then in bf16 (gpu/hosted.h), each against ref.
 *
 * The bound on |tested - ref| is derived: twice the largest error of a rounded reference (the reference source compiled
 * with float in place of double, ops/ref32.h) plus a few roundings of the largest value of that output: four, and
 * sqrt(K) more where a test says that an element is a sum of K terms (partial sums are rounded K times, with random
 * signs; a tensor of one element may have met a lucky order in the rounded run). A test adds a floor where larger
 * intermediates cancel. Where a test sets `tol` the bound is tol * the largest value.
 *
 * In the bf16 form ref and the rounded reference start from inputs that are rounded to bf16, so the inputs are the same
 * bits everywhere, and
 *   - the rounded reference is that of ops/ref16.h: float, and bf16 at the places where the CUDA kernels may hold an
 *     intermediate in bf16;
 *   - a sum of K terms on tensor cores is cut off, not rounded, after every 16 products, and cuts add up with one sign:
 *     K/16 steps of 2^-23, so K/8 roundings where that is more than sqrt(K);
 *   - an output that is stored in bf16 may be off by its own rounding besides, 2^-8 of the element (8 significant bits,
 *     half a unit in the last place). */
#pragma once
#include "harness/harness.h"
#include "kernels/backend.h"

/* Below this float results of exponentials are as good as zero. */
#define OPTEST_TINY 1e-20

enum { OPTEST_MAX = 32, OPTEST_REPEAT = 50, OPTEST_N_ROWS = 7, OPTEST_SAMPLES = 4 };

/* Numbers of rows that hurt: none, one, some, the edges of a tile, many. */
extern const int optest_rows[OPTEST_N_ROWS];

typedef enum {
    OPTEST_IN,  /* read only */
    OPTEST_OUT, /* overwritten: poisoned before each run */
    OPTEST_ACC  /* accumulated or updated: starts at its fill values before each run */
} optest_role;

typedef struct {
    const char   *name;
    optest_role   role;
    tensor        t;
    char         *block;      /* guard, elements, guard */
    void         *start;      /* fill values of IN and ACC */
    void         *want, *got; /* results of ref, and of the tested back end's first run */
    double        worst, max; /* of the rounded run against ref: largest error, largest |value| */
    double        terms;      /* of a sum; 0: no sum */
    double        floor;      /* roundings of intermediates that may cancel, absolute */
    double        tol;        /* > 0 replaces the derived bound: relative to max */
    bool          stored16;   /* by the tested back end in this call */
    /* of chosen blocks (i32): what they were chosen by, and first rows and blocks of each sample; else NULL */
    const tensor *score, *rows, *blocks;
} optest_item;

typedef struct {
    optest_item item[OPTEST_MAX];
    int         n;
    int repeat;  /* how often the tested run is repeated; OPTEST_REPEAT. D3S2_REPEAT in the environment: at most that */
    int tighter; /* on a GPU: so many times all that once more, each with less scratch than the one before took */
} optest;

/* Any op, type-erased: OPTEST_FN(linear_fwd). */
typedef void (*optest_fn)(ctx *, const void *);
#define OPTEST_FN(op) ((optest_fn)(void (*)(void))(op))

typedef enum { OPTEST_CPU, OPTEST_GPU_F32, OPTEST_GPU_BF16 } optest_form;
extern optest_form optest_now;
/* The back end that the form tests. */
const backend     *optest_tested(void);

/* The tests of a program: `every` runs in each form, `cpu` without a GPU only (wrong arguments, properties of ref),
 * `gpu` there only (sizes that meet the edges of tiles). The first argument is the form: none, gpu-f32, gpu-bf16, or
 * gpu for both. A second one is a pattern of names to run, D3S2_SKIP_TESTS in the environment one of names to leave
 * out. Returns the exit code: 77 when there is no GPU to test. */
typedef struct {
    const char              *name;
    const struct CMUnitTest *every, *cpu, *gpu;
    int                      n_every, n_cpu, n_gpu;
    CMFixtureFunction        set_up, tear_down;
} optest_suite;
int  optest_main(int argc, char **argv, const optest_suite *s);
/* Counts the cases of a program; whether this one is to run: all of them, or with D3S2_CASES=K/N in the environment
 * those with number % N == K, each named with the time it begins (a slow tool takes them in parts). */
bool optest_case(void);
#define OPTEST_LIST(list) .list = list, .n_##list = sizeof list / sizeof *list

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
/* The same of n rows in OPTEST_SAMPLES samples: one is empty, one of one row. */
tensor *optest_samples(optest *o, int n);
/* Turns the outputs of a forward into inputs of the backward that follows, with their present values. Tensors of the
 * backward are declared after it. */
void    optest_freeze(optest *o);
/* Keeps what the test itself wrote into an input. */
void    optest_keep(optest *o, const tensor *t);
void    optest_set_terms(optest *o, const tensor *t, int64_t terms);
void    optest_set_floor(optest *o, const tensor *t, double magnitude); /* four roundings of a value of this size */
void    optest_set_tol(optest *o, const tensor *t, double tol);
/* block (G,N,K) was chosen by score (G,N,W); rows, blocks (B+1): first token and first block of each sample. In bf16
 * two blocks may change places when their scores in ref are closer than what the scores may be off by. */
void optest_set_choice(optest *o, const tensor *block, const tensor *score, const tensor *rows, const tensor *blocks);

/* Fills outputs, runs, checks guards and that no input changed. */
void optest_run(optest *o, const backend *be, optest_fn fn, const void *args);
/* ref against the tested back end with the derived bound, then the repeats with equal bits. fn is the op's front. */
void optest_compare(optest *o, optest_fn fn, const void *args);

/* On the CPU only: central differences of ref (Richardson, steps h and 2h) for L = sum_i <dy_i, y_i>. pairs: x0, dx0,
 * x1, dx1, ..., NULL; outs: y0, dy0, ..., NULL. dy of an f64 output may be NULL: then its weights are 1. Runs fwd and
 * bwd on ref first. ACC gradients are compared less their start. Error bound: tol * largest |gradient| of that tensor +
 * tol/100.
 */
void optest_grad(optest *o, optest_fn fwd, optest_fn bwd, const void *args, tensor *const *pairs, tensor *const *outs,
                 double h, double tol);

/* The front must end fatally with a message that contains `part`. */
void optest_fatal(optest_fn fn, const void *args, const char *part);

/* Puts NaN into element 0 of in, runs ref and the tested back end; out must then hold a NaN in both. Restores in. */
void optest_nan(optest *o, optest_fn fn, const void *args, tensor *in, tensor *out);
