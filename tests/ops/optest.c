#include "optest.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "gpu/hosted.h"
#include "ops/ref16.h"
#include "ops/ref32.h"

enum { GUARD = 256 };
#define SCRATCH_BYTES ((size_t)64 << 20)

const int   optest_rows[OPTEST_N_ROWS] = {0, 1, 3, 63, 64, 65, 1000};
optest_form optest_now = OPTEST_CPU;

const backend *optest_tested(void) {
    if (optest_now == OPTEST_CPU) return &backend_cpu;
    return hosted_backend(optest_now == OPTEST_GPU_BF16 ? DT_BF16 : DT_F32);
}

/* Bytes of the scratch arena that may not hold the poison any more. */
static size_t dirty = SCRATCH_BYTES;
static size_t n_cases;

ctx optest_ctx(const backend *be) {
    static arena scratch;
    if (!scratch.base) scratch = arena_new("test scratch", SCRATCH_BYTES);
    poison(scratch.base, dirty);
    dirty = SCRATCH_BYTES;
    return (ctx){.be = be, .scratch = scratch, .deterministic = true};
}

void optest_begin(optest *o) {
    *o = (optest){.repeat = OPTEST_REPEAT};
}

void optest_end(optest *o) {
    for (int i = 0; i < o->n; i++) {
        free(o->item[i].block);
        free(o->item[i].start);
        free(o->item[i].want);
        free(o->item[i].got);
    }
    o->n = 0;
}

static optest_item *item_of(optest *o, const tensor *t) {
    for (int i = 0; i < o->n; i++)
        if (&o->item[i].t == t) return &o->item[i];
    fail_msg("tensor is not of this test");
    return NULL;
}

static optest_item *new_item(optest *o, const char *name, optest_role role, dtype dt, const int64_t *dims, int n_dims) {
    CHECK(o->n < OPTEST_MAX, "more than %d tensors in a test", OPTEST_MAX);
    optest_item *it = &o->item[o->n++];
    *it = (optest_item){.name = name, .role = role, .t = tensor_wrap(NULL, dt, dims, n_dims)};
    size_t bytes = tensor_bytes(&it->t);
    it->block = aligned_alloc(GUARD, (bytes + 3 * GUARD - 1) / GUARD * GUARD);
    it->start = malloc(bytes + 1);
    it->want = malloc(bytes + 1);
    it->got = malloc(bytes + 1);
    CHECK(it->block && it->start && it->want, "no memory for %s", name);
    poison(it->block, bytes + 2 * GUARD);
    it->t.data = it->block + GUARD;
    return it;
}

static tensor *filled(optest *o, const char *name, optest_role role, uint32_t seed, double scale, const int64_t *dims,
                      int n_dims) {
    optest_item *it = new_item(o, name, role, DT_F32, dims, n_dims);
    fill_rule(it->start, tensor_count(&it->t), seed, scale);
    memcpy(it->t.data, it->start, tensor_bytes(&it->t));
    return &it->t;
}

static tensor *given(optest *o, const char *name, dtype dt, const void *values, const int64_t *dims, int n_dims) {
    optest_item *it = new_item(o, name, OPTEST_IN, dt, dims, n_dims);
    memcpy(it->start, values, tensor_bytes(&it->t));
    memcpy(it->t.data, values, tensor_bytes(&it->t));
    return &it->t;
}

tensor *optest_in(optest *o, const char *name, uint32_t seed, double scale, const int64_t *dims, int n_dims) {
    return filled(o, name, OPTEST_IN, seed, scale, dims, n_dims);
}

tensor *optest_acc(optest *o, const char *name, uint32_t seed, double scale, const int64_t *dims, int n_dims) {
    return filled(o, name, OPTEST_ACC, seed, scale, dims, n_dims);
}

tensor *optest_i32(optest *o, const char *name, const int32_t *values, const int64_t *dims, int n_dims) {
    return given(o, name, DT_I32, values, dims, n_dims);
}

tensor *optest_bytes(optest *o, const char *name, const uint8_t *values, int64_t n) {
    return given(o, name, DT_U8, values, DIMS(n));
}

tensor *optest_out(optest *o, const char *name, dtype dt, const int64_t *dims, int n_dims) {
    return &new_item(o, name, OPTEST_OUT, dt, dims, n_dims)->t;
}

tensor *optest_first(optest *o, const char *name, const int *counts, int n_samples) {
    int32_t first[65] = {0};
    CHECK(n_samples <= 64, "%d samples", n_samples);
    for (int b = 0; b < n_samples; b++) first[b + 1] = first[b] + counts[b];
    return optest_i32(o, name, first, DIMS(n_samples + 1));
}

tensor *optest_samples(optest *o, int n) {
    int one = n > 2 ? 1 : 0, some = (n - one) / 3;
    return optest_first(o, "first", (int[OPTEST_SAMPLES]){some, 0, one, n - one - some}, OPTEST_SAMPLES);
}

void optest_freeze(optest *o) {
    for (int i = 0; i < o->n; i++) {
        optest_item *it = &o->item[i];
        it->role = OPTEST_IN;
        memcpy(it->start, it->t.data, tensor_bytes(&it->t));
    }
}

void optest_keep(optest *o, const tensor *t) {
    memcpy(item_of(o, t)->start, t->data, tensor_bytes(t));
}
void optest_set_terms(optest *o, const tensor *t, int64_t terms) {
    item_of(o, t)->terms = (double)terms;
}
void optest_set_floor(optest *o, const tensor *t, double magnitude) {
    item_of(o, t)->floor = ldexp(magnitude, -22);
}
void optest_set_tol(optest *o, const tensor *t, double tol) {
    item_of(o, t)->tol = tol;
}

void optest_set_choice(optest *o, const tensor *block, const tensor *score, const tensor *rows, const tensor *blocks) {
    optest_item *it = item_of(o, block);
    it->score = score;
    it->rows = rows;
    it->blocks = blocks;
}

static bool is_float(dtype dt) {
    return dt == DT_F32 || dt == DT_F64 || dt == DT_BF16;
}

static double element(const void *data, dtype dt, int64_t i) {
    if (dt == DT_BF16) return (double)bf16_to_f32(((const uint16_t *)data)[i]);
    return dt == DT_F32 ? (double)((const float *)data)[i] : ((const double *)data)[i];
}

static void prepare(optest *o) {
    for (int i = 0; i < o->n; i++) {
        optest_item *it = &o->item[i];
        size_t       bytes = tensor_bytes(&it->t);
        if (it->role == OPTEST_OUT)
            memset(it->t.data, is_float(it->t.dt) ? 0xFF : 0x7F, bytes);
        else
            memcpy(it->t.data, it->start, bytes);
    }
}

static void check_guards(const optest *o, const char *be, bool inputs_too) {
    for (int i = 0; i < o->n; i++) {
        const optest_item *it = &o->item[i];
        const uint8_t     *lo = (const uint8_t *)it->block, *hi = lo + GUARD + tensor_bytes(&it->t);
        for (int j = 0; j < GUARD; j++)
            if (lo[j] != 0xFF || hi[j] != 0xFF) fail_msg("%s: %s written out of bounds", be, it->name);
        if (inputs_too && it->role == OPTEST_IN && memcmp(it->t.data, it->start, tensor_bytes(&it->t)) != 0)
            fail_msg("%s: input %s was changed", be, it->name);
    }
}

void optest_run(optest *o, const backend *be, optest_fn fn, const void *args) {
    ctx c = optest_ctx(be);
    prepare(o);
    fn(&c, args);
    dirty = c.scratch.peak;
    if (c.scratch.used != 0) fail_msg("%s: scratch not reset", be->name);
    check_guards(o, be->name, true);
}

/* ---- the bf16 form -------------------------------------------------------------------------------------------- */

static optest_item *item_at(optest *o, const void *p) {
    for (int i = 0; i < o->n; i++) {
        const char *lo = o->item[i].block, *hi = lo + tensor_bytes(&o->item[i].t) + 2 * GUARD;
        if ((const char *)p >= lo && (const char *)p < hi) return &o->item[i];
    }
    return NULL;
}

/* Rounds the inputs that the tested back end gets in bf16, for good, and notes which outputs it stores in bf16. */
static void round_inputs(optest *o, optest_fn fn, const void *args) {
    char       copy[OP_ARGS_BYTES];
    op_tensors l;
    op_id      op = op_of_front(fn);
    memcpy(copy, args, op_table[op].args_bytes);
    op_list(op, copy, &l);
    prepare(o);
    for (int i = 0; i < l.n; i++) {
        const op_tensor *e = &l.at[i];
        if (!e->of || e->t->dt != DT_F32 || op_tensor_dtype(e, DT_BF16, hosted_wide()) != DT_BF16) continue;
        optest_item *it = item_at(o, e->of->data);
        CHECK(it, "%s: %s is not of this test", op_table[op].name, e->name);
        it->stored16 |= e->role != ROLE_IN;
        int64_t n = tensor_count(e->t), rows = e->stride && n ? e->t->dim[0] : 1;
        for (int64_t r = 0; e->role != ROLE_OUT && r < rows; r++)
            for (int64_t k = 0; k < n / rows; k++) {
                float *x = F32(e->of) + r * e->stride + k;
                *x = bf16_to_f32(f32_to_bf16(*x));
            }
    }
    for (int i = 0; i < o->n; i++)
        if (o->item[i].role != OPTEST_OUT) memcpy(o->item[i].start, o->item[i].t.data, tensor_bytes(&o->item[i].t));
}

/* ---- judging -------------------------------------------------------------------------------------------------- */

/* NaN and Inf are judged before any norm. Error of element i, 0 for equal infinities. */
static double error_at(const optest_item *it, const char *be, int64_t i) {
    double a = element(it->t.data, it->t.dt, i), b = element(it->want, it->t.dt, i);
    if (isnan(b)) fail_msg("ref: %s[%lld] is NaN", it->name, (long long)i);
    if (isinf(b) && a == b) return 0;
    if (!isfinite(a)) fail_msg("%s: %s[%lld] is %g, ref has %g", be, it->name, (long long)i, a, b);
    return fabs(a - b);
}

static double worst_error(const optest_item *it, const char *be) {
    double worst = 0;
    for (int64_t i = 0, n = tensor_count(&it->t); i < n; i++) {
        double e = error_at(it, be, i);
        if (!(e <= worst)) worst = e;
    }
    return worst;
}

/* What an element may be off by before it is stored. */
static double bound_of(const optest_item *it) {
    if (it->tol > 0) return it->tol * it->max;
    double sum = sqrt(it->terms);
    if (optest_now == OPTEST_GPU_BF16 && it->terms / 8 > sum) sum = it->terms / 8;
    return 2 * it->worst + (4 + sum) * ldexp(it->max, -24) + it->floor + OPTEST_TINY;
}

static void judge_float(const optest_item *it, const char *be) {
    double bound = bound_of(it), worst = 0;
    double round = it->stored16 || it->t.dt == DT_BF16 ? 1.0 / 256 : 0;
    for (int64_t i = 0, n = tensor_count(&it->t); i < n; i++) {
        double e = error_at(it, be, i), want = fabs(element(it->want, it->t.dt, i));
        double limit = bound + round * (isfinite(want) ? want + bound : 0);
        if (!(e <= limit))
            fail_msg("%s: %s[%lld] is %.9g, ref has %.9g: error %.3e is over the bound %.3e (largest value %.3g)", be,
                     it->name, (long long)i, element(it->t.data, it->t.dt, i), element(it->want, it->t.dt, i), e, limit,
                     it->max);
        if (e > worst) worst = e;
    }
}

/* Scores that are off by `err` each put block m of ref's choice out only for another one with a score within 2 err of
 * its own. So a block may be missing when ref's score of it is within 2 err of the least one that ref kept, and one may
 * come in when its score is. */
static void judge_choice(optest *o, const optest_item *it, const char *be) {
    const optest_item *score = item_of(o, it->score);
    const int32_t     *first = I32(it->rows), *first_block = I32(it->blocks);
    int64_t            N = it->t.dim[1], K = it->t.dim[2], W = score->t.dim[2], b = 0;
    double             slack = 2 * bound_of(score);
    for (int64_t i = 0; i < it->t.dim[0] * N; i++) {
        const int32_t *want = (const int32_t *)it->want + i * K, *got = I32(&it->t) + i * K;
        for (b = 0; first[b + 1] <= i % N;) b++;
        const float *s = (const float *)score->want + i * W - first_block[b];
        double       least = INFINITY;
        for (int64_t j = 0; j < K && want[j] >= 0; j++) least = fmin(least, (double)s[want[j]]);
        for (int64_t j = 0; j < K; j++) {
            bool in_got = want[j] < 0, in_want = got[j] < 0;
            bool legal = got[j] < 0 ? want[j] < 0
                                    : want[j] >= 0 && got[j] >= first_block[b] && got[j] < first_block[b + 1] &&
                                          (j == 0 || got[j] > got[j - 1]);
            if (!legal) fail_msg("%s: %s[%lld,%lld] is %d", be, it->name, (long long)i, (long long)j, got[j]);
            for (int64_t k = 0; k < K; k++) {
                in_got |= got[k] == want[j];
                in_want |= want[k] == got[j];
            }
            if (!in_got && !((double)s[want[j]] <= least + slack))
                fail_msg("%s: %s row %lld lacks block %d of score %g; the least kept has %g", be, it->name,
                         (long long)i, want[j], (double)s[want[j]], least);
            if (!in_want && !((double)s[got[j]] >= least - slack))
                fail_msg("%s: %s row %lld has block %d of score %g; the least kept has %g", be, it->name, (long long)i,
                         got[j], (double)s[got[j]], least);
        }
    }
}

static void judge(optest *o, const optest_item *it, const char *be) {
    if (is_float(it->t.dt)) {
        judge_float(it, be);
    } else if (memcmp(it->t.data, it->want, tensor_bytes(&it->t)) != 0) {
        if (optest_now == OPTEST_GPU_BF16 && it->score)
            judge_choice(o, it, be);
        else
            fail_msg("%s: %s differs from ref", be, it->name);
    }
}

static int repeats(const optest *o) {
    const char *most = getenv("D3S2_REPEAT");
    return most && *most && atoi(most) < o->repeat ? atoi(most) : o->repeat;
}

/* The tested back end, whose bits must not change from run to run. */
static void judge_runs(optest *o, const backend *tested, optest_fn fn, const void *args) {
    optest_run(o, tested, fn, args);
    for (int i = 0; i < o->n; i++)
        if (o->item[i].role != OPTEST_IN) judge(o, &o->item[i], tested->name);
    for (int i = 0; i < o->n; i++) memcpy(o->item[i].got, o->item[i].t.data, tensor_bytes(&o->item[i].t));
    for (int r = 1; r < repeats(o); r++) {
        optest_run(o, tested, fn, args);
        for (int i = 0; i < o->n; i++)
            if (memcmp(o->item[i].got, o->item[i].t.data, tensor_bytes(&o->item[i].t)) != 0)
                fail_msg("%s: %s has other bits in run %d", tested->name, o->item[i].name, r + 1);
    }
}

void optest_compare(optest *o, optest_fn fn, const void *args) {
    const backend *tested = optest_tested(),
                  *rounded = optest_now == OPTEST_GPU_BF16 ? ref16_table(&backend_ref32) : &backend_ref32;
    for (int i = 0; i < o->n; i++) o->item[i].stored16 = false;
    if (optest_now == OPTEST_GPU_BF16) round_inputs(o, fn, args);
    optest_run(o, &backend_ref, fn, args);
    for (int i = 0; i < o->n; i++) {
        optest_item *it = &o->item[i];
        memcpy(it->want, it->t.data, tensor_bytes(&it->t));
        it->max = it->worst = 0;
        if (it->role != OPTEST_IN && is_float(it->t.dt))
            for (int64_t j = 0, n = tensor_count(&it->t); j < n; j++) {
                double v = fabs(element(it->want, it->t.dt, j));
                if (isfinite(v) && v > it->max) it->max = v;
            }
    }
    optest_run(o, rounded, fn, args);
    for (int i = 0; i < o->n; i++)
        if (o->item[i].role != OPTEST_IN && is_float(o->item[i].t.dt))
            o->item[i].worst = worst_error(&o->item[i], rounded->name);
    judge_runs(o, tested, fn, args);
    for (int i = 0; i < o->tighter && optest_now != OPTEST_CPU; i++) {
        hosted_set_scratch(hosted_scratch_taken() - 1);
        judge_runs(o, tested, fn, args);
    }
    hosted_set_scratch(0);
}

static double loss_of(const tensor *const *outs) {
    double sum = 0;
    for (int k = 0; outs[k]; k += 2)
        for (int64_t i = 0, n = tensor_count(outs[k]); i < n; i++)
            sum += element(outs[k]->data, outs[k]->dt, i) *
                   (outs[k + 1] ? element(outs[k + 1]->data, outs[k + 1]->dt, i) : 1);
    return sum;
}

/* outs may hold NULL as a dy, so the list ends at a NULL y. */
void optest_grad(optest *o, optest_fn fwd, optest_fn bwd, const void *args, tensor *const *pairs, tensor *const *outs,
                 double h, double tol) {
    if (optest_now != OPTEST_CPU) return;
    ctx c = optest_ctx(&backend_ref);
    prepare(o);
    fwd(&c, args);
    bwd(&c, args);
    check_guards(o, "ref", false); /* the forward writes anew what was frozen */
    for (int k = 0; pairs[k]; k += 2) {
        tensor      *x = pairs[k];
        optest_item *dx = item_of(o, pairs[k + 1]);
        int64_t      n = tensor_count(x);
        double      *diff = malloc(((size_t)n + 1) * sizeof *diff), max = 0, worst = 0;
        CHECK(diff && x->dt == DT_F32 && tensor_count(&dx->t) == n, "gradient of %s", dx->name);
        for (int64_t i = 0; i < n; i++) {
            float  keep = F32(x)[i];
            double slope[2];
            for (int s = 0; s < 2; s++) {
                float hi = keep + (float)(h * (1 << s)), lo = keep - (float)(h * (1 << s));
                F32(x)[i] = hi;
                fwd(&c, args);
                double up = loss_of((const tensor *const *)outs);
                F32(x)[i] = lo;
                fwd(&c, args);
                slope[s] = (up - loss_of((const tensor *const *)outs)) / ((double)hi - lo);
            }
            F32(x)[i] = keep;
            double start = dx->role == OPTEST_ACC ? (double)((float *)dx->start)[i] : 0;
            diff[i] = (4 * slope[0] - slope[1]) / 3;
            double e = fabs((double)F32(&dx->t)[i] - start - diff[i]);
            if (!(e <= worst)) worst = isfinite(e) ? e : INFINITY;
            if (fabs(diff[i]) > max) max = fabs(diff[i]);
        }
        free(diff);
        expect_le(worst, tol * max + tol / 100, dx->name);
    }
}

typedef struct {
    optest_fn   fn;
    const void *args;
} fatal_call;

static void run_fatal(void *p) {
    fatal_call *f = p;
    ctx         c = optest_ctx(&backend_ref);
    f->fn(&c, f->args);
}

void optest_fatal(optest_fn fn, const void *args, const char *part) {
    fatal_call  f = {fn, args};
    const char *text = expect_fatal(run_fatal, &f);
    if (!text) fail_msg("a wrong argument was accepted (expected a message with \"%s\")", part);
    if (!strstr(text, part)) fail_msg("message \"%s\" does not contain \"%s\"", text, part);
}

void optest_nan(optest *o, optest_fn fn, const void *args, tensor *in, tensor *out) {
    optest_item   *it = item_of(o, in);
    float          keep = ((float *)it->start)[0];
    const backend *be[2] = {&backend_ref, optest_tested()};
    ((float *)it->start)[0] = NAN;
    for (int b = 0; b < 2; b++) {
        optest_run(o, be[b], fn, args);
        optest_item *result = item_of(o, out);
        if (result->role == OPTEST_OUT) {
            /* A NaN that is only the poison does not count. */
            bool found = false;
            for (int64_t i = 0, n = tensor_count(out); i < n && !found; i++) {
                uint32_t bits[2];
                memcpy(bits, (char *)out->data + (size_t)i * dtype_size(out->dt), dtype_size(out->dt));
                bool poison16 = optest_now == OPTEST_GPU_BF16 && bits[0] == 0xFFFF0000u;
                found = isnan(element(out->data, out->dt, i)) && bits[0] != 0xFFFFFFFFu && !poison16;
            }
            if (!found) fail_msg("%s: NaN in %s did not reach %s", be[b]->name, it->name, result->name);
        }
    }
    ((float *)it->start)[0] = keep;
    prepare(o);
}

bool optest_case(void) {
    const char *part = getenv("D3S2_CASES");
    size_t      k, n, number = n_cases++;
    if (!part) return true;
    CHECK(sscanf(part, "%zu/%zu", &k, &n) == 2 && k < n, "D3S2_CASES is '%s', not K/N with K < N", part);
    if (number % n != k) return false;
    print_message("case %zu at %.1f s\n", number, now_seconds());
    return true;
}

/* ---- the program ---------------------------------------------------------------------------------------------- */

static int run_suite(const optest_suite *s, const struct CMUnitTest *also, int n_also) {
    struct CMUnitTest *all = malloc((size_t)(s->n_every + n_also + 1) * sizeof *all);
    CHECK(all, "no memory for %d tests", s->n_every + n_also);
    memcpy(all, s->every, (size_t)s->n_every * sizeof *all);
    if (n_also) memcpy(all + s->n_every, also, (size_t)n_also * sizeof *all);
    char           title[64];
    const backend *cuda = optest_now == OPTEST_CPU ? NULL : backend_find("cuda");
    const char    *tool = cuda ? cuda->built_for : NULL;
    snprintf(title, sizeof title, "%s on %s", s->name, optest_tested()->name);
    print_message("---- %s%s%s\n", title, tool ? ", built for " : "", tool ? tool : "");
    int failed = _cmocka_run_group_tests(title, all, (size_t)(s->n_every + n_also), s->set_up, s->tear_down);
    free(all);
    return failed;
}

int optest_main(int argc, char **argv, const optest_suite *s) {
    const char *why = "";
    if (argc > 2) cmocka_set_test_filter(argv[2]);
    if (getenv("D3S2_SKIP_TESTS")) cmocka_set_skip_filter(getenv("D3S2_SKIP_TESTS"));
    const char *form = argc > 1 ? argv[1] : "";
    if (strncmp(form, "gpu", 3) != 0) return test_exit(run_suite(s, s->cpu, s->n_cpu));
    if (!hosted_there(&why)) {
        note_skip("%s", why);
        return test_exit(0);
    }
    static const char *const forms[] = {[OPTEST_GPU_F32] = "gpu-f32", [OPTEST_GPU_BF16] = "gpu-bf16"};
    int                      failed = 0, ran = 0;
    for (optest_now = OPTEST_GPU_F32; optest_now <= OPTEST_GPU_BF16; optest_now++) {
        if (strcmp(form, "gpu") != 0 && strcmp(form, forms[optest_now]) != 0) continue;
        failed += run_suite(s, s->gpu, s->n_gpu);
        ran++;
    }
    CHECK(ran, "'%s' is not gpu, gpu-f32 or gpu-bf16", form);
    return test_exit(failed);
}
