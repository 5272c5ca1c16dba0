/* Whole networks on the CUDA back end against the CPU's: loss and all gradients, in f32 and bf16.
 *
 * The truth is ref. A gradient's error (L2) may be twice that of a base: of the cpu back end in f32, of gpu/sim16.h in
 * bf16; the base counts at least as much as its median over all gradients, relative to their size, as its own error may
 * be small by luck or by double sums. The selection of blocks is that of ref for all, because it jumps.
 *
 * Besides: the same bits when all segments are computed again in backward, and from run to run; and a forward and a
 * backward allocate nothing, wait for nothing and copy nothing between host and GPU. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "gpu/hosted.h"
#include "harness/harness.h"
#include "model/ssa.h"
#include "model/ssdit.h"
#include "model/ssvae.h"
#include "nn/rig.h"

enum { MB = 1024, MOST_BLOCKS = 4 };

/* ---- a network with weights and a batch -------------------------------------------------------------------------- */

/* What a run gives, in host memory. */
typedef struct {
    double loss;
    float *grad; /* slab */
    tensor block[MOST_BLOCKS];
} result;

typedef struct model_case model_case;
struct model_case {
    const char *name;
    /* Adds the rows and builds the batch; runs forward and loss on the tape. */
    void (*open)(model_case *k, rig *r);
    tensor (*forward)(model_case *k, rig *r, result *out); /* sums, f64 */
    void (*close)(model_case *k);
    params *p;

    ssdit_config dit_cfg;
    ssdit        dit;
    ssdit_batch  dit_batch;
    ssvae_config vae_cfg;
    ssvae        vae;
    ssvae_batch  vae_batch;
    tensor       x, cond, time, target, eps;
    double       scale;
};

/* Values that keep the signal's size: matrices by their inputs, norms about 1, the rest small. */
static void fill_weights(rig *r, params *p) {
    float *w = malloc((size_t)p->total * sizeof *w);
    assert_non_null(w);
    for (int i = 0; i < p->n; i++) {
        const param *row = p->row[i];
        int64_t      out = row->n_dims == 3 ? row->dim[2] : row->dim[0];
        bool         norm = row->init == INIT_ONE;
        fill_rule(w, row->count, (uint32_t)i + 1,
                  row->decay ? 2 * sqrt(3.0 * (double)out / (double)row->count)
                  : norm     ? 0.4
                             : 0.2);
        for (int64_t j = 0; norm && j < row->count; j++) w[j] += 1;
        rig_set_weight(p, row, w);
    }
    free(w);
    rig_weights_done(r, p);
}

/* Tiles whose distance from the centre is below `radius` by less than one, in block order. */
static tensor shells(rig *r, const int *radius, int n_samples, int block, tensor *first) {
    int32_t *at = arena_alloc(&r->host, (size_t)40000 * 3 * sizeof *at), n = 0;
    *first = arena_tensor(&r->host, DT_I32, DIMS(n_samples + 1));
    I32(first)[0] = 0;
    for (int s = 0; s < n_samples; s++) {
        int R = radius[s];
        for (int x = -R; x <= R; x++)
            for (int y = -R; y <= R; y++)
                for (int z = -R; z <= R; z++) {
                    int d = x * x + y * y + z * z;
                    if (d >= R * R || d < (R - 1) * (R - 1) || n == 40000) continue;
                    memcpy(at + 3 * n++, (int32_t[]){x + 9, y + 8, z + 10}, 3 * sizeof *at);
                }
        I32(first)[s + 1] = n;
    }
    tensor   coord = arena_tensor(&r->host, DT_I32, DIMS(n, 3));
    int32_t *order = arena_alloc(&r->host, (size_t)n * sizeof *order);
    blocks_sort(at, I32(first), n_samples, block, order);
    for (int i = 0; i < n; i++) memcpy(I32(&coord) + 3 * i, at + 3 * order[i], 3 * sizeof *at);
    return coord;
}

static tensor random_rows(rig *r, int64_t n, int64_t c, uint32_t seed, double scale) {
    tensor t = arena_tensor(&r->host, DT_F32, DIMS(n, c));
    fill_rule(F32(&t), n * c, seed, scale);
    return rig_send(r, t);
}

static void dit_open(model_case *k, rig *r) {
    static const int radius[] = {6, 4, 1};
    ssdit_config    *c = &k->dit_cfg;
    tensor           first, cond_first, cond_coord = {0}, coord = shells(r, radius, 3, c->ssa.m_slc, &first);
    ssdit_init(&k->dit, c);
    k->p = &k->dit.p;
    rig_params(r, k->p);
    fill_weights(r, k->p);
    cond_first = arena_tensor(&r->host, DT_I32, DIMS(4));
    memcpy(cond_first.data, (int32_t[]){0, 70, 70, 105}, 16); /* the second sample has no condition */
    if (c->sparse_cond) {
        cond_coord = arena_tensor(&r->host, DT_I32, DIMS(105, 3));
        for (int i = 0; i < 3 * 105; i++) I32(&cond_coord)[i] = i % 3 == 2 ? 0 : i * 7 % 37;
    }
    int64_t n = coord.dim[0];
    tensor  time = arena_tensor(&r->host, DT_F32, DIMS(3));
    memcpy(time.data, (float[]){911.5f, 402.25f, 37}, 12);
    k->dit_batch = ssdit_batch_build(&r->host, c, &coord, &first, &cond_first, &cond_coord);
    ssdit_batch_tensors(&k->dit_batch, rig_send_visit, r);
    k->time = rig_send(r, time);
    k->x = random_rows(r, n, c->in_channels, 101, 3.4);
    k->cond = random_rows(r, 105, c->cond_width, 102, 3.4);
    k->target = random_rows(r, n, c->out_channels, 103, 3.4);
    k->scale = 1 / (double)(n * c->out_channels);
}

static tensor dit_forward(model_case *k, rig *r, result *out) {
    ssa_trace   ssa[MOST_BLOCKS];
    var        *blocks[MOST_BLOCKS];
    ssdit_trace trace = {.ssa = ssa, .out = blocks};
    tensor      sums;
    var        *x = tape_leaf(&r->t, k->x, false), *cond = tape_leaf(&r->t, k->cond, false), *y;
    if (out)
        y = ssdit_forward_traced(&r->t, &k->dit, &k->dit_batch, x, &k->time, cond, &trace);
    else
        y = ssdit_forward(&r->t, &k->dit, &k->dit_batch, x, &k->time, cond);
    nn_mse(&r->t, y, &k->target, &k->dit_batch.sample_first, k->scale, &sums);
    for (int i = 0; out && i < k->dit_cfg.blocks; i++) {
        tensor seen = rig_see(r, &ssa[i].block);
        out->block[i] = seen;
        out->block[i].data = malloc(tensor_bytes(&seen));
        memcpy(out->block[i].data, seen.data, tensor_bytes(&seen));
    }
    return sums;
}

static void dit_close(model_case *k) {
    ssdit_free(&k->dit);
}

static void vae_open(model_case *k, rig *r) {
    static const int radius[] = {2, 1};
    ssvae_config    *c = &k->vae_cfg;
    tensor           first, coord = shells(r, radius, 2, c->window, &first);
    int64_t          n = coord.dim[0];
    ssvae_init(&k->vae, c);
    k->p = &k->vae.p;
    rig_params(r, k->p);
    fill_weights(r, k->p);
    float *value = arena_alloc(&r->host, (size_t)n * 512 * sizeof *value);
    fill_rule(value, n * 512, 104, 5); /* four in ten are active, more or less at random */
    for (int64_t i = 0; i < n * 512; i++) value[i] = fmaxf(-1, fminf(1, value[i]));
    k->vae_batch = ssvae_batch_build(&r->host, c, 0, &coord, &first, value);
    ssvae_batch_tensors(&k->vae_batch, rig_send_visit, r);
    k->eps = random_rows(r, n, c->latent_channels, 105, 3.4);
    k->target = random_rows(r, n * 512, 1, 106, 2);
    k->scale = 1 / (double)(n * 512);
}

static tensor vae_forward(model_case *k, rig *r, result *out) {
    tensor kl, sums;
    (void)out;
    var *moments = ssvae_encode(&r->t, &k->vae, &k->vae_batch);
    var *z = nn_vae_sample(&r->t, moments, &k->eps, 1e-3 * k->scale, &kl);
    var *y = ssvae_decode(&r->t, &k->vae, &k->vae_batch, z);
    nn_mse(&r->t, y, &k->target, &k->vae_batch.dec[3].sample_first, k->scale, &sums);
    return sums;
}

static void vae_close(model_case *k) {
    ssvae_free(&k->vae);
}

/* ---- runs ---------------------------------------------------------------------------------------------------------
 */

static void zero_gradient(rig *r, params *p) {
    tensor g = tensor_wrap(p->g, DT_F32, DIMS(p->total));
    g.dev = p->dev;
    zero_fwd(&r->c, &(xy_args){.y = &g});
}

/* Forward and backward; out: the loss, the gradient, and what was selected. Without out nothing is read back. */
static void pass(model_case *k, rig *r, result *out) {
    zero_gradient(r, k->p);
    tape_begin(&r->t);
    tensor sums = k->forward(k, r, out);
    tape_backward(&r->t);
    if (!out) return;
    tensor seen = rig_see(r, &sums);
    out->loss = 0;
    for (int64_t i = 0; i < tensor_count(&seen); i++) out->loss += F64(&seen)[i] * k->scale;
    out->grad = malloc((size_t)k->p->total * sizeof *out->grad);
    assert_non_null(out->grad);
    slab_read(k->p->dev, k->p->g, 0, k->p->total, out->grad);
}

static void result_free(result *x) {
    free(x->grad);
    for (int i = 0; i < MOST_BLOCKS; i++) free(x->block[i].data);
    *x = (result){0};
}

/* The same bits with everything computed again, and from run to run; a pass touches neither host nor allocator. */
static void check_passes(model_case *k, rig *r) {
    result first = {0}, again = {0};
    size_t bytes = (size_t)k->p->total * sizeof(float);
    pass(k, r, &first);
    for (int i = 0; i < 3; i++) {
        r->t.recompute_first = i == 1 ? 1 << 20 : i == 2 ? 2 : 0;
        device_counts before = device_counted();
        pass(k, r, NULL);
        device_counts after = device_counted();
        assert_memory_equal(&before, &after, sizeof before);
        again.grad = malloc(bytes);
        slab_read(k->p->dev, k->p->g, 0, k->p->total, again.grad);
        if (memcmp(first.grad, again.grad, bytes) != 0)
            fail_msg("%s: other gradients %s", k->name, i ? "with segments computed again" : "in the second run");
        result_free(&again);
    }
    r->t.recompute_first = 0;
    result_free(&first);
}

/* One run on a back end; `chosen` replaces its selection. */
static result run_on(model_case *k, const char *where, const result *chosen) {
    rig    r;
    result out = {0};
    rig_open(&r, where, MB);
    k->open(k, &r);
    if (r.c.be->dev == DEV_CUDA) check_passes(k, &r);
    if (chosen && chosen->block[0].data) rig_fix_selection(&r, chosen->block, k->dit_cfg.blocks);
    pass(k, &r, &out);
    k->close(k);
    rig_close(&r);
    return out;
}

/* ---- errors -------------------------------------------------------------------------------------------------------
 */

static double distance(const float *a, const float *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return sqrt(sum);
}

static double length(const float *a, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)a[i] * a[i];
    return sqrt(sum);
}

static int ascending(const void *pa, const void *pb) {
    double a = *(const double *)pa, b = *(const double *)pb;
    return (a > b) - (a < b);
}

/* The table of rows is made again for its offsets. */
static void compare(model_case *k, const result *truth, const result *base, const result *got, const char *form,
                    double loss_tol) {
    rig r;
    rig_open(&r, "cpu", MB);
    k->open(k, &r);
    params *p = k->p;
    double *rel = malloc((size_t)p->n * sizeof *rel), worst = 0, median;
    assert_non_null(rel);
    for (int i = 0; i < p->n; i++) {
        int64_t at = p->row[i]->offset, n = p->row[i]->count;
        rel[i] = distance(base->grad + at, truth->grad + at, n) / (length(truth->grad + at, n) + 1e-30);
    }
    qsort(rel, (size_t)p->n, sizeof *rel, ascending);
    median = rel[p->n / 2];
    /* A GPU adds the terms of a gradient in another order and in longer chains than the CPU: room for 64 roundings.
     * A row whose terms cancel (a bias in front of a norm or a softmax) keeps the rounding of the terms, which are of
     * the size of the other rows' gradients, not of its own. */
    double floor = ldexp(length(truth->grad, p->total), -28);
    for (int i = 0; i < p->n; i++) {
        int64_t at = p->row[i]->offset, n = p->row[i]->count;
        char    what[160];
        double  size = length(truth->grad + at, n), own = distance(base->grad + at, truth->grad + at, n);
        double  bound = 2 * fmax(own, median * size) + ldexp(size, -18) + floor;
        double  error = distance(got->grad + at, truth->grad + at, n);
        snprintf(what, sizeof what, "%s, %s, gradient of %s (of size %.3g)", k->name, form, p->row[i]->name, size);
        expect_le(error, bound, what);
        worst = fmax(worst, error / bound);
    }
    print_message("%s, %s: loss %.8g, ref %.8g; base's median error %.2e; worst error / bound %.2f\n", k->name, form,
                  got->loss, truth->loss, median, worst);
    expect_le(fabs(got->loss - truth->loss), loss_tol * truth->loss, "loss");
    free(rel);
    k->close(k);
    rig_close(&r);
}

/* Loss: what the training curves of the back ends may differ by. */
static void model_matches(void **state) {
    model_case *k = *state;
    result      truth = run_on(k, "ref", NULL), base = run_on(k, "cpu", &truth), got = run_on(k, "gpu f32", &truth);
    compare(k, &truth, &base, &got, "f32", 1e-5);
    result_free(&base);
    result_free(&got);
    base = run_on(k, "sim bf16", &truth);
    got = run_on(k, "gpu bf16", &truth);
    compare(k, &truth, &base, &got, "bf16", 1e-3);
    result_free(&base);
    result_free(&got);
    result_free(&truth);
}

static model_case dit_v11 = {.name = "dit v1.1",
                             .open = dit_open,
                             .forward = dit_forward,
                             .close = dit_close,
                             .dit_cfg = {.ssa = {.width = 256,
                                                 .heads = 8,
                                                 .kv_heads = 2,
                                                 .m_cmp = 8,
                                                 .m_slc = 8,
                                                 .m_win = 8,
                                                 .top_k = 4,
                                                 .pool_add_one = true,
                                                 .compression = COMPRESSION_V1},
                                         .blocks = 2,
                                         .mlp_ratio = 4,
                                         .in_channels = 16,
                                         .out_channels = 16,
                                         .cond_width = 96,
                                         .resolution = 32,
                                         .factor = 1}};
static model_case dit_v10 = {.name = "dit v1.0",
                             .open = dit_open,
                             .forward = dit_forward,
                             .close = dit_close,
                             .dit_cfg = {.ssa = {.width = 192,
                                                 .heads = 6,
                                                 .kv_heads = 2,
                                                 .m_cmp = 4,
                                                 .m_slc = 8,
                                                 .m_win = 8,
                                                 .top_k = 5,
                                                 .groups = 32,
                                                 .pool_add_one = true,
                                                 .compression = COMPRESSION_V2},
                                         .blocks = 3,
                                         .mlp_ratio = 2,
                                         .in_channels = 16,
                                         .out_channels = 16,
                                         .cond_width = 100,
                                         .sparse_cond = true,
                                         .cross_norm = true,
                                         .share_mod = true,
                                         .resolution = 32,
                                         .factor = 0.5}};
/* Published widths. */
static model_case vae = {.name = "vae",
                         .open = vae_open,
                         .forward = vae_forward,
                         .close = vae_close,
                         .vae_cfg = {.width = 512,
                                     .blocks_enc = 1,
                                     .blocks_dec = 2,
                                     .heads = 8,
                                     .mlp_ratio = 4,
                                     .latent_channels = 16,
                                     .enc_width = {32, 64, 128},
                                     .dec_width = {128, 64, 32},
                                     .groups = 32,
                                     .window = 8,
                                     .pool_add_one = true,
                                     .up_gain = 2.45,
                                     .factor = 1}};

int main(void) {
    const char             *why = "";
    const struct CMUnitTest tests[] = {
        {"dit v1.1", model_matches, NULL, NULL, &dit_v11},
        {"dit v1.0", model_matches, NULL, NULL, &dit_v10},
        {"vae", model_matches, NULL, NULL, &vae},
    };
    if (!hosted_there(&why)) {
        note_skip("%s", why);
        return test_exit(0);
    }
    return test_exit(cmocka_run_group_tests(tests, NULL, NULL));
}
