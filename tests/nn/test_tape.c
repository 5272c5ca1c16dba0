/* The tape and the parameter table, on the reference back end: what is recorded, where gradients go, what memory it
 * takes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness/harness.h"
#include "kernels/backend.h"
#include "nn/layers.h"

/* ---- parameter table ------------------------------------------------------------------------------------------ */

static param *add_plain(params *p, int i) {
    return params_add(p, i, INIT_NORMAL, 0.5, DIMS(3, 5), "m.%d.weight", i);
}

static void add_again(void *arg) {
    add_plain(arg, 0);
}

static void test_params(void **state) {
    (void)state;
    params p;
    params_init(&p);
    param     *row[4] = {add_plain(&p, 0), params_add(&p, 0, INIT_ZERO, 0, DIMS(3), "m.0.bias"),
                         params_add(&p, 1, INIT_XAVIER, 0, DIMS(40, 60), "m.1.weight"),
                         params_add(&p, 1, INIT_ONE, 0, DIMS(2, 7), "m.1.gamma")};
    const bool decay[4] = {true, false, true, false};
    int64_t    end = 0;
    assert_int_equal(p.n, 4);
    for (int i = 0; i < 4; i++) { /* in order, side by side, aligned */
        assert_ptr_equal(p.row[i], row[i]);
        assert_true(row[i]->offset == end && row[i]->offset % 16 == 0);
        assert_int_equal(row[i]->decay, decay[i]);
        end = row[i]->offset + (row[i]->count + 15) / 16 * 16;
    }
    assert_int_equal(p.total, end);
    assert_ptr_equal(params_find(&p, "m.1.weight"), row[2]);
    assert_null(params_find(&p, "m.1.weigh"));
    assert_non_null(strstr(expect_fatal(add_again, &p), "m.0.weight"));

    arena count = arena_counting("count"), real = arena_new("weights", (size_t)(5 * p.total) * sizeof(float) + 512);
    params_alloc(&p, &count, true, true);
    params_alloc(&p, &real, true, true);
    assert_int_equal(count.peak, real.peak);
    for (int64_t i = 0; i < p.total; i++)
        assert_true(p.w[i] == 0 && p.g[i] == 0 && p.m[i] == 0 && p.v[i] == 0 && p.ema[i] == 0);
    params_randomize(&p, 7);
    assert_memory_equal(p.w, p.ema, (size_t)p.total * sizeof(float));
    double largest = 0, bound = sqrt(6.0 / 100);
    for (int64_t i = 0; i < row[2]->count; i++) largest = fmax(largest, fabs(F32(&row[2]->w)[i]));
    assert_true(largest <= bound && largest > 0.98 * bound);
    for (int i = 0; i < 14; i++) assert_true(F32(&row[3]->w)[i] == 1);
    assert_true(p.w[row[0]->count] == 0); /* the padding stays zero */
    uint64_t print = params_fingerprint(&p);

    /* another table: the same row elsewhere starts with the same weights; seeds and fingerprints differ */
    params q;
    params_init(&q);
    params_add(&q, 0, INIT_NORMAL, 1, DIMS(9), "first");
    param *same = params_add(&q, 3, INIT_XAVIER, 0, DIMS(40, 60), "m.1.weight");
    arena  more = arena_new("weights", (size_t)q.total * sizeof(float) + 512);
    params_alloc(&q, &more, false, false);
    assert_true(q.g == NULL && q.m == NULL && q.v == NULL && q.ema == NULL && param_grad(same) == NULL);
    params_randomize(&q, 7);
    assert_memory_equal(same->w.data, row[2]->w.data, (size_t)same->count * sizeof(float));
    params_randomize(&q, 8);
    assert_memory_not_equal(same->w.data, row[2]->w.data, (size_t)same->count * sizeof(float));
    assert_true(params_fingerprint(&p) == print);
    F32(&row[0]->w)[3] += 1;
    assert_true(params_fingerprint(&p) != print);
    params_free(&p);
    params_free(&q);
    arena_free(&real);
    arena_free(&more);
}

/* ---- a small net ---------------------------------------------------------------------------------------------- */

enum { WIDTH = 12, ROWS = 7, BLOCKS = 3 };

typedef struct {
    param *w1, *b1, *w2, *b2;
} block_rows;

typedef struct {
    params     p;
    block_rows block[BLOCKS];
    arena      weights, step, book;
    ctx        c;
    tape       t;
    float      x[ROWS * WIDTH], dy[ROWS * WIDTH];
    int        hook[16], n_hooks;
    float     *at_hook[BLOCKS]; /* the gradient of w1 when the block's hook fired */
} net;

static void on_layer(void *user, int layer) {
    net *n = user;
    if (layer >= 0 && n->at_hook[layer])
        memcpy(n->at_hook[layer], n->block[layer].w1->g.data, tensor_bytes(&n->block[layer].w1->g));
    n->hook[n->n_hooks++] = layer;
}

static void net_open(net *n) {
    *n = (net){.c = {.be = &backend_ref, .scratch = arena_new("scratch", 1 << 20)}};
    params_init(&n->p);
    for (int i = 0; i < BLOCKS; i++)
        n->block[i] = (block_rows){params_add(&n->p, i, INIT_XAVIER, 0, DIMS(2 * WIDTH, WIDTH), "%d.w1", i),
                                   params_add(&n->p, i, INIT_UNIFORM, 0.2, DIMS(2 * WIDTH), "%d.b1", i),
                                   params_add(&n->p, i, INIT_XAVIER, 0, DIMS(WIDTH, 2 * WIDTH), "%d.w2", i),
                                   params_add(&n->p, i, INIT_UNIFORM, 0.2, DIMS(WIDTH), "%d.b2", i)};
    n->weights = arena_new("weights", (size_t)n->p.total * 4 * sizeof(float) + 512);
    params_alloc(&n->p, &n->weights, true, false);
    params_randomize(&n->p, 3);
    n->step = arena_new("step", 1 << 20);
    n->book = arena_new("book", 1 << 20);
    n->t = (tape){.c = &n->c, .step = &n->step, .book = &n->book, .recording = true};
    fill_rule(n->x, ROWS * WIDTH, 1, 2);
    fill_rule(n->dy, ROWS * WIDTH, 2, 2);
}

static void net_close(net *n) {
    params_free(&n->p);
    arena_free(&n->weights);
    arena_free(&n->step);
    arena_free(&n->book);
    arena_free(&n->c.scratch);
}

static var *input(net *n, bool needs_grad) {
    return tape_leaf(&n->t, tensor_wrap(n->x, DT_F32, DIMS(ROWS, WIDTH)), needs_grad);
}

static void seed_dy(net *n, var *y) {
    tensor dy = tensor_wrap(n->dy, DT_F32, DIMS(ROWS, WIDTH));
    tape_seed(&n->t, y, &dy);
}

/* x + W2 GELU(W1 LN(x)) */
static var *block(tape *t, const void *args, var *const *in) {
    const block_rows *r = *(const block_rows *const *)args;
    var              *h = nn_layer_norm(t, in[0], NULL, NULL, 1e-6);
    h = nn_linear(t, h, r->w1, r->b1, ACT_GELU_TANH);
    h = nn_linear(t, h, r->w2, r->b2, ACT_NONE);
    return nn_gate_residual(t, in[0], h, NULL, NULL);
}

/* The input goes into the first block and is added to the output again: two consumers across segments. */
static var *net_forward(net *n, var *x) {
    var *y = x;
    for (int i = 0; i < BLOCKS; i++) {
        const block_rows *r = &n->block[i];
        y = tape_segment(&n->t, i, block, &r, sizeof r, &y, 1);
    }
    return nn_gate_residual(&n->t, y, x, NULL, NULL);
}

static var *net_step(net *n) {
    tape_begin(&n->t);
    var *x = input(n, true), *y = net_forward(n, x);
    seed_dy(n, y);
    tape_backward(&n->t);
    return x;
}

/* ---- gradients ------------------------------------------------------------------------------------------------ */

static double silu_slope(double x) {
    double s = 1 / (1 + exp(-x));
    return s * (1 + x * (1 - s));
}

/* y = SiLU(x) + x + x: consumers are an op, a residual and a residual with itself. */
static void test_used_twice(void **state) {
    (void)state;
    net n;
    net_open(&n);
    tape_begin(&n.t);
    var *x = input(&n, true), *twice = nn_gate_residual(&n.t, x, x, NULL, NULL);
    seed_dy(&n, nn_gate_residual(&n.t, nn_act(&n.t, x, ACT_SILU), twice, NULL, NULL));
    tape_backward(&n.t);
    assert_true(x->g_live);
    for (int i = 0; i < ROWS * WIDTH; i++) {
        double want = n.dy[i] * (silu_slope(n.x[i]) + 2);
        expect_le(fabs(F32(&x->g)[i] - want), 1e-6 * (1 + fabs(want)), "gradient of a value with three consumers");
    }

    /* one op that takes the same value three times: the sum of what three copies get */
    int32_t rows[2] = {0, ROWS};
    tensor  first = tensor_wrap(rows, DT_I32, DIMS(2));
    float   sum[ROWS * WIDTH] = {0};
    tape_begin(&n.t);
    var *copy[3];
    for (int i = 0; i < 3; i++) copy[i] = input(&n, true);
    seed_dy(&n, nn_attn(&n.t, copy[0], copy[1], copy[2], 2, 2, (segments){&first, &first, NULL, NULL}, NULL));
    tape_backward(&n.t);
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < ROWS * WIDTH; i++) sum[i] += F32(&copy[k]->g)[i];
    tape_begin(&n.t);
    x = input(&n, true);
    seed_dy(&n, nn_attn(&n.t, x, x, x, 2, 2, (segments){&first, &first, NULL, NULL}, NULL));
    tape_backward(&n.t);
    assert_memory_equal(x->g.data, sum, sizeof sum);
    net_close(&n);
}

static void expect_sum(const var *x, const float *a, const float *b, const char *what) {
    for (int i = 0; i < ROWS * WIDTH; i++)
        expect_le(fabs(F32(&x->g)[i] - (a[i] + b[i])), 1e-6 * (1 + fabs(a[i]) + fabs(b[i])), what);
}

/* MLP(x) + (x + u) */
static var *around(tape *t, const void *args, var *const *in) {
    const block_rows *r = *(const block_rows *const *)args;
    var              *h = nn_mlp(t, in[0], r->w1, r->b1, ACT_GELU_TANH, r->w2, r->b2);
    return nn_gate_residual(t, nn_gate_residual(t, in[0], in[1], NULL, NULL), h, NULL, NULL);
}

/* MLP(x + u) */
static var *inside(tape *t, const void *args, var *const *in) {
    const block_rows *r = *(const block_rows *const *)args;
    return nn_mlp(t, nn_gate_residual(t, in[0], in[1], NULL, NULL), r->w1, r->b1, ACT_GELU_TANH, r->w2, r->b2);
}

/* A gradient that was lent stays as it is for all who read it, whoever adds to his own meanwhile. */
static void test_lent(void **state) {
    (void)state;
    net               n;
    float             through[ROWS * WIDTH], zero[ROWS * WIDTH] = {0};
    const block_rows *r = &n.block[0];
    net_open(&n);
    tape_begin(&n.t);
    var *x = input(&n, true);
    seed_dy(&n, nn_mlp(&n.t, x, r->w1, r->b1, ACT_GELU_TANH, r->w2, r->b2));
    tape_backward(&n.t);
    memcpy(through, x->g.data, sizeof through);

    /* h is made before the MLP reads x, so its gradient is read after the MLP has added to that of x */
    tape_begin(&n.t);
    x = input(&n, true);
    var *u = input(&n, true), *h = nn_act(&n.t, u, ACT_SILU);
    var *q = nn_mlp(&n.t, x, r->w1, r->b1, ACT_GELU_TANH, r->w2, r->b2);
    seed_dy(&n, nn_gate_residual(&n.t, nn_gate_residual(&n.t, x, h, NULL, NULL), q, NULL, NULL));
    tape_backward(&n.t);
    expect_sum(x, n.dy, through, "a value whose gradient was lent on");
    for (int i = 0; i < ROWS * WIDTH; i++)
        expect_le(fabs(F32(&u->g)[i] - n.dy[i] * silu_slope(n.x[i])), 1e-6, "a lent gradient");

    /* out of a segment, from memory of its output and from memory that goes away with it */
    for (int k = 0; k < 2; k++) {
        tape_begin(&n.t);
        x = input(&n, true);
        u = tape_leaf(&n.t, tensor_wrap(zero, DT_F32, DIMS(ROWS, WIDTH)), true);
        seed_dy(&n, tape_segment(&n.t, 0, k ? inside : around, &r, sizeof r, (var *const[]){x, u}, 2));
        tape_backward(&n.t);
        poison((char *)n.step.base + n.step.used, n.step.size - n.step.used);
        expect_sum(x, k ? zero : n.dy, through, "the input of a segment");
        expect_sum(u, k ? zero : n.dy, k ? through : zero, "an input that the gradient only passes");
    }
    net_close(&n);
}

static int copies;

static void count_copy(ctx *c, const xy_args *a) {
    copies++;
    copy_fwd_ref(c, a);
}

/* Through a chain of residual blocks no gradient is copied, and their memory does not grow. */
static void test_no_copies(void **state) {
    (void)state;
    net     n;
    backend counts = backend_ref;
    net_open(&n);
    counts.copy_fwd = count_copy;
    n.c.be = &counts;
    copies = 0;
    tape_begin(&n.t);
    var   *y = net_forward(&n, input(&n, true));
    size_t before = n.step.used;
    seed_dy(&n, y);
    tape_backward(&n.t);
    assert_int_equal(copies, 1);                                                /* the seed */
    assert_int_equal(n.step.used - before, 3 * ((sizeof n.dy + 63) / 64 * 64)); /* it, and two that take turns */
    net_close(&n);
}

/* Parameter gradients add up over micro-batches; an input that needs no gradient gets none. */
static void test_accumulation(void **state) {
    (void)state;
    net n;
    net_open(&n);
    net_step(&n);
    size_t bytes = (size_t)n.p.total * sizeof(float);
    float *once = malloc(bytes);
    memcpy(once, n.p.g, bytes);
    tape_begin(&n.t);
    var *x = input(&n, false);
    seed_dy(&n, net_forward(&n, x));
    tape_backward(&n.t);
    assert_false(x->g_live);
    for (int i = 0; i < n.p.n; i++) {
        const param *p = n.p.row[i];
        for (int64_t k = 0; k < p->count; k++) {
            double want = 2.0 * once[p->offset + k];
            expect_le(fabs(F32(&p->g)[k] - want), 1e-6 * (fabs(want) + 1), p->name);
        }
    }
    free(once);
    net_close(&n);
}

/* Central differences through segments and the skip. */
static void test_differences(void **state) {
    (void)state;
    net n;
    net_open(&n);
    net_step(&n);
    n.t.recording = false;
    for (int i = 0; i < n.p.n; i++) {
        float *w = F32(&n.p.row[i]->w) + 5, keep = *w;
        double diff = 0, h = 1e-2;
        for (int k = -2; k <= 2; k++) {
            const double weight[5] = {1, -8, 0, 8, -1};
            *w = (float)(keep + k * h);
            tape_begin(&n.t);
            const float *y = F32(&net_forward(&n, input(&n, false))->v);
            for (int j = 0; j < ROWS * WIDTH; j++) diff += weight[k + 2] * y[j] * n.dy[j];
        }
        *w = keep;
        diff /= 12 * h;
        expect_le(fabs(F32(&n.p.row[i]->g)[5] - diff), 1e-3 * (1 + fabs(diff)), n.p.row[i]->name);
    }
    net_close(&n);
}

/* ---- segments ------------------------------------------------------------------------------------------------- */

static void test_recompute(void **state) {
    (void)state;
    net n;
    net_open(&n);
    size_t bytes = (size_t)n.p.total * sizeof(float), peak[BLOCKS + 1];
    float *grad = malloc(bytes), dx[ROWS * WIDTH], y[ROWS * WIDTH];
    for (int r = 0; r <= BLOCKS; r++) {
        n.t.recompute_first = r;
        memset(n.p.g, 0, bytes);
        n.step.peak = 0;
        poison(n.step.base, n.step.size);
        var *x = net_step(&n);
        assert_int_equal(n.t.n_segments, BLOCKS);
        peak[r] = n.step.peak;
        if (r == 0) {
            memcpy(grad, n.p.g, bytes);
            memcpy(dx, x->g.data, sizeof dx);
        }
        assert_memory_equal(grad, n.p.g, bytes);
        assert_memory_equal(dx, x->g.data, sizeof dx);
        tape_begin(&n.t);
        memcpy(y, net_forward(&n, input(&n, true))->v.data, sizeof y);
    }
    /* The first one that is recomputed gains nothing: it is made again above the others, which are still there, and its
     * output is kept once more. */
    assert_true(peak[1] <= peak[0] + (sizeof y + 63) / 64 * 64);
    for (int r = 2; r <= BLOCKS; r++) assert_true(peak[r] < peak[r - 1]);
    free(grad);

    /* not recording: the same values in less memory */
    n.t.recording = false;
    n.t.recompute_first = 0;
    n.step.peak = n.book.peak = 0;
    poison(n.step.base, n.step.size);
    tape_begin(&n.t);
    var *x = input(&n, true), *out = net_forward(&n, x);
    assert_memory_equal(out->v.data, y, sizeof y);
    assert_false(x->needs_grad || out->needs_grad);
    assert_true(n.step.peak < peak[BLOCKS]);
    assert_int_equal(n.step.used, (BLOCKS + 1) * ((sizeof y + 63) / 64 * 64)); /* one output a segment and the sum */
    net_close(&n);
}

static void run_once(net *n) {
    tape_begin(&n->t);
    var *y = net_forward(n, input(n, true));
    if (!n->t.recording) return;
    seed_dy(n, y);
    tape_backward(&n->t);
}

static void run_again(void *arg) {
    run_once(arg);
}

/* The peak of a run that only counts, checked to touch nothing. */
static size_t dry_peak(net *n) {
    arena step = arena_counting("step"), scratch = n->c.scratch, *real = n->t.step;
    float before = n->p.g[0];
    n->c.scratch = arena_counting("scratch");
    n->c.dry = true;
    n->t.step = &step;
    run_once(n);
    n->c.scratch = scratch;
    n->c.dry = false;
    n->t.step = real;
    assert_true(n->p.g[0] == before);
    return step.peak;
}

static void test_dry_run(void **state) {
    (void)state;
    net n;
    net_open(&n);
    for (int recording = 0; recording < 2; recording++)
        for (int r = 0; r <= BLOCKS; r++) {
            n.t.recompute_first = r;
            n.t.recording = recording;
            n.step.peak = 0;
            run_once(&n);
            assert_true(n.step.peak > 0);
            assert_int_equal(dry_peak(&n), n.step.peak);

            /* exactly this much is enough, one line less is not */
            arena exact = arena_new("step", n.step.peak), less = arena_new("step", n.step.peak - 64);
            n.t.step = &exact;
            run_once(&n);
            n.t.step = &less;
            const char *text = expect_fatal(run_again, &n);
            assert_non_null(text);
            assert_non_null(strstr(text, "arena step is full"));
            assert_non_null(strstr(text, "more wanted"));
            n.t.step = &n.step;
            arena_free(&exact);
            arena_free(&less);
        }
    net_close(&n);
}

static void test_hook(void **state) {
    (void)state;
    net n;
    net_open(&n);
    n.t.on_layer_done = on_layer;
    n.t.user = &n;
    for (int r = 0; r <= BLOCKS; r++) {
        n.n_hooks = 0;
        n.t.recompute_first = r;
        memset(n.p.g, 0, (size_t)n.p.total * sizeof(float));
        for (int i = 0; i < BLOCKS; i++) n.at_hook[i] = malloc(tensor_bytes(&n.block[i].w1->g));
        net_step(&n);
        assert_int_equal(n.n_hooks, BLOCKS + 1);
        for (int i = 0; i < BLOCKS; i++) assert_int_equal(n.hook[i], BLOCKS - 1 - i);
        assert_int_equal(n.hook[BLOCKS], -1);
        for (int i = 0; i < BLOCKS; i++) { /* complete when it was announced */
            assert_memory_equal(n.at_hook[i], n.block[i].w1->g.data, tensor_bytes(&n.block[i].w1->g));
            free(n.at_hook[i]);
            n.at_hook[i] = NULL;
        }
    }
    /* a segment that no gradient reaches is announced as well, and its gradients stay zero */
    memset(n.p.g, 0, (size_t)n.p.total * sizeof(float));
    n.n_hooks = 0;
    tape_begin(&n.t);
    const block_rows *r = &n.block[0];
    var              *x = input(&n, true);
    tape_segment(&n.t, 0, block, &r, sizeof r, &x, 1);
    seed_dy(&n, nn_act(&n.t, x, ACT_TANH));
    tape_backward(&n.t);
    assert_true(n.n_hooks == 2 && n.hook[0] == 0 && n.hook[1] == -1);
    for (int64_t i = 0; i < n.p.total; i++) assert_true(n.p.g[i] == 0);
    net_close(&n);
}

/* ---- seeds, losses, rows -------------------------------------------------------------------------------------- */

static void seed_constant(void *arg) {
    net *n = arg;
    seed_dy(n, input(n, false));
}

static void seed_wrong_shape(void *arg) {
    net   *n = arg;
    tensor dy = tensor_wrap(n->dy, DT_F32, DIMS(ROWS - 1, WIDTH));
    tape_seed(&n->t, input(n, true), &dy);
}

static void backward_without_records(void *arg) {
    net *n = arg;
    n->t.recording = false;
    tape_backward(&n->t);
}

static void test_seed(void **state) {
    (void)state;
    net n;
    net_open(&n);
    tape_begin(&n.t);
    var *x = input(&n, true);
    seed_dy(&n, nn_act(&n.t, x, ACT_TANH));
    tape_backward(&n.t);
    for (int i = 0; i < ROWS * WIDTH; i++) {
        double y = tanh(n.x[i]);
        expect_le(fabs(F32(&x->g)[i] - n.dy[i] * (1 - y * y)), 1e-6, "seeded gradient");
    }
    assert_non_null(expect_fatal(seed_constant, &n));
    assert_non_null(expect_fatal(seed_wrong_shape, &n));
    assert_non_null(expect_fatal(backward_without_records, &n));
    net_close(&n);
}

/* One part of a split gets no gradient: it counts as zero. */
static void test_split(void **state) {
    (void)state;
    net n;
    net_open(&n);
    tape_begin(&n.t);
    var          *x = input(&n, true), *part[3];
    const int64_t width[3] = {5, 4, 3};
    nn_split(&n.t, x, 3, width, part);
    float  g[ROWS * 4];
    tensor dy = tensor_wrap(g, DT_F32, DIMS(ROWS, 4));
    fill_rule(g, ROWS * 4, 9, 2);
    poison((char *)n.step.base + n.step.used, n.step.size - n.step.used);
    tape_seed(&n.t, part[1], &dy);
    tape_backward(&n.t);
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < WIDTH; i++) {
            bool mine = i >= 5 && i < 9;
            assert_true(F32(&x->g)[r * WIDTH + i] == (mine ? g[r * 4 + i - 5] : 0));
            if (mine) assert_true(F32(&part[1]->v)[r * 4 + i - 5] == n.x[r * WIDTH + i]);
        }
    net_close(&n);
}

/* The KL term reaches the moments whether or not z is used. kl' = (mean, (exp(logvar) - 1)/2). */
static void test_posterior(void **state) {
    (void)state;
    net n;
    net_open(&n);
    const double scale = 0.25;
    for (int used = 0; used < 2; used++) {
        float  eps[ROWS * WIDTH / 2];
        tensor e = tensor_wrap(eps, DT_F32, DIMS(ROWS, WIDTH / 2)), kl;
        fill_rule(eps, ROWS * WIDTH / 2, 4, 2);
        tape_begin(&n.t);
        var *m = input(&n, true), *z = nn_vae_sample(&n.t, m, &e, scale, &kl);
        if (used) {
            tensor dz = tensor_wrap(n.dy, DT_F32, DIMS(ROWS, WIDTH / 2));
            tape_seed(&n.t, z, &dz);
        }
        tape_backward(&n.t);
        double sum = 0;
        for (int r = 0; r < ROWS; r++)
            for (int i = 0; i < WIDTH / 2; i++) {
                double mean = n.x[r * WIDTH + i], lv = n.x[r * WIDTH + WIDTH / 2 + i], ev = eps[r * WIDTH / 2 + i];
                double dz = used ? n.dy[r * WIDTH / 2 + i] : 0;
                sum += 0.5 * (mean * mean + exp(lv) - 1 - lv);
                expect_le(fabs(F32(&z->v)[r * WIDTH / 2 + i] - (mean + exp(lv / 2) * ev)), 1e-6, "z");
                expect_le(fabs(F32(&m->g)[r * WIDTH + i] - (dz + scale * mean)), 1e-6, "gradient of the mean");
                double want = dz * ev * exp(lv / 2) / 2 + scale * (exp(lv) - 1) / 2;
                expect_le(fabs(F32(&m->g)[r * WIDTH + WIDTH / 2 + i] - want), 1e-6, "gradient of logvar");
            }
        expect_le(fabs(F64(&kl)[0] - sum), 1e-9 * sum, "kl");
    }
    net_close(&n);
}

/* Groups of rows in any order, some not at all. */
static void test_gather(void **state) {
    (void)state;
    enum { GROUP = 2, N = 6, PICKED = 4 };
    net n;
    net_open(&n);
    int32_t at[PICKED] = {2, 0, 4, 1};
    tensor  index = tensor_wrap(at, DT_I32, DIMS(PICKED)),
           dy = tensor_wrap(n.dy, DT_F32, DIMS(PICKED * GROUP, WIDTH / 2));
    tape_begin(&n.t);
    var *x = tape_leaf(&n.t, tensor_wrap(n.x, DT_F32, DIMS(N * GROUP, WIDTH / 2)), true);
    poison((char *)n.step.base + n.step.used, n.step.size - n.step.used);
    var *y = nn_gather(&n.t, x, &index, GROUP);
    assert_true(y->v.dim[0] == PICKED * GROUP && y->v.dim[1] == WIDTH / 2);
    tape_seed(&n.t, y, &dy);
    tape_backward(&n.t);
    float want[N * GROUP * WIDTH / 2] = {0};
    for (int i = 0; i < PICKED; i++)
        for (int k = 0; k < GROUP * WIDTH / 2; k++) {
            assert_true(F32(&y->v)[i * GROUP * WIDTH / 2 + k] == n.x[at[i] * GROUP * WIDTH / 2 + k]);
            want[at[i] * GROUP * WIDTH / 2 + k] += n.dy[i * GROUP * WIDTH / 2 + k];
        }
    assert_memory_equal(x->g.data, want, sizeof want);
    net_close(&n);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_params),      cmocka_unit_test(test_used_twice), cmocka_unit_test(test_accumulation),
        cmocka_unit_test(test_differences), cmocka_unit_test(test_recompute),  cmocka_unit_test(test_dry_run),
        cmocka_unit_test(test_hook),        cmocka_unit_test(test_seed),       cmocka_unit_test(test_split),
        cmocka_unit_test(test_posterior),   cmocka_unit_test(test_gather),     cmocka_unit_test(test_lent),
        cmocka_unit_test(test_no_copies)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
