/* A tiny SS-DiT: central differences for every parameter (v1 and v2, sparse and dense condition), samples that do not
 * see each other, segments that are recomputed, the hook of finished layers, the initial weights. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "harness/harness.h"
#include "model/ssa.h"
#include "nn/rig.h"

static const double STEP = 0.02;

enum { BLOCKS = 2, IN = 4, OUT = 3, COND = 6 };

static ssdit_config tiny(compression_kind v, bool sparse, bool share, bool norm, shift_rule shift) {
    return (ssdit_config){.ssa = {.width = 16,
                                  .heads = 4,
                                  .kv_heads = 2,
                                  .head_dim = 4,
                                  .m_cmp = v == COMPRESSION_V2 ? 2 : 4,
                                  .m_slc = 4,
                                  .m_win = 4,
                                  .top_k = 2,
                                  .groups = 4,
                                  .compression = v,
                                  .pool_add_one = true},
                          .blocks = BLOCKS,
                          .mlp_ratio = 2,
                          .in_channels = IN,
                          .out_channels = OUT,
                          .cond_width = COND,
                          .sparse_cond = sparse,
                          .share_mod = share,
                          .cross_norm = norm,
                          .shift = shift,
                          .time_width = 8,
                          .resolution = 12,
                          .factor = 0.5};
}

static ssdit_config config_of(int i) {
    switch (i) {
    case 0:
        return tiny(COMPRESSION_V1, false, false, false, SHIFT_ALTERNATE);
    case 1:
        return tiny(COMPRESSION_V2, true, false, true, SHIFT_ALTERNATE);
    case 2:
        return tiny(COMPRESSION_V1, true, true, false, SHIFT_ALWAYS);
    default:
        return tiny(COMPRESSION_V2, false, true, true, SHIFT_NONE);
    }
}

/* ---- data ----------------------------------------------------------------------------------------------------- */

/* A batch of samples by id, so that one and the same sample can be put into several batches. */
typedef struct {
    ssdit_batch b;
    tensor      x, cond, time, dy, coord, first, cond_first, cond_coord;
} data;

/* Tokens of sample id: a thinned slab whose place depends on the id; fewer for ids from 20 on, none for id 9. */
static int tokens_of(int id, int32_t *out) {
    int n = 0;
    for (int x = 0; x < 12 && id != 9; x++)
        for (int y = 0; y < 12; y++)
            for (int z = 0; z < 12; z++)
                if ((7 * x + 5 * y + 3 * z + id) % 13 < (id < 20 ? 2 : 1) && abs(x + y - z - 2 - id % 20) < 3) {
                    if (out) memcpy(out + 3 * n, (int32_t[]){x, y, z}, 3 * sizeof *out);
                    n++;
                }
    return n;
}

static int cond_of(int id) {
    return id == 9 ? 0 : 3 + id % 2;
}

static void normals(float *x, int64_t n, int id, uint64_t what) {
    rng_fill_normal((rng_key){.seed = what, .purpose = RNG_TEST, .sample = (uint64_t)id}, 0, n, x);
}

static data make_data(rig *r, const ssdit_config *cfg, const int *ids, int n_samples) {
    data    d;
    arena  *a = &r->host;
    int64_t n = 0, n_cond = 0;
    for (int s = 0; s < n_samples; s++) {
        n += tokens_of(ids[s], NULL);
        n_cond += cond_of(ids[s]);
    }
    d.coord = arena_tensor(a, DT_I32, DIMS(n, 3));
    d.first = arena_tensor(a, DT_I32, DIMS(n_samples + 1));
    d.cond_first = arena_tensor(a, DT_I32, DIMS(n_samples + 1));
    d.cond_coord = arena_tensor(a, DT_I32, DIMS(n_cond, 3));
    d.x = arena_tensor(a, DT_F32, DIMS(n, IN));
    d.dy = arena_tensor(a, DT_F32, DIMS(n, OUT));
    d.cond = arena_tensor(a, DT_F32, DIMS(n_cond, COND));
    d.time = arena_tensor(a, DT_F32, DIMS(n_samples));
    n = n_cond = 0;
    for (int s = 0; s < n_samples; s++) {
        int     id = ids[s];
        int32_t raw[12 * 12 * 12 * 3], order[12 * 12 * 12], own[2] = {0, tokens_of(id, raw)};
        blocks_sort(raw, own, 1, cfg->ssa.m_slc, order);
        for (int i = 0; i < own[1]; i++) memcpy(I32(&d.coord) + 3 * (n + i), raw + 3 * order[i], 3 * sizeof *raw);
        for (int i = 0; i < cond_of(id); i++)
            memcpy(I32(&d.cond_coord) + 3 * (n_cond + i), (int32_t[]){i, id, i == 0}, 3 * sizeof *raw);
        I32(&d.first)[s] = (int32_t)n;
        I32(&d.cond_first)[s] = (int32_t)n_cond;
        normals(F32(&d.x) + n * IN, own[1] * IN, id, 1);
        normals(F32(&d.dy) + n * OUT, own[1] * OUT, id, 2);
        normals(F32(&d.cond) + n_cond * COND, cond_of(id) * COND, id, 3);
        F32(&d.time)[s] = 300.0f + 170.0f * (float)(id % 4);
        n += own[1];
        n_cond += cond_of(id);
    }
    I32(&d.first)[n_samples] = (int32_t)n;
    I32(&d.cond_first)[n_samples] = (int32_t)n_cond;
    d.b = ssdit_batch_build(a, cfg, &d.coord, &d.first, &d.cond_first, &d.cond_coord);
    return d;
}

/* Every weight random, also those that start at zero, large enough that no branch is negligible. */
static void make_model(rig *r, ssdit *m, const ssdit_config *cfg) {
    ssdit_init(m, cfg);
    params_alloc(&m->p, &r->weights, true, false);
    for (int i = 0; i < m->p.n; i++) {
        param *p = m->p.row[i];
        double spread = p->n_dims == 2 ? 1.0 / sqrt((double)p->dim[1]) : p->n_dims == 3 ? 0.2 : 0.4;
        normals(F32(&p->w), p->count, i, 10);
        for (int64_t k = 0; k < p->count; k++)
            F32(&p->w)[k] = (float)(F32(&p->w)[k] * spread + (p->init == INIT_ONE ? 1 : 0));
    }
}

typedef struct {
    var      *x, *cond, *y;
    ssa_trace ssa[BLOCKS];
} pass;

static pass forward(rig *r, ssdit *m, const data *d) {
    pass        p;
    var        *out[BLOCKS];
    ssdit_trace trace = {.ssa = p.ssa, .out = out};
    tape_begin(&r->t);
    p.x = tape_leaf(&r->t, d->x, true);
    p.cond = tape_leaf(&r->t, d->cond, true);
    p.y = ssdit_forward_traced(&r->t, m, &d->b, p.x, &d->time, p.cond, &trace);
    return p;
}

static pass forward_backward(rig *r, ssdit *m, const data *d) {
    memset(m->p.g, 0, (size_t)m->p.total * sizeof *m->p.g);
    pass p = forward(r, m, d);
    tape_seed(&r->t, p.y, &d->dy);
    tape_backward(&r->t);
    return p;
}

/* ---- central differences -------------------------------------------------------------------------------------- */

typedef struct {
    rig        *r;
    ssdit      *m;
    const data *d;
    tensor      chosen[BLOCKS];         /* selection at the point of expansion */
    double      noise;                  /* of the loss: rounding of y to float32, and of what led to it */
    int         checked, sharp, kinked; /* sharp: a wrong gradient could not have passed */
    double      worst;
} difference;

/* sum <y, dy>; *same is cleared when the selection is another one: the loss has a kink in between. */
static double loss_at(difference *f, bool *same) {
    pass   p = forward(f->r, f->m, f->d);
    double sum = 0;
    for (int i = 0; i < BLOCKS; i++)
        *same &= memcmp(p.ssa[i].block.data, f->chosen[i].data, tensor_bytes(&f->chosen[i])) == 0;
    for (int64_t i = 0; i < tensor_count(&p.y->v); i++) sum += (double)F32(&p.y->v)[i] * F32(&f->d->dy)[i];
    return sum;
}

/* Loss at w + at[i] u; false when the selection changed on the way. */
static bool losses_along(difference *f, float *w, const float *u, int64_t n, const double at[4], double loss[4]) {
    bool   same = true;
    float *keep = malloc((size_t)n * sizeof *keep);
    assert_non_null(keep);
    memcpy(keep, w, (size_t)n * sizeof *keep);
    for (int i = 0; i < 4 && same; i++) {
        for (int64_t k = 0; k < n; k++) w[k] = (float)(keep[k] + at[i] * u[k]);
        loss[i] = loss_at(f, &same);
    }
    memcpy(w, keep, (size_t)n * sizeof *keep);
    free(keep);
    return same;
}

/* Moves w along u by steps of h and 2h and compares with the slope g; `scale`: the largest slope of this kind. A step
 * over a kink is tried again shorter. */
static void check_slope(difference *f, const char *name, float *w, const float *u, int64_t n, double g, double scale) {
    for (double h = STEP; h > STEP / 100; h /= 4) {
        double loss[4];
        if (!losses_along(f, w, u, n, (const double[4]){h, -h, 2 * h, -2 * h}, loss)) continue;
        double slope = (8 * (loss[0] - loss[1]) - (loss[2] - loss[3])) / (12 * h);
        double bound = 2e-3 * scale + 1.5 * f->noise / h;
        f->checked++;
        f->worst = fmax(f->worst, fabs(slope - g) / bound);
        f->sharp += bound < 0.05 * scale;
        if (!(fabs(slope - g) <= bound)) fail_msg("%s: slope %.6g, gradient %.6g, bound %.2g", name, slope, g, bound);
        return;
    }
    f->kinked++;
}

/* The element with the largest gradient, and a random direction of unit length through all elements. */
static void check_tensor(difference *f, const char *name, float *w, const float *g, int64_t n, int id) {
    int64_t top = 0;
    double  norm = 0, along = 0, length = 0;
    float  *u = calloc((size_t)n, sizeof *u), *grad = malloc((size_t)n * sizeof *grad);
    assert_true(u && grad);
    memcpy(grad, g, (size_t)n * sizeof *grad); /* forward passes reuse the memory of input gradients */
    for (int64_t i = 0; i < n; i++) {
        if (fabsf(grad[i]) > fabsf(grad[top])) top = i;
        norm += (double)grad[i] * grad[i];
    }
    u[top] = 1;
    check_slope(f, name, w, u, n, grad[top], fabs(grad[top]));
    normals(u, n, id, 20);
    for (int64_t i = 0; i < n; i++) length += (double)u[i] * u[i];
    for (int64_t i = 0; i < n; i++) {
        u[i] = (float)(u[i] / sqrt(length));
        along += (double)u[i] * grad[i];
    }
    check_slope(f, name, w, u, n, along, sqrt(norm));
    free(u);
    free(grad);
}

static void gradients(void **state) {
    const ssdit_config cfg = config_of((int)(intptr_t)*state);
    rig                r;
    ssdit              m;
    rig_open(&r, "ref", 64);
    make_model(&r, &m, &cfg);
    data       d = make_data(&r, &cfg, (int[]){21, 28}, 2); /* no near tie in the selection */
    difference f = {.r = &r, .m = &m, .d = &d};
    for (int i = 0; i < 2; i++) /* something is left out */
        assert_true(I32(&d.b.blocks.slc_sample_first)[i + 1] - I32(&d.b.blocks.slc_sample_first)[i] > cfg.ssa.top_k);
    pass   p = forward_backward(&r, &m, &d);
    double y2 = 0, dy2 = 0;
    for (int64_t i = 0; i < tensor_count(&p.y->v); i++) {
        y2 += (double)F32(&p.y->v)[i] * F32(&p.y->v)[i];
        dy2 += (double)F32(&d.dy)[i] * F32(&d.dy)[i];
    }
    /* An error of y in a direction that has nothing to do with dy. The published model in float32 errs by 2e-6; ref
     * rounds only what ops store, a fifth of that at most. */
    f.noise = 4e-7 * sqrt(y2) * sqrt(dy2) / sqrt((double)tensor_count(&p.y->v));
    for (int i = 0; i < BLOCKS; i++) {
        f.chosen[i] = arena_tensor(&r.host, DT_I32, p.ssa[i].block.dim, 3);
        memcpy(f.chosen[i].data, p.ssa[i].block.data, tensor_bytes(&f.chosen[i]));
    }
    tensor dx = arena_tensor(&r.host, DT_F32, p.x->g.dim, 2), dcond = arena_tensor(&r.host, DT_F32, p.cond->g.dim, 2);
    memcpy(dx.data, p.x->g.data, tensor_bytes(&dx));
    memcpy(dcond.data, p.cond->g.data, tensor_bytes(&dcond));
    for (int i = 0; i < m.p.n; i++) {
        param *q = m.p.row[i];
        check_tensor(&f, q->name, F32(&q->w), F32(&q->g), q->count, i);
    }
    check_tensor(&f, "x", F32(&d.x), F32(&dx), tensor_count(&dx), 0);
    check_tensor(&f, "cond", F32(&d.cond), F32(&dcond), tensor_count(&dcond), 1);
    print_message("%d slopes, %d of them sharp, %d more over kinks; error / bound %.2f\n", f.checked, f.sharp, f.kinked,
                  f.worst);
    assert_true(10 * f.sharp >= 8 * f.checked);
    assert_true(10 * f.kinked <= f.checked);
    ssdit_free(&m);
    rig_close(&r);
}

/* ---- batches -------------------------------------------------------------------------------------------------- */

/* Three samples, one of them empty, together and one by one: same outputs and input gradients, and weight gradients
 * that add up. */
static void samples_are_independent(void **state) {
    for (int c = 0; c < 4; c++) {
        const ssdit_config cfg = config_of(c);
        const int          ids[] = {1, 9, 2};
        rig                r;
        ssdit              m;
        rig_open(&r, *state, 64);
        make_model(&r, &m, &cfg);
        data    d = make_data(&r, &cfg, ids, 3);
        pass    p = forward_backward(&r, &m, &d);
        int64_t n = d.x.dim[0], n_cond = d.cond.dim[0];
        float  *y = malloc((size_t)(n * OUT) * sizeof *y), *dx = malloc((size_t)(n * IN) * sizeof *dx);
        float  *dc = malloc((size_t)(n_cond * COND) * sizeof *dc);
        float  *g = malloc((size_t)m.p.total * sizeof *g), *sum = calloc((size_t)m.p.total, sizeof *sum);
        assert_true(y && dx && dc && g && sum);
        memcpy(y, p.y->v.data, tensor_bytes(&p.y->v));
        memcpy(dx, p.x->g.data, tensor_bytes(&p.x->g));
        memcpy(dc, p.cond->g.data, tensor_bytes(&p.cond->g));
        memcpy(g, m.p.g, (size_t)m.p.total * sizeof *g);
        for (int s = 0; s < 3; s++) {
            data    one = make_data(&r, &cfg, &ids[s], 1);
            int64_t row = I32(&d.first)[s], crow = I32(&d.cond_first)[s];
            p = forward_backward(&r, &m, &one);
            expect_le(rel_l2(F32(&p.y->v), y + row * OUT, one.x.dim[0] * OUT), 1e-6, "output of one sample");
            expect_le(rel_l2(F32(&p.x->g), dx + row * IN, one.x.dim[0] * IN), 2e-6, "gradient of its latents");
            expect_le(rel_l2(F32(&p.cond->g), dc + crow * COND, one.cond.dim[0] * COND), 2e-6,
                      "gradient of its condition");
            for (int64_t i = 0; i < m.p.total; i++) sum[i] += m.p.g[i];
        }
        expect_le(rel_l2(sum, g, m.p.total), 2e-6, "sum of the weight gradients");
        free(y), free(dx), free(dc), free(g), free(sum);
        ssdit_free(&m);
        rig_close(&r);
    }
}

/* Recomputed segments give the same bits; a dry run counts exactly what a run takes; forward alone takes less. */
static void recompute_and_counting(void **state) {
    for (int c = 0; c < 4; c++) {
        const ssdit_config cfg = config_of(c);
        rig                r;
        ssdit              m;
        rig_open(&r, *state, 64);
        make_model(&r, &m, &cfg);
        data   d = make_data(&r, &cfg, (int[]){1, 2}, 2);
        float *g = malloc((size_t)m.p.total * sizeof *g);
        size_t peak[3];
        assert_non_null(g);
        for (int recompute = 0; recompute <= BLOCKS; recompute++) {
            r.step.peak = r.book.peak = 0;
            r.t.recompute_first = recompute;
            memset(m.p.g, 0, (size_t)m.p.total * sizeof *m.p.g);
            tape_begin(&r.t);
            var *x = tape_leaf(&r.t, d.x, true), *cond = tape_leaf(&r.t, d.cond, false);
            var *y = ssdit_forward(&r.t, &m, &d.b, x, &d.time, cond);
            tape_seed(&r.t, y, &d.dy);
            tape_backward(&r.t);
            if (recompute == 0) memcpy(g, m.p.g, (size_t)m.p.total * sizeof *g);
            assert_memory_equal(g, m.p.g, (size_t)m.p.total * sizeof *g);
            peak[recompute] = r.step.peak;

            arena real = r.step;
            r.step = arena_counting("step");
            r.c.dry = true;
            tape_begin(&r.t);
            y = ssdit_forward(&r.t, &m, &d.b, tape_leaf(&r.t, d.x, true), &d.time, tape_leaf(&r.t, d.cond, false));
            tape_seed(&r.t, y, &d.dy);
            tape_backward(&r.t);
            assert_int_equal(r.step.peak, peak[recompute]);
            r.c.dry = false;
            r.step = real;
        }
        assert_true(peak[BLOCKS] < peak[0]);
        assert_memory_equal(g, m.p.g, (size_t)m.p.total * sizeof *g);
        free(g);
        ssdit_free(&m);
        rig_close(&r);
    }
}

/* ---- hook, init, limits --------------------------------------------------------------------------------------- */

typedef struct {
    ssdit   *m;
    uint64_t hash[BLOCKS + 2]; /* of the gradients of layer i - 1 when the hook said they are complete */
    int      order[BLOCKS + 2], n;
} hook_log;

static uint64_t layer_hash(const params *p, int layer) {
    uint64_t h = 1;
    for (int i = 0; i < p->n; i++)
        if (p->row[i]->layer == layer) h = hash_bytes(p->row[i]->g.data, (size_t)p->row[i]->count * sizeof(float), h);
    return h;
}

static void layer_done(void *user, int layer) {
    hook_log *log = user;
    assert_in_range(log->n, 0, BLOCKS + 1);
    log->hash[layer + 1] = layer_hash(&log->m->p, layer);
    log->order[log->n++] = layer;
}

static void layers_finish_in_order(void **state) {
    const ssdit_config cfg = config_of((int)(intptr_t)*state);
    rig                r;
    ssdit              m;
    rig_open(&r, "ref", 64);
    make_model(&r, &m, &cfg);
    data     d = make_data(&r, &cfg, (int[]){1, 2}, 2);
    hook_log log = {.m = &m};
    r.t.on_layer_done = layer_done;
    r.t.user = &log;
    forward_backward(&r, &m, &d);
    assert_int_equal(log.n, BLOCKS + 2);
    for (int i = 0; i < log.n; i++) assert_int_equal(log.order[i], BLOCKS - i);
    for (int layer = -1; layer <= BLOCKS; layer++) assert_true(log.hash[layer + 1] == layer_hash(&m.p, layer));
    assert_int_equal(ssdit_n_layers(&cfg), BLOCKS + 1);
    ssdit_free(&m);
    rig_close(&r);
}

/* R§5.2: at the start the output is zero, and only the last layer and the modulations are. */
static void initial_weights(void **state) {
    (void)state;
    for (int c = 0; c < 4; c++) {
        const ssdit_config cfg = config_of(c);
        rig                r;
        ssdit              m;
        rig_open(&r, "ref", 64);
        ssdit_init(&m, &cfg);
        params_alloc(&m.p, &r.weights, true, false);
        params_randomize(&m.p, 7);
        data d = make_data(&r, &cfg, (int[]){1, 2}, 2);
        pass p = forward(&r, &m, &d);
        for (int64_t i = 0; i < tensor_count(&p.y->v); i++) assert_true(F32(&p.y->v)[i] == 0);
        for (int i = 0; i < m.p.n; i++) {
            const param *q = m.p.row[i];
            const char  *kind = strrchr(q->name, '.');
            bool conv = strstr(q->name, ".conv."), mod = strstr(q->name, "adaLN"), out = strstr(q->name, "out_layer.");
            bool bias = kind && strcmp(kind, ".bias") == 0, pe = strstr(q->name, "intra_block_pe");
            double square = 0;
            for (int64_t k = 0; k < q->count; k++) square += (double)F32(&q->w)[k] * F32(&q->w)[k];
            double spread = sqrt(square / (double)q->count);
            if ((bias && !conv) || mod || out || pe)
                assert_true(square == 0);
            else if (q->n_dims == 1 && !conv)
                assert_true(spread == 1);
            else
                assert_true(spread > 0);
            if (strncmp(q->name, "t_embedder", 10) == 0 && !bias) expect_le(fabs(spread - 0.02), 0.004, q->name);
            if (strstr(q->name, "mlp.mlp.0.weight")) /* uniform: bound/sqrt(3), bound^2 = 6/(in + out) */
                expect_le(fabs(spread / sqrt(2.0 / (double)(q->dim[0] + q->dim[1])) - 1), 0.15, q->name);
            assert_int_equal(q->decay, q->n_dims >= 2 && !pe && !strstr(q->name, "gamma"));
        }
        ssdit_free(&m);
        rig_close(&r);
    }
}

static void outside_the_grid(void *arg) {
    rig         *r = arg;
    ssdit_config cfg = config_of(0);
    cfg.resolution = 11;
    make_data(r, &cfg, (int[]){1}, 1);
}

static void coordinates_are_checked(void **state) {
    (void)state;
    rig r;
    rig_open(&r, "ref", 4);
    const char *text = expect_fatal(outside_the_grid, &r);
    assert_non_null(text);
    assert_non_null(strstr(text, "outside the latent grid of 11"));
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        {"gradients, v1, dense condition", gradients, NULL, NULL, (void *)0},
        {"gradients, v2, sparse condition, norms", gradients, NULL, NULL, (void *)1},
        {"gradients, v1, sparse condition, shared modulation", gradients, NULL, NULL, (void *)2},
        {"gradients, v2, dense condition, shared modulation, norms", gradients, NULL, NULL, (void *)3},
        {"samples are independent on ref", samples_are_independent, NULL, NULL, "ref"},
        {"samples are independent on cpu", samples_are_independent, NULL, NULL, "cpu"},
        {"recompute and counting on ref", recompute_and_counting, NULL, NULL, "ref"},
        {"recompute and counting on cpu", recompute_and_counting, NULL, NULL, "cpu"},
        {"layers finish in order", layers_finish_in_order, NULL, NULL, (void *)1},
        {"layers finish in order, shared modulation", layers_finish_in_order, NULL, NULL, (void *)2},
        cmocka_unit_test(initial_weights),
        cmocka_unit_test(coordinates_are_checked)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
