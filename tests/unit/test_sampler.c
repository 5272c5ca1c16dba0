/* The sampler: against one step by hand, on a velocity with a known end, and sample by sample. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "harness/harness.h"
#include "model/sampler.h"
#include "nn/rig.h"

enum { CHANNELS = 4, COND = 6 };

static ssdit_config tiny(bool sparse) {
    return (ssdit_config){.ssa = {.width = 16,
                                  .heads = 4,
                                  .kv_heads = 2,
                                  .m_cmp = 4,
                                  .m_slc = 4,
                                  .m_win = 4,
                                  .top_k = 2,
                                  .compression = COMPRESSION_V1,
                                  .pool_add_one = true},
                          .blocks = 2,
                          .mlp_ratio = 2,
                          .in_channels = CHANNELS,
                          .out_channels = CHANNELS,
                          .cond_width = COND,
                          .sparse_cond = sparse,
                          .time_width = 8,
                          .resolution = 16,
                          .factor = 1};
}

typedef struct {
    rig         r;
    ssdit       m;
    ssdit_batch b;
    tensor      coord, first, cond, cond_first, cond_coord;
    uint64_t    id[3];
    int64_t     n; /* latents of all rows */
} setup;

/* A diagonal of n tokens is in order whatever the block size. */
static void add_tokens(int32_t *coord, int n) {
    for (int i = 0; i < n; i++) memcpy(coord + 3 * i, (int32_t[]){i, i, i}, 3 * sizeof *coord);
}

static void open_setup(setup *s, bool sparse, const char *backend_name, const uint64_t *ids, int n_samples) {
    static const int tokens[] = {13, 9, 16}, cond_rows[] = {3, 5, 4}; /* by id */
    rig_open(&s->r, backend_name, 32);
    ssdit_config cfg = tiny(sparse);
    ssdit_init(&s->m, &cfg);
    params_alloc(&s->m.p, &s->r.weights, false, false);
    for (int i = 0; i < s->m.p.n; i++) {
        param *p = s->m.p.row[i];
        rng_fill_normal((rng_key){.seed = 5, .purpose = RNG_TEST, .sample = hash_text(p->name)}, 0, p->count,
                        F32(&p->w));
        for (int64_t k = 0; k < p->count; k++) F32(&p->w)[k] *= 0.3f;
    }
    arena *a = &s->r.host;
    s->first = arena_tensor(a, DT_I32, DIMS(n_samples + 1));
    s->cond_first = arena_tensor(a, DT_I32, DIMS(n_samples + 1));
    I32(&s->first)[0] = I32(&s->cond_first)[0] = 0;
    for (int i = 0; i < n_samples; i++) {
        s->id[i] = ids[i];
        I32(&s->first)[i + 1] = I32(&s->first)[i] + tokens[ids[i]];
        I32(&s->cond_first)[i + 1] = I32(&s->cond_first)[i] + cond_rows[ids[i]];
    }
    int64_t n = I32(&s->first)[n_samples], n_cond = I32(&s->cond_first)[n_samples];
    s->coord = arena_tensor(a, DT_I32, DIMS(n, 3));
    s->cond_coord = arena_tensor(a, DT_I32, DIMS(n_cond, 3));
    s->cond = arena_tensor(a, DT_F32, DIMS(n_cond, COND));
    for (int i = 0; i < n_samples; i++) {
        int row = I32(&s->cond_first)[i], rows = cond_rows[ids[i]];
        add_tokens(I32(&s->coord) + 3 * I32(&s->first)[i], tokens[ids[i]]);
        add_tokens(I32(&s->cond_coord) + 3 * row, rows);
        rng_fill_normal((rng_key){.seed = 6, .purpose = RNG_TEST, .sample = ids[i]}, 0, rows * COND,
                        F32(&s->cond) + row * COND);
    }
    s->n = n * CHANNELS;
    s->b = ssdit_batch_build(a, &cfg, &s->coord, &s->first, &s->cond_first, &s->cond_coord);
}

static void close_setup(setup *s) {
    ssdit_free(&s->m);
    rig_close(&s->r);
}

static float *sample(setup *s, const sampler_config *cfg) {
    float *x = malloc((size_t)s->n * sizeof *x);
    assert_non_null(x);
    poison(x, (size_t)s->n * sizeof *x);
    sampler_run(&s->r.t, &s->m, &s->b, &s->cond, s->id, I32(&s->b.sample_first), cfg, x);
    return x;
}

static float *noise(const setup *s, uint64_t seed) {
    float *x = malloc((size_t)s->n * sizeof *x);
    assert_non_null(x);
    for (int i = 0; i < s->b.n_samples; i++) {
        int64_t row = I32(&s->first)[i], rows = I32(&s->first)[i + 1] - row;
        rng_fill_normal((rng_key){.seed = seed, .purpose = RNG_SAMPLE_NOISE, .sample = s->id[i]}, 0, rows * CHANNELS,
                        x + row * CHANNELS);
    }
    return x;
}

/* One step goes from sigma 1 to 0 and the model sees time 1000: x = noise - (v_u + g (v_c - v_u)). */
static void one_step(void **state) {
    for (int sparse = 0; sparse < 2; sparse++) {
        setup s;
        open_setup(&s, sparse, *state, (uint64_t[]){2, 0}, 2);
        const double guidance[] = {0, 1, 3.5};
        float       *start = noise(&s, 11), *want = malloc((size_t)s.n * sizeof *want);
        tensor       x = tensor_wrap(start, DT_F32, DIMS(s.n / CHANNELS, CHANNELS)), time, zero, v[2];
        assert_non_null(want);
        time = arena_tensor(&s.r.host, DT_F32, DIMS(2));
        zero = arena_tensor(&s.r.host, DT_F32, s.cond.dim, 2);
        memset(zero.data, 0, tensor_bytes(&zero));
        F32(&time)[0] = F32(&time)[1] = 1000;
        for (int i = 0; i < 2; i++) {
            tape_begin(&s.r.t);
            const var *y = ssdit_forward(&s.r.t, &s.m, &s.b, tape_leaf(&s.r.t, x, false), &time,
                                         tape_leaf(&s.r.t, i ? zero : s.cond, false));
            v[i] = arena_tensor(&s.r.host, DT_F32, y->v.dim, 2);
            memcpy(v[i].data, y->v.data, tensor_bytes(&v[i]));
        }
        assert_true(rel_l2(F32(&v[0]), F32(&v[1]), s.n) > 1e-3); /* the condition matters */
        for (int k = 0; k < 3; k++) {
            double g = guidance[k];
            for (int64_t i = 0; i < s.n; i++) {
                double c = F32(&v[0])[i], u = F32(&v[1])[i];
                want[i] = (float)(start[i] - (g > 0 ? u + g * (c - u) : c));
            }
            float *got = sample(&s, &(sampler_config){.steps = 1, .shift = 6, .guidance = g, .seed = 11});
            expect_le(rel_l2(got, want, s.n), 1e-6, "one step");
            free(got);
        }
        free(start);
        free(want);
        close_setup(&s);
    }
}

static int calls;

static void count_calls(void *user, int done, int steps) {
    calls++;
    assert_int_equal(done, calls);
    assert_int_equal(steps, *(int *)user);
}

/* Only the last layer's bias: the velocity is that constant, and any schedule ends at noise - bias. */
static void constant_velocity(void **state) {
    setup s;
    open_setup(&s, false, *state, (uint64_t[]){1}, 1);
    memset(s.m.p.w, 0, (size_t)s.m.p.total * sizeof *s.m.p.w);
    float *bias = F32(&params_find(&s.m.p, "out_layer.bias")->w);
    for (int i = 0; i < CHANNELS; i++) bias[i] = 0.5f * (float)(i + 1);
    for (int kind = 0; kind < 2; kind++) {
        int            steps = 15;
        sampler_config cfg = {.schedule = kind ? SCHEDULE_TRELLIS : SCHEDULE_PUBLISHED,
                              .steps = steps,
                              .shift = 8,
                              .guidance = 7,
                              .seed = 3,
                              .on_step = count_calls,
                              .user = &steps};
        calls = 0;
        s.r.t.recording = true;
        float *got = sample(&s, &cfg), *want = noise(&s, 3);
        for (int64_t i = 0; i < s.n; i++) want[i] -= bias[i % CHANNELS];
        expect_le(max_abs(got, want, s.n), 4e-6, "constant velocity"); /* 15 steps of rounding at |x| < 4 */
        assert_int_equal(calls, steps);
        assert_true(s.r.t.recording);
        free(got);
        free(want);
    }
    close_setup(&s);
}

/* A sample is the same in any batch, another with another seed, and a dry run counts what a run takes. */
static void sample_by_sample(void **state) {
    sampler_config cfg = {.steps = 4, .shift = 6, .guidance = 2, .seed = 8};
    setup          all;
    open_setup(&all, true, *state, (uint64_t[]){0, 1, 2}, 3);
    all.r.step.peak = 0;
    float *together = sample(&all, &cfg);
    size_t peak = all.r.step.peak;
    arena  real = all.r.step;
    all.r.step = arena_counting("step");
    all.r.c.dry = true;
    sampler_run(&all.r.t, &all.m, &all.b, &all.cond, all.id, I32(&all.b.sample_first), &cfg, NULL);
    assert_int_equal(all.r.step.peak, peak);
    all.r.step = real;
    all.r.c.dry = false;
    for (uint64_t id = 0; id < 3; id++) {
        setup one;
        open_setup(&one, true, *state, &id, 1);
        float *alone = sample(&one, &cfg);
        expect_le(rel_l2(alone, together + I32(&all.first)[id] * CHANNELS, one.n), 5e-6, "one sample");
        free(alone);
        close_setup(&one);
    }
    cfg.seed = 9;
    float *other = sample(&all, &cfg);
    assert_true(rel_l2(other, together, all.n) > 0.1);
    free(other);
    free(together);
    close_setup(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {{"one step on ref", one_step, NULL, NULL, "ref"},
                                       {"one step on cpu", one_step, NULL, NULL, "cpu"},
                                       {"constant velocity on ref", constant_velocity, NULL, NULL, "ref"},
                                       {"constant velocity on cpu", constant_velocity, NULL, NULL, "cpu"},
                                       {"sample by sample on ref", sample_by_sample, NULL, NULL, "ref"},
                                       {"sample by sample on cpu", sample_by_sample, NULL, NULL, "cpu"}};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
