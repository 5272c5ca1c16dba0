/* Which numbers are bf16 (docs/decisions/0004): the op that casts, the copy of the weights, and both networks from
 * front to front with bf16 activations on a pretended GPU, whose ops do nothing and whose memory nobody may touch:
 * every dtype and every device is checked by the fronts, and a table read by the host would end the program. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/half.h"
#include "harness/harness.h"
#include "kernels/backend.h"
#include "model/ssdit.h"
#include "model/ssvae.h"
#include "nn/rig.h"

static const char *const HOST[] = {"ref", "cpu"};

/* ---- the ops -------------------------------------------------------------------------------------------------- */

static void test_copy_casts(void **state) {
    enum { N = 1000 };
    (void)state;
    for (int k = 0; k < 2; k++) {
        rig r;
        rig_open(&r, HOST[k], 1);
        tensor x = arena_tensor(&r.host, DT_F32, DIMS(N)), y = arena_tensor(&r.host, DT_BF16, DIMS(N, 1));
        tensor z = arena_tensor(&r.host, DT_F32, DIMS(N));
        fill_rule(F32(&x), N, 1, 100);
        F32(&x)[0] = INFINITY;
        F32(&x)[1] = 1.00390625f; /* half way: to even */
        F32(&x)[2] = 1.01171875f;
        copy_fwd(&r.c, &(xy_args){.x = &x, .y = &y});
        copy_fwd(&r.c, &(xy_args){.x = &y, .y = &z});
        for (int i = 0; i < N; i++) {
            assert_int_equal(BF16(&y)[i], f32_to_bf16(F32(&x)[i]));
            assert_true(F32(&z)[i] == bf16_to_f32(BF16(&y)[i]));
        }
        assert_true(F32(&z)[1] == 1.0f && F32(&z)[2] == 1.015625f);
        zero_fwd(&r.c, &(xy_args){.y = &y});
        for (int i = 0; i < N; i++) assert_int_equal(BF16(&y)[i], 0);
        rig_close(&r);
    }
}

static void test_adamw_copy(void **state) {
    enum { N = 9001 };
    static float slab[2][5][N];
    (void)state;
    for (int k = 0; k < 2; k++) {
        rig r;
        rig_open(&r, HOST[k], 1);
        for (int with = 0; with < 2; with++) {
            tensor   t[5], w16 = arena_tensor(&r.host, DT_BF16, DIMS(N));
            uint32_t seed = 7;
            for (int i = 0; i < 5; i++) {
                fill_rule(slab[with][i], N, seed++, 1);
                for (int j = 0; i == 2 && j < N; j++) slab[with][i][j] = fabsf(slab[with][i][j]);
                t[i] = tensor_wrap(slab[with][i], DT_F32, DIMS(N));
            }
            adamw_args a = {.w = &t[0],
                            .m = &t[1],
                            .v = &t[2],
                            .ema = &t[3],
                            .grad = &t[4],
                            .w16 = with ? &w16 : NULL,
                            .grad_scale = 0.5,
                            .lr = 1e-3,
                            .beta1 = 0.9,
                            .beta2 = 0.99,
                            .eps = 1e-8,
                            .weight_decay = 0.1,
                            .ema_decay = 0.9,
                            .step = 3};
            adamw_fwd(&r.c, &a);
            for (int i = 0; with && i < N; i++) assert_int_equal(BF16(&w16)[i], f32_to_bf16(F32(&t[0])[i]));
        }
        assert_memory_equal(slab[0], slab[1], sizeof slab[0]);
        rig_close(&r);
    }
}

static void gelu16(void *arg) {
    rig   *r = arg;
    tensor x = arena_tensor(&r->step, DT_BF16, DIMS(3, 4)), y = arena_tensor(&r->step, DT_BF16, DIMS(3, 4));
    act_fwd(&r->c, &(act_args){.act = ACT_SILU, .x = &x, .y = &y});
}

static void test_host_is_f32(void **state) {
    rig r;
    (void)state;
    rig_open(&r, "cpu", 1);
    const char *text = expect_fatal(gelu16, &r);
    assert_true(text && strstr(text, "x is bf16, the back end cpu computes in f32"));
    rig_close(&r);
}

/* ---- the tape ------------------------------------------------------------------------------------------------- */

static void test_cast(void **state) {
    enum { N = 5, C = 3 };
    float x[N * C], dy[N * C];
    rig   r;
    (void)state;
    rig_open(&r, "cpu", 1);
    fill_rule(x, N * C, 1, 2);
    fill_rule(dy, N * C, 2, 2);
    tensor seed = tensor_wrap(dy, DT_F32, DIMS(N, C));
    tape_begin(&r.t);
    var   *in = tape_leaf(&r.t, tensor_wrap(x, DT_F32, DIMS(N, C)), true);
    size_t used = r.step.used;
    assert_ptr_equal(nn_cast(&r.t, in, DT_F32), in);
    assert_true(r.step.used == used && !r.t.last);
    var *half = nn_cast(&r.t, in, DT_BF16), *out = nn_cast(&r.t, half, DT_F32);
    tape_seed(&r.t, out, &seed);
    tape_backward(&r.t);
    assert_true(half->v.dt == DT_BF16 && half->g.dt == DT_BF16 && out->g.dt == DT_F32 && in->g.dt == DT_F32);
    for (int i = 0; i < N * C; i++) {
        assert_true(F32(&out->v)[i] == bf16_to_f32(f32_to_bf16(x[i])));
        assert_true(F32(&in->g)[i] == bf16_to_f32(f32_to_bf16(dy[i])));
    }
    rig_close(&r);
}

static void test_params(void **state) {
    rig    r;
    params p[2];
    (void)state;
    rig_open(&r, "cpu", 1);
    for (int i = 0; i < 2; i++) {
        params_init(&p[i]);
        params_add(&p[i], 0, INIT_XAVIER, 0, DIMS(7, 5), "matrix");
        params_add(&p[i], 0, INIT_UNIFORM, 0.3, DIMS(7), "bias");
        params_add(&p[i], 0, INIT_UNIFORM, 0.3, DIMS(27, 5, 3), "kernel");
        params_add(&p[i], 0, INIT_ONE, 0, DIMS(4, 5), "gamma");
        p[i].act = i ? DT_BF16 : DT_F32;
        params_alloc(&p[i], &r.weights, true, true);
        params_randomize(&p[i], 3);
        params_refresh16(&r.c, &p[i]);
    }
    assert_null(p[0].w16);
    assert_true(params_fingerprint(&p[0]) == params_fingerprint(&p[1])); /* of the f32 weights */
    assert_memory_equal(p[1].ema, p[1].w, (size_t)p[1].total * sizeof(float));
    for (int i = 0; i < 4; i++) {
        const param *a = p[0].row[i], *b = p[1].row[i];
        bool         matrix = i == 0 || i == 2;
        assert_ptr_equal(a->w.data, a->master.data);
        assert_memory_equal(a->w.data, b->master.data, (size_t)a->count * sizeof(float));
        assert_ptr_equal(b->master.data, p[1].w + b->offset);
        assert_ptr_equal(b->g.data, p[1].g + b->offset);
        assert_true(b->w.dt == (matrix ? DT_BF16 : DT_F32) && b->master.dt == DT_F32 && b->g.dt == DT_F32);
        for (int64_t k = 0; matrix && k < b->count; k++)
            assert_int_equal(BF16(&b->w)[k], f32_to_bf16(F32(&b->master)[k]));
        if (!matrix) assert_ptr_equal(b->w.data, b->master.data);
    }
    float part[20], more[20];
    slab_read(p[1].dev, p[1].w, 4, 20, part);
    assert_memory_equal(part, p[1].w + 4, sizeof part);
    slab_write(p[1].dev, p[1].g, 9, 20, part);
    slab_read(p[1].dev, p[1].g, 9, 20, more);
    assert_memory_equal(part, more, sizeof part);
    for (int i = 0; i < 2; i++) params_free(&p[i]);
    rig_close(&r);
}

/* ---- whole networks on a pretended GPU -------------------------------------------------------------------------- */

static int64_t n_calls[2]; /* f32, bf16 copies into the other dtype */

#define X(name, args)                                                                                                  \
    static void name##_none(ctx *c, const args *a) {                                                                   \
        (void)c, (void)a;                                                                                              \
    }
#define copy_fwd_none copy_fwd_nothing
BACKEND_OPS(X)
#undef copy_fwd_none
#undef X

static void copy_fwd_none(ctx *c, const xy_args *a) {
    copy_fwd_nothing(c, a);
    if (a->x->dt != a->y->dt) n_calls[a->y->dt == DT_BF16]++;
}

static const backend nothing = {.name = "nothing",
                                .dev = DEV_CUDA,
#define X(op, args) .op = op##_none,
                                BACKEND_OPS(X)
#undef X
};

/* Arenas that only count hand out addresses that nobody may touch. */
static void gpu_open(rig *r, dtype act) {
    *r = (rig){.step = arena_counting_on("step", DEV_CUDA),
               .book = arena_new("book", (size_t)8 << 20),
               .host = arena_new("host", (size_t)32 << 20),
               .weights = arena_counting_on("weights", DEV_CUDA)};
    r->c = (ctx){.be = &nothing, .scratch = arena_counting_on("scratch", DEV_CUDA), .act = act};
    r->t = (tape){.c = &r->c, .step = &r->step, .book = &r->book, .recording = true};
}

static int n_moved;

static void move_away(void *user, tensor *t) {
    (void)user;
    assert_true(tensor_given(t) && t->dev == DEV_CPU); /* each once */
    t->data = (char *)8192;
    t->dev = DEV_CUDA;
    n_moved++;
}

static tensor far_away(dtype dt, const int64_t *dims, int n_dims) {
    tensor t = tensor_wrap((void *)8192, dt, dims, n_dims);
    t.dev = DEV_CUDA;
    return t;
}

static void forward_backward(rig *r, var *(*run)(rig *, void *), void *user, tensor *wanted) {
    for (int dry = 1; dry >= 0; dry--)
        for (int recompute = 0; recompute < 2; recompute++) {
            r->c.dry = dry;
            r->t.recompute_first = recompute * 100;
            r->t.recording = true;
            tape_begin(&r->t);
            var *out = run(r, user);
            assert_true(out->v.dt == DT_F32 && tensor_count(&out->v) == tensor_count(wanted));
            tape_backward(&r->t);
            r->t.recording = false;
            tape_begin(&r->t);
            run(r, user);
        }
}

typedef struct {
    ssdit       m;
    ssdit_batch b;
    tensor      x, time, cond, first, target;
} dit_case;

static var *run_dit(rig *r, void *user) {
    dit_case *d = user;
    tensor    sums;
    var      *v =
        ssdit_forward(&r->t, &d->m, &d->b, tape_leaf(&r->t, d->x, false), &d->time, tape_leaf(&r->t, d->cond, false));
    nn_mse(&r->t, v, &d->target, &d->first, 1, &sums);
    return v;
}

static void dit(compression_kind v, bool sparse, bool share, dtype act) {
    rig      r;
    dit_case d;
    gpu_open(&r, act);
    ssdit_config cfg = {.ssa = {.width = 32,
                                .heads = 4,
                                .kv_heads = 2,
                                .m_cmp = v == COMPRESSION_V2 ? 2 : 4,
                                .m_slc = 4,
                                .m_win = 4,
                                .top_k = 2,
                                .groups = 4,
                                .compression = v,
                                .pool_add_one = true},
                        .blocks = 2,
                        .mlp_ratio = 2,
                        .in_channels = 4,
                        .out_channels = 4,
                        .cond_width = 6,
                        .sparse_cond = sparse,
                        .share_mod = share,
                        .cross_norm = share,
                        .resolution = 12,
                        .factor = 0.5};
    ssdit_init(&d.m, &cfg);
    d.m.p.act = act;
    params_alloc(&d.m.p, &r.weights, true, true);
    enum { N = 4, L = 3 };
    tensor coord = arena_tensor(&r.host, DT_I32, DIMS(N, 3)), first = arena_tensor(&r.host, DT_I32, DIMS(3));
    tensor cond_first = arena_tensor(&r.host, DT_I32, DIMS(3)), cond_coord = arena_tensor(&r.host, DT_I32, DIMS(L, 3));
    memcpy(coord.data, (int32_t[]){0, 0, 0, 0, 1, 0, 5, 0, 0, 9, 9, 9}, tensor_bytes(&coord));
    memcpy(first.data, (int32_t[]){0, 3, 4}, tensor_bytes(&first));
    memcpy(cond_first.data, (int32_t[]){0, 1, 3}, tensor_bytes(&cond_first));
    memset(cond_coord.data, 0, tensor_bytes(&cond_coord));
    d.b = ssdit_batch_build(&r.host, &cfg, &coord, &first, &cond_first, &cond_coord);
    n_moved = 0;
    ssdit_batch_tensors(&d.b, move_away, NULL);
    assert_true(n_moved > 12);
    d.x = far_away(DT_F32, DIMS(N, 4));
    d.target = far_away(DT_F32, DIMS(N, 4));
    d.time = far_away(DT_F32, DIMS(2));
    d.cond = far_away(DT_F32, DIMS(L, 6));
    d.first = far_away(DT_I32, DIMS(3));
    memset(n_calls, 0, sizeof n_calls);
    forward_backward(&r, run_dit, &d, &d.x);
    /* x and the condition on the way in, in two passes of three each (a dry run calls nothing); nothing in f32 */
    assert_int_equal(n_calls[1], act == DT_BF16 ? 2 * 4 : 0);
    assert_int_equal(n_calls[0], 0);
    ssdit_free(&d.m);
    rig_close(&r);
}

static void test_dit(void **state) {
    (void)state;
    for (int act = 0; act < 2; act++)
        for (int v = 0; v < 2; v++)
            for (int i = 0; i < 4; i++) dit((compression_kind)v, i & 1, i >> 1, act ? DT_BF16 : DT_F32);
}

typedef struct {
    ssvae       m;
    ssvae_batch b;
    tensor      eps, target, sharp;
} vae_case;

static var *run_vae(rig *r, void *user) {
    vae_case *v = user;
    tensor    kl, sums;
    var      *moments = ssvae_encode(&r->t, &v->m, &v->b);
    assert_int_equal(moments->v.dt, DT_F32);
    var *z = nn_vae_sample(&r->t, moments, &v->eps, 1, &kl), *pred = ssvae_decode(&r->t, &v->m, &v->b, z);
    nn_sdf_loss(&r->t, pred, &v->target, &v->sharp, (const double[3]){1, 1, 1}, &sums);
    return pred;
}

static void vae(dtype act) {
    enum { T = 3 };
    rig      r;
    vae_case v;
    gpu_open(&r, act);
    ssvae_config cfg = {.width = 32,
                        .blocks_enc = 2,
                        .blocks_dec = 1,
                        .heads = 2,
                        .mlp_ratio = 2,
                        .latent_channels = 4,
                        .enc_width = {8, 8, 16},
                        .dec_width = {16, 8, 8},
                        .groups = 4,
                        .window = 4,
                        .factor = 1};
    ssvae_init(&v.m, &cfg);
    v.m.p.act = act;
    params_alloc(&v.m.p, &r.weights, true, false);
    tensor coord = arena_tensor(&r.host, DT_I32, DIMS(T, 3)), first = arena_tensor(&r.host, DT_I32, DIMS(3));
    float *value = arena_alloc(&r.host, T * 512 * sizeof *value);
    memcpy(coord.data, (int32_t[]){0, 0, 0, 0, 1, 0, 2, 2, 2}, tensor_bytes(&coord));
    memcpy(first.data, (int32_t[]){0, 2, 3}, tensor_bytes(&first));
    fill_rule(value, T * 512, 1, 4);
    v.b = ssvae_batch_build(&r.host, &cfg, 0, &coord, &first, value);
    n_moved = 0;
    ssvae_batch_tensors(&v.b, move_away, NULL);
    assert_true(n_moved >= 35);
    v.eps = far_away(DT_F32, DIMS(T, 4));
    v.target = far_away(DT_F32, DIMS(T * 512));
    v.sharp = far_away(DT_U8, DIMS(T * 64));
    memset(n_calls, 0, sizeof n_calls);
    forward_backward(&r, run_vae, &v, &v.target);
    /* voxel values and z on the way in; z's gradient on the way back, once per backward */
    assert_int_equal(n_calls[1], act == DT_BF16 ? 2 * 4 : 0);
    assert_int_equal(n_calls[0], act == DT_BF16 ? 2 : 0);
    ssvae_free(&v.m);
    rig_close(&r);
}

static void test_vae(void **state) {
    (void)state;
    vae(DT_F32);
    vae(DT_BF16);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_copy_casts),  cmocka_unit_test(test_adamw_copy),
                                       cmocka_unit_test(test_host_is_f32), cmocka_unit_test(test_cast),
                                       cmocka_unit_test(test_params),      cmocka_unit_test(test_dit),
                                       cmocka_unit_test(test_vae)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
