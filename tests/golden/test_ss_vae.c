/* SS-VAE against the published model classes: ss_vae.h5, on every back end. */
#include "golden/ss_vae_case.h"
#include "gpu/hosted.h"
#include "kernels/backend.h"
#include "model/ssvae_chunk.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Our rows of x against the golden array, which has coordinates coord4 (n,4). */
static void expect_rows(vae_case *v, const row_map *m, const tensor *x, const char *path, const char *like,
                        const int32_t *coord4, int64_t n) {
    int64_t width = tensor_count(x) / x->dim[0];
    assert_int_equal(x->dim[0], m->n);
    float *got = to_golden(m, rig_f32(&v->r, x), coord4, n, width);
    expect_golden(&v->r, v->file, path, like, got, n * width);
    free(got);
}

/* Intermediate values carry no stored error of their own; the worst one of all outputs counts. */
static void expect_aux(vae_case *v, const row_map *m, const tensor *x, const char *name, const int32_t *coord4,
                       int64_t n) {
    const char *path = h5_path("/vae/aux/%s", name);
    int64_t     width = tensor_count(x) / x->dim[0];
    h5_dims     d;
    float      *want = h5_f32(v->file, path, &d), *got = to_golden(m, rig_f32(&v->r, x), coord4, n, width);
    assert_int_equal(d.count, n * width);
    net_judge(&v->r, rel_l2(got, want, d.count), net_bound(&v->r, v->file, "/vae", "out_worst_rel_l2"), path);
    free(want);
    free(got);
}

/* What group `vae` holds besides weights, in our row order, and the maps between the orders. */
typedef struct {
    int32_t *latent, *rec;
    int64_t  n_latent, n_rec;
    row_map  voxel, cell;
    tensor   eps, target;
    int32_t *sdf_at;
    int64_t  n_voxels;
    double   lambda_kl;
} vae_inputs;

static tensor ours_f32(arena *a, const row_map *m, h5_file f, const char *path, const int32_t *coord4, int64_t n) {
    h5_dims d;
    float  *x = h5_f32(f, path, &d);
    int64_t width = d.count / n;
    float  *y = to_ours(m, x, coord4, n, width);
    tensor  t = arena_tensor(a, DT_F32, DIMS(n, width));
    memcpy(t.data, y, tensor_bytes(&t));
    free(x);
    free(y);
    return t;
}

static vae_inputs open_inputs(vae_case *v) {
    vae_inputs in = {0};
    h5_file    f = v->file;
    h5_dims    d;
    in.latent = h5_i32(f, "/vae/out/latent_coords", &d);
    in.n_latent = d.n[0];
    in.rec = h5_i32(f, "/vae/out/rec_coords", &d);
    in.n_rec = d.n[0];
    int32_t *index = h5_i32(f, "/vae/in/sparse_index", &d), *sample = h5_i32(f, "/vae/in/batch_idx", NULL);
    float   *sdf = h5_f32(f, "/vae/in/sparse_sdf", NULL);
    in.n_voxels = d.n[0];
    in.sdf_at = malloc((size_t)d.n[0] * 4 * sizeof *in.sdf_at);
    for (int64_t i = 0; i < d.n[0]; i++) {
        in.sdf_at[4 * i] = sample[i];
        memcpy(in.sdf_at + 4 * i + 1, index + 3 * i, 3 * sizeof *index);
    }
    vae_case_batch(v, in.latent, in.n_latent, in.sdf_at, sdf, in.n_voxels);
    in.voxel = row_map_level(v, &v->b.enc[0]);
    in.cell = row_map_level(v, &v->b.dec[3]);
    in.eps = rig_send(&v->r, ours_f32(&v->r.host, &v->tile_row, f, "/vae/in/eps", in.latent, in.n_latent));
    in.target = rig_send(&v->r, ours_f32(&v->r.host, &in.cell, f, "/vae/in/target", in.rec, in.n_rec));
    in.lambda_kl = h5_attr_double(f, "/vae", "lambda_kl", NAN);
    free(index);
    free(sample);
    free(sdf);
    return in;
}

static void close_inputs(vae_inputs *in) {
    free(in->latent);
    free(in->rec);
    free(in->sdf_at);
    free(in->voxel.at);
    free(in->cell.at);
}

/* loss = mean((rec - target)^2) + lambda_kl * mean over tokens and channels of the KL term. */
typedef struct {
    var   *sdf, *moments, *z, *rec;
    tensor kl, l2;
} vae_run;

static vae_run forward(vae_case *v, const vae_inputs *in) {
    tape   *t = &v->r.t;
    int64_t latents = in->n_latent * v->m.cfg.latent_channels;
    tape_begin(t);
    vae_run r = {.sdf = tape_leaf(t, v->sent.sdf, true)};
    r.moments = ssvae_encode_values(t, &v->m, &v->sent, r.sdf);
    r.z = nn_vae_sample(t, r.moments, &in->eps, in->lambda_kl / (double)latents, &r.kl);
    r.rec = ssvae_decode(t, &v->m, &v->sent, r.z);
    nn_mse(t, r.rec, &in->target, &v->sent.dec[3].sample_first, 1.0 / (double)in->n_rec, &r.l2);
    return r;
}

/* Bound of a mean over the values `from`. The stored error of the scalar itself is one draw of errors that cancel by
 * luck; the relative error of what it is computed from is not. Half an ulp comes on top: it is stored in float32. */
static double scalar_bound(vae_case *v, const char *path, const char *from) {
    double own = net_bound(&v->r, v->file, path, "rel_l2"), values = net_bound(&v->r, v->file, from, "rel_l2");
    return (fmax(own, values) + 6e-8) * fabs(h5_scalar(v->file, path));
}

static void check_outputs(vae_case *v, const vae_inputs *in, const vae_run *r) {
    int64_t n = in->n_latent, latent = v->m.cfg.latent_channels;
    tensor  part[2], moments = rig_see(&v->r, &r->moments->v), kl_sum = rig_see(&v->r, &r->kl),
                    l2_sum = rig_see(&v->r, &r->l2);
    for (int k = 0; k < 2; k++) {
        part[k] = arena_tensor(&v->r.host, DT_F32, DIMS(n, latent));
        for (int64_t i = 0; i < n; i++)
            memcpy(F32(&part[k]) + latent * i, F32(&moments) + latent * (2 * i + k), (size_t)latent * sizeof(float));
    }
    expect_rows(v, &v->tile_row, &part[0], "/vae/out/mean", "/vae/out/mean", in->latent, n);
    expect_rows(v, &v->tile_row, &part[1], "/vae/out/logvar", "/vae/out/logvar", in->latent, n);
    expect_rows(v, &v->tile_row, &r->z->v, "/vae/out/z", "/vae/out/z", in->latent, n);
    expect_rows(v, &in->cell, &r->rec->v, "/vae/out/rec", "/vae/out/rec", in->rec, in->n_rec);
    double l2 = 0, kl = F64(&kl_sum)[0] / (double)(n * latent);
    for (int s = 0; s < v->b.n_samples; s++) l2 += F64(&l2_sum)[s] / (double)in->n_rec;
    double l2_bound = scalar_bound(v, "/vae/out/l2", "/vae/out/rec"),
           kl_bound = scalar_bound(v, "/vae/out/kl", "/vae/out/logvar");
    net_judge(&v->r, fabs(l2 - h5_scalar(v->file, "/vae/out/l2")), l2_bound, "/vae/out/l2");
    net_judge(&v->r, fabs(kl - h5_scalar(v->file, "/vae/out/kl")), kl_bound, "/vae/out/kl");
    net_judge(&v->r, fabs(l2 + in->lambda_kl * kl - h5_scalar(v->file, "/vae/out/loss")),
              l2_bound + in->lambda_kl * kl_bound, "/vae/out/loss");
}

static void check_gradients(vae_case *v, const vae_inputs *in, const vae_run *r) {
    for (int i = 0; i < v->m.p.n; i++) {
        const param *p = v->m.p.row[i];
        const char  *path = h5_path("/vae/grads/%s", p->name);
        expect_golden(&v->r, v->file, path, path, rig_f32(&v->r, &p->g), p->count);
    }
    assert_true(r->sdf->g_live);
    expect_rows(v, &in->voxel, &r->sdf->g, "/vae/grads_in/sparse_sdf", "/vae/grads_in/sparse_sdf", in->sdf_at,
                in->n_voxels);
}

/* The gradient slab: into host memory, and back to zero. */
static void take_gradient(vae_case *v, float *out) {
    params *p = &v->m.p;
    tensor  g = tensor_wrap(p->g, DT_F32, DIMS(p->total));
    g.dev = p->dev;
    slab_read(p->dev, p->g, 0, p->total, out);
    zero_fwd(&v->r.c, &(xy_args){.y = &g});
}

static void test_vae(const char *name) {
    vae_case v;
    vae_case_open(&v, name, 2048);
    vae_inputs in = open_inputs(&v);
    vae_run    r = forward(&v, &in);
    tape_backward(&v.r.t);
    check_outputs(&v, &in, &r);
    check_gradients(&v, &in, &r);

    /* the same gradients, to the bit, when all segments are computed again in backward */
    size_t bytes = (size_t)v.m.p.total * sizeof(float);
    float *first = malloc(bytes), *again = malloc(bytes);
    assert_true(first && again);
    take_gradient(&v, first);
    v.r.t.recompute_first = ssvae_n_layers(&v.m.cfg);
    forward(&v, &in);
    tape_backward(&v.r.t);
    take_gradient(&v, again);
    assert_memory_equal(first, again, bytes);
    free(first);
    free(again);
    close_inputs(&in);
    vae_case_close(&v);
}

static void test_intermediates(const char *name) {
    vae_case v;
    vae_case_open(&v, name, 2048);
    vae_inputs in = open_inputs(&v);
    tape      *t = &v.r.t;
    dtype      act = v.r.c.act;
    t->recording = false;
    tape_begin(t);
    var *x = nn_cast(t, tape_leaf(t, v.sent.sdf, false), act);
    for (int i = 0; i < SSVAE_LEVELS; i++) {
        h5_dims  d;
        int32_t *at = h5_i32(v.file, h5_path("/vae/aux/enc_down%d_coords", i), &d);
        row_map  m = row_map_level(&v, &v.b.enc[i + 1]);
        x = ssvae_down(t, &v.m, &v.sent, i, x);
        expect_aux(&v, &m, &x->v, h5_path("enc_down%d", i), at, d.n[0]);
        free(m.at);
        free(at);
    }
    x = ssvae_enc_stem(t, &v.m, &v.sent, x);
    for (int i = 0; i < v.m.cfg.blocks_enc; i++) {
        x = ssvae_enc_block(t, &v.m, &v.sent, i, x);
        expect_aux(&v, &v.tile_row, &x->v, h5_path("enc_block%d", i), in.latent, in.n_latent);
    }
    x = ssvae_enc_head(t, &v.m, x);
    tensor kl;
    x = ssvae_dec_stem(t, &v.m, &v.sent, nn_cast(t, nn_vae_sample(t, x, &in.eps, 0, &kl), act));
    for (int i = 0; i < v.m.cfg.blocks_dec; i++) {
        x = ssvae_dec_block(t, &v.m, &v.sent, i, x);
        expect_aux(&v, &v.tile_row, &x->v, h5_path("dec_block%d", i), in.latent, in.n_latent);
    }
    x = ssvae_up(t, &v.m, v.sent.dec, 0, x);
    tensor of_tile = tensor_view(&x->v, DIMS(in.n_latent, 8 * x->v.dim[1])); /* the children follow their tile */
    expect_aux(&v, &v.tile_row, &of_tile, "dec_up0", in.latent, in.n_latent);
    close_inputs(&in);
    vae_case_close(&v);
}

/* ---- chunks --------------------------------------------------------------------------------------------------- */

/* Ours against golden rows in any order and with repetitions: published chunks give up to 7 voxel layers of their
 * neighbour as well (R§11 Q12). */
static void expect_chunk(vae_case *v, const row_map *cells, const float *ours, const char *name, const char *coords) {
    h5_dims  d;
    int32_t *at = h5_i32(v->file, h5_path("/chunk/out/%s", coords), &d);
    float   *got = to_golden(cells, ours, at, d.n[0], 1);
    expect_golden(&v->r, v->file, h5_path("/chunk/out/%s", name), "/vae/out/rec", got, d.n[0]);
    free(got);
    free(at);
}

static void check_whole_and_chunked(vae_case *v, const row_map *cells, const tensor *z, int chunk, int padding) {
    tape *t = &v->r.t;
    t->recording = false;
    tape_begin(t);
    var   *y = ssvae_decode(t, &v->m, &v->sent, tape_leaf(t, *z, false));
    float *whole = malloc(tensor_bytes(&y->v)), *chunked = malloc(tensor_bytes(&y->v));
    memcpy(whole, rig_f32(&v->r, &y->v), tensor_bytes(&y->v));
    expect_chunk(v, cells, whole, "whole", "whole_coords");
    expect_chunk(v, cells, whole, "train_chunk", "train_chunk_coords"); /* the padding makes it exact */

    poison(chunked, (size_t)cells->n * sizeof *chunked); /* a voxel that no chunk writes stays NaN */
    tape_begin(t);
    ssvae_decode_chunks(t, &v->m, &v->sent, &v->b, tape_leaf(t, *z, false), chunk, padding, chunked);
    expect_chunk(v, cells, chunked, "chunked", "chunked_coords");
    assert_memory_equal(chunked, whole, (size_t)cells->n * sizeof *whole); /* to the bit */

    v->sent.factor = h5_attr_double(v->file, "/chunk", "factor", NAN);
    tape_begin(t);
    y = ssvae_decode(t, &v->m, &v->sent, tape_leaf(t, *z, false));
    expect_chunk(v, cells, rig_f32(&v->r, &y->v), "whole_factor", "whole_coords");
    v->sent.factor = 1;
    free(whole);
    free(chunked);
}

/* The part of a training step: each of our rows is one of the published ones, which go 7 voxel layers further. */
static void check_train_chunk(vae_case *v, const row_map *cells, const tensor *z, int padding) {
    h5_dims  d;
    int32_t *original = h5_i32(v->file, "/chunk/in/train_original", NULL);
    int32_t *at = h5_i32(v->file, "/chunk/out/train_chunk_coords", NULL);
    float   *want = h5_f32(v->file, "/chunk/out/train_chunk", &d);
    int32_t *box = malloc((size_t)v->b.n_samples * 6 * sizeof *box);
    int32_t  end[3];
    for (int i = 0; i < 3; i++) end[i] = original[2 * i + 1] / 8; /* 8*end + 7 is stored */
    for (int s = 0; s < v->b.n_samples; s++)
        for (int i = 0; i < 3; i++) {
            box[6 * s + i] = original[2 * i] / 8;
            box[6 * s + 3 + i] = end[i];
        }
    tape *t = &v->r.t;
    t->recording = true;
    tape_begin(t);
    ssvae_part part = ssvae_part_build(&v->r.host, &v->b, box, padding), sent = part;
    tensor     kept = part.kept_row;
    ssvae_part_tensors(&sent, rig_send_visit, &v->r);
    var         *y = ssvae_part_decode(t, &v->m, &v->sent, &sent, tape_leaf(t, *z, false));
    const float *predicted = rig_f32(&v->r, &y->v);
    assert_int_equal(y->v.dim[0], 512 * kept.dim[0]);
    float *ours = malloc((size_t)cells->n * sizeof *ours);
    poison(ours, (size_t)cells->n * sizeof *ours);
    for (int64_t i = 0; i < kept.dim[0]; i++)
        memcpy(ours + 512 * (int64_t)I32(&kept)[i], predicted + 512 * i, 512 * sizeof *ours);
    float  *got = malloc((size_t)d.count * sizeof *got);
    int64_t n = 0;
    for (int64_t i = 0; i < d.n[0]; i++) {
        const int32_t *p = at + 4 * i;
        if (p[1] >= 8 * end[0] || p[2] >= 8 * end[1] || p[3] >= 8 * end[2]) continue; /* layers of the neighbour */
        got[n] = ours[row_map_find(cells, p)];
        want[n++] = want[i];
    }
    assert_int_equal(n, y->v.dim[0]);
    net_judge(&v->r, rel_l2(got, want, n), net_bound(&v->r, v->file, "/vae/out/rec", "rel_l2"), "train_chunk, L2");
    net_judge(&v->r, max_abs(got, want, n), net_bound(&v->r, v->file, "/vae/out/rec", "max_abs"), "train_chunk, most");
    free(original);
    free(at);
    free(want);
    free(box);
    free(ours);
    free(got);
}

static void test_chunk(const char *name) {
    h5_file f = h5_open(golden_path("ss_vae"));
    bool    present = h5_exists(f, "/chunk");
    h5_close(f);
    if (!present) {
        print_message("skipped: the file has no group /chunk\n");
        skip();
    }
    vae_case v;
    vae_case_open(&v, name, 1024);
    h5_dims  d;
    int32_t *at = h5_i32(v.file, "/chunk/in/coords", &d);
    vae_case_batch(&v, at, d.n[0], NULL, NULL, 0);
    row_map cells = row_map_level(&v, &v.b.dec[3]);
    tensor  z = rig_send(&v.r, ours_f32(&v.r.host, &v.tile_row, v.file, "/chunk/in/z", at, d.n[0]));
    int     per_axis = (int)h5_attr_double(v.file, "/chunk", "chunk_size", NAN);
    int     edge = (int)h5_attr_double(v.file, "/chunk", "latent_resolution", NAN) / per_axis;
    int     padding = (int)h5_attr_double(v.file, "/chunk", "padding", NAN);
    check_whole_and_chunked(&v, &cells, &z, edge, padding);
    check_train_chunk(&v, &cells, &z, padding);
    free(cells.at);
    free(at);
    vae_case_close(&v);
}

/* ---- the program ---------------------------------------------------------------------------------------------- */

typedef struct {
    const char *backend;
    void (*fn)(const char *name);
} vae_test;

static void run_on(void **state) {
    const vae_test *k = *state;
    net_measure(true);
    if (strcmp(k->backend, "gpu bf16") == 0) k->fn("sim bf16");
    net_measure(false);
    k->fn(k->backend);
}

int main(int argc, char **argv) {
    enum { N_FNS = 3, N_BACKENDS = 2 };
    static void (*const fn[N_FNS])(const char *) = {test_vae, test_intermediates, test_chunk};
    static const char *const name[N_FNS] = {"vae", "intermediates", "chunk"};
    static char              title[N_FNS * N_BACKENDS][64];
    vae_test                 k[N_FNS * N_BACKENDS];
    struct CMUnitTest        tests[N_FNS * N_BACKENDS] = {{0}};
    const char *const       *backends = hosted_names(argc, argv);
    for (int i = 0; backends && i < N_FNS * N_BACKENDS; i++) {
        k[i] = (vae_test){backends[i % N_BACKENDS], fn[i / N_BACKENDS]};
        snprintf(title[i], sizeof title[i], "%s on %s", name[i / N_BACKENDS], k[i].backend);
        tests[i] = (struct CMUnitTest){.name = title[i], .test_func = run_on, .initial_state = &k[i]};
    }
    return test_exit(backends ? cmocka_run_group_tests(tests, NULL, NULL) : 0);
}
