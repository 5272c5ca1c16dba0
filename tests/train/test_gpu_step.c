/* Training on a GPU: what a step may do (no allocation, one wait of the host, the copies that are agreed on), the
 * losses of the CPU, resume to the bit, memory, bad gradients, encoding and sampling. Built a second time with
 * pretend_gpu.c (PRETEND): the host's part of it, to the bit, where there is no GPU. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/networks.h"
#include "core/device.h"
#include "core/half.h"
#include "data/latents.h"
#include "core/fault.h"
#include "fixture.h"
#include "harness/harness.h"
#include "io/checkpoint_file.h"
#include "model/ssvae_chunk.h"
#include "train/encode.h"
#include "train/trainer.h"
#include "train/upload.h"

enum { STEPS = 20, CHANNELS = 4 }; /* channels: of the fixture's latents */

#ifdef PRETEND
static const double F32_BOUND = 0, F32_NORM_BOUND = 0;
enum { BF16 = 0 }; /* the CPU's kernels know f32 only */
#else
static const double F32_BOUND = 1e-5, F32_NORM_BOUND = 1e-3;
enum { BF16 = 1 };
#endif

static comm one;
static char data[PATH_CAP];

typedef struct {
    double        loss[STEPS + 1], norm[STEPS + 1];
    bool          skipped[STEPS + 1];
    device_counts after[STEPS + 1];
    int64_t       first, last, spoil_at;
} watch;

static void on_step(void *user, int64_t done, const step_result *r) {
    watch *w = user;
    if (!w->first) w->first = done;
    w->last = done;
    w->loss[done] = r->loss;
    w->norm[done] = r->grad_norm;
    w->skipped[done] = r->skipped;
    w->after[done] = device_counted();
}

static void spoil(void *user, int64_t step, params *p) {
    watch *w = user;
    float  bad = NAN;
    if (step != w->spoil_at) return;
    slab_write(p->dev, p->g, p->total / 2, 1, &bad);
    w->spoil_at = 0; /* once */
}

static status_code train(const options *o, watch *w, status *st) {
    trainer_hooks h = {.on_step = on_step, .user = w, .after_backward = w->spoil_at > 0 ? spoil : NULL};
    return trainer_run(o, &one, &h, st);
}

static void train_ok(const options *o, watch *w) {
    status st;
    if (train(o, w, &st) != ST_OK) fail_msg("%s", st.text);
}

/* A run of the fixture; on the CPU unless `gpu`. */
static options run_options(bool dit, bool gpu, const char *name) {
    options o;
    fixture_options(&o, data, in_folder(name), dit);
    o.train.lr = 1e-4; /* AdamW's first steps multiply rounding by the rate over the gradient */
    o.train.device = gpu ? opt_train_device_cuda : opt_train_device_cpu;
    o.train.precision = opt_train_precision_f32;
    return o;
}

/* ---- tests ---------------------------------------------------------------------------------------------------- */

static void compare_losses(const watch *cpu, const watch *gpu, double bound, double norm_bound, const char *what) {
    double worst = 0;
    for (int i = 1; i <= STEPS; i++) {
        double e = fabs(gpu->loss[i] / cpu->loss[i] - 1);
        if (!(e <= worst)) worst = e;
        expect_le(e, bound, what);
        expect_le(fabs(gpu->norm[i] / cpu->norm[i] - 1), norm_bound, what);
    }
    print_message("%s: largest relative difference of a loss %.3g\n", what, worst);
}

static void test_losses(void **state) {
    (void)state;
    for (int dit = 0; dit < 2; dit++) {
        watch   cpu = {0}, gpu = {0};
        options o = run_options(dit, false, dit ? "loss-dit-cpu" : "loss-vae-cpu");
        train_ok(&o, &cpu);
        o = run_options(dit, true, dit ? "loss-dit-f32" : "loss-vae-f32");
        train_ok(&o, &gpu);
        compare_losses(&cpu, &gpu, F32_BOUND, F32_NORM_BOUND, dit ? "dit f32" : "vae f32");
        if (!BF16) continue;
        o = run_options(dit, true, dit ? "loss-dit-bf16" : "loss-vae-bf16");
        o.train.precision = opt_train_precision_bf16;
        train_ok(&o, &gpu);
        compare_losses(&cpu, &gpu, 1e-3, 0.1, dit ? "dit bf16" : "vae bf16");
    }
}

/* After the first steps: nothing is allocated, the host waits once a step; losses (two tensors of the auto-encoder, one
 * of the transformer) and the norm come back; every micro-batch goes up once, the first ones of a step ahead of it. */
static void test_counts(void **state) {
    (void)state;
    for (int dit = 0; dit < 2; dit++) {
        watch   w = {0};
        options o = run_options(dit, true, dit ? "count-dit" : "count-vae");
        o.train.precision = opt_train_precision_auto;
        if (!BF16) o.train.precision = opt_train_precision_f32;
        train_ok(&o, &w);
        int64_t micro = 0, up = w.after[STEPS].uploads - w.after[2].uploads, tensors = dit ? 1 : 2;
        for (int i = 3; i <= STEPS; i++) {
            const device_counts *a = &w.after[i - 1], *b = &w.after[i];
            int64_t              down = b->downloads - a->downloads;
            assert_int_equal(b->allocations - a->allocations, 0);
            assert_int_equal(b->syncs - a->syncs, 1);
            assert_int_equal((down - 1) % tensors, 0);
            micro += (down - 1) / tensors;
        }
        assert_true(micro > STEPS - 2); /* some steps have several */
        assert_in_range(up, micro - 1, micro + 1);
        print_message("%s: %lld micro-batches in %d steps, %lld uploads, %lld waits\n", dit ? "dit" : "vae",
                      (long long)micro, STEPS - 2, (long long)up, (long long)(w.after[STEPS].syncs - w.after[2].syncs));
    }
}

static uint64_t state_hash(const char *run) {
    static const char *const slabs[] = {"params", "adam_m", "adam_v", "ema", "clip_norms"};
    ckpt_manifest            m = {0};
    status                   st = {0};
    uint64_t                 h = 0;
    if (!ckpt_open_any(run, true, &m, &st)) fail_msg("%s", st.text);
    for (int i = 0; i < 5; i++) {
        int64_t n = ckpt_slab_count(&m, slabs[i]);
        float  *x = malloc((size_t)n * sizeof *x + 1);
        assert_true(n > 0);
        if (!ckpt_read_range(&m, slabs[i], 0, n, x, &st)) fail_msg("%s", st.text);
        h = hash_bytes(x, (size_t)n * sizeof *x, h);
        free(x);
    }
    ckpt_close(&m);
    return h;
}

static void no_tensors(const task *t, micro_batch *b, tensor_visit f, void *user) {
    (void)t, (void)b, (void)f, (void)user;
}

/* A batch goes where nobody computes: not to the place that the one before has only been left by the host. */
static void test_places(void **state) {
    enum { BYTES = 4096, BATCHES = 5 };
    task        t = {.tensors = no_tensors};
    uploads     u = {0};
    arena       host[BATCHES];
    micro_batch b[BATCHES];
    const char *before = NULL;
    (void)state;
    upload_room(&u, DEV_CUDA, BYTES);
    for (int i = 0; i < BATCHES; i++) {
        host[i] = arena_new_pinned("batch", BYTES);
        arena_zeros(&host[i], BYTES / 2);
        b[i] = micro_batch_in(&host[i], device_event_new());
        upload_use(&u, &t, &b[i]);
        assert_ptr_not_equal(b[i].base, before);
        before = b[i].base;
        upload_done(&u, &b[i]);
    }
    device_sync(STREAM_COMPUTE);
    upload_free(&u);
    for (int i = 0; i < BATCHES; i++) {
        device_event_free(b[i].uploaded);
        arena_free(&host[i]);
    }
}

/* 10 steps, stop, 10 more are 20 steps in one go; and so they are when the second half is run by the CPU, but for
 * rounding. */
static void test_resume(void **state) {
    (void)state;
    for (int k = 0; k < 2 + 2 * BF16; k++) {
        bool    dit = k % 2;
        watch   whole = {0}, part = {0};
        options o = run_options(dit, true, "");
        if (k > 1) o.train.precision = opt_train_precision_bf16;
        snprintf(o.train.run, sizeof o.train.run, "%s-%d", in_folder("whole"), k);
        train_ok(&o, &whole);
        uint64_t want = state_hash(o.train.run);
        snprintf(o.train.run, sizeof o.train.run, "%s-%d", in_folder("part"), k);
        o.train.steps = 10;
        train_ok(&o, &part);
        o.train.steps = 20;
        part.first = 0;
        train_ok(&o, &part);
        assert_int_equal(part.first, 11);
        assert_memory_equal(whole.loss, part.loss, sizeof whole.loss);
        assert_memory_equal(whole.norm, part.norm, sizeof whole.norm);
        assert_true(state_hash(o.train.run) == want);
        if (k > 1) continue;
        snprintf(o.train.run, sizeof o.train.run, "%s-%d", in_folder("both"), k);
        o.train.steps = 10;
        train_ok(&o, &part);
        o.train.steps = 20;
        o.train.device = opt_train_device_cpu;
        train_ok(&o, &part);
        compare_losses(&whole, &part, F32_BOUND, F32_NORM_BOUND, "half on the CPU");
    }
}

/* A checkpoint that a slow disk gets while training goes on is that of a run that ends there; its copy costs one wait
 * and no memory. */
static void test_saved_beside(void **state) {
    (void)state;
    watch   w[2] = {0};
    options o = run_options(true, true, "beside-end");
    char    run[PATH_CAP + 8];
    o.train.steps = 9;
    train_ok(&o, &w[0]);
    o = run_options(true, true, "beside");
    o.train.checkpoint_every = 9;
    o.train.keep_last = 10;
    setenv("D3S2_FAULT", "delay=20@ckpt.write:1-", 1);
    fault_reset();
    train_ok(&o, &w[1]);
    unsetenv("D3S2_FAULT");
    fault_reset();
    assert_memory_equal(w[0].loss, w[1].loss, 10 * sizeof w[0].loss[0]);
    snprintf(run, sizeof run, "%s/step-9", in_folder("beside"));
    assert_true(state_hash(run) == state_hash(in_folder("beside-end")));
    const device_counts *a = &w[1].after[9], *b = &w[1].after[10];
    assert_int_equal(b->allocations - a->allocations, 0);
    assert_int_equal(b->syncs - a->syncs, 2);
}

/* Recomputed activations give the same bits; a bound is kept by recomputing, or refused. */
static void test_memory(void **state) {
    (void)state;
    watch   plain = {0}, again = {0}, bound = {0};
    status  st;
    options o = run_options(false, true, "mem-a");
    o.train.steps = 4;
    train_ok(&o, &plain);
    snprintf(o.train.run, sizeof o.train.run, "%s", in_folder("mem-b"));
    o.train.recompute = opt_train_recompute_on;
    train_ok(&o, &again);
    assert_memory_equal(plain.loss, again.loss, sizeof plain.loss);
    o.train.recompute = opt_train_recompute_auto;
    o.train.memory_mb = 1;
    assert_int_equal(train(&o, &bound, &st), ST_CONFIG);
    assert_non_null(strstr(st.text, "train.memory_mb"));
    o.train.memory_mb = 7; /* f32: some of the fullest micro-batch is recomputed */
    snprintf(o.train.run, sizeof o.train.run, "%s", in_folder("mem-c"));
    train_ok(&o, &bound);
    assert_memory_equal(plain.loss, bound.loss, sizeof plain.loss);
    /* Nothing given: as much as there is; the whole batch in one micro-batch. */
    watch wide = {0};
    o.train.memory_mb = o.train.micro_tokens = 0;
    snprintf(o.train.run, sizeof o.train.run, "%s", in_folder("mem-d"));
    train_ok(&o, &wide);
    for (int i = 1; i <= 4; i++) expect_le(fabs(wide.loss[i] / plain.loss[i] - 1), 1e-5, "loss of one micro-batch");
}

/* Parts of samples: what the largest can need is taken, not the whole card. */
static void note_used(void *user, int64_t done, const step_result *r) {
    size_t *used = user, free_bytes, all;
    (void)r;
    (void)done;
    device_memory(&free_bytes, &all);
    *used = all - free_bytes;
}

static void test_memory_of_parts(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        status        st;
        size_t        before, used, all;
        trainer_hooks h = {.on_step = note_used, .user = &used};
        options       o = run_options(false, true, k ? "parts-b" : "parts-a");
        o.train.steps = 6;
        o.vae.chunk_tiles = k ? 0 : 2;
        o.vae.crop_tiles = k ? 20 : 0;
        device_memory(&before, &all);
        if (trainer_run(&o, &one, &h, &st) != ST_OK) fail_msg("%s", st.text);
        used -= all - before;
        print_message("%.2f GB in use\n", (double)used / 1e9);
        assert_in_range(used, (size_t)1 << 30, (size_t)3 << 30);
    }
}

static void test_bad_gradient(void **state) {
    (void)state;
    watch   w = {.spoil_at = 3};
    options o = run_options(true, true, "bad");
    o.train.steps = 8;
    train_ok(&o, &w);
    for (int i = 1; i <= 8; i++) {
        assert_int_equal(w.skipped[i], i == 4);
        assert_true(isfinite(w.loss[i]));
    }
}

/* Back to a checkpoint, and on with other batches than those that were on their way to the GPU. */
static void test_rolled_back(void **state) {
    (void)state;
    watch w[2] = {{.spoil_at = 5}, {.spoil_at = 5}};
    for (int gpu = 0; gpu < 2; gpu++) {
        options o = run_options(false, gpu, gpu ? "back-gpu" : "back-cpu");
        o.train.checkpoint_every = 4;
        o.train.max_bad_steps = 1;
        o.train.rollback = 1;
        train_ok(&o, &w[gpu]);
        assert_int_equal(w[gpu].last, STEPS);
        assert_false(w[gpu].skipped[6]);
    }
    compare_losses(&w[0], &w[1], F32_BOUND, F32_NORM_BOUND, "rolled back");
}

/* Parts of samples, held-out data, a dry run. */
static void test_chunks_and_heldout(void **state) {
    (void)state;
    watch   cpu = {0}, gpu = {0};
    options o;
    for (int on = 0; on < 2; on++) {
        o = run_options(false, on, on ? "chunk-gpu" : "chunk-cpu");
        o.vae.chunk_tiles = 2;
        o.vae.chunk_padding = 1;
        snprintf(o.data.heldout, sizeof o.data.heldout, "%.400s/.", o.data.train);
        o.train.eval_every = 3;
        o.train.eval_samples = 5;
        train_ok(&o, on ? &gpu : &cpu);
    }
    compare_losses(&cpu, &gpu, F32_BOUND, F32_NORM_BOUND, "parts");
    watch none = {0};
    o = run_options(true, true, "dry");
    o.command.dry_run = true;
    train_ok(&o, &none);
    assert_int_equal(none.last, 0);
}

static void open_place(place *p, bool gpu) {
    options o;
    status  st = {0};
    options_default(&o);
    o.train.device = gpu ? opt_train_device_cuda : opt_train_device_cpu;
    o.train.precision = opt_train_precision_f32;
    if (!place_open(p, &o, &one, false, &st)) fail_msg("%s", st.text);
}

static void first_latents(const char *folder, float *mean, int64_t n) {
    latents  *l;
    uint16_t *coord;
    float    *m, *logvar;
    int       n_files;
    status    st = {0};
    if (!latents_open_all(folder, &l, &n_files, &st) || !latents_read(&l[0], 0, &coord, &m, &logvar, &st))
        fail_msg("%s", st.text);
    assert_true((l[0].first[1] - l[0].first[0]) * l[0].channels >= n);
    memcpy(mean, m, (size_t)n * sizeof *mean);
    free(coord);
    free(m);
    free(logvar);
    latents_close_all(l, n_files);
}

static void test_encode(void **state) {
    (void)state;
    enum { N = 32 };
    float         mean[2][N];
    encode_report r;
    status        st = {0};
    watch         w = {0};
    options       o = run_options(false, true, "for-encode");
    o.train.steps = 3;
    train_ok(&o, &w);
    snprintf(o.encode.input, sizeof o.encode.input, "%s", o.data.train);
    snprintf(o.encode.vae, sizeof o.encode.vae, "%s", o.train.run);
    for (int on = 0; on < 2; on++) {
        snprintf(o.encode.output, sizeof o.encode.output, "%s", in_folder(on ? "latents-gpu" : "latents-cpu"));
        o.train.device = on ? opt_train_device_cuda : opt_train_device_cpu;
        if (!encode_run(&o, &one, &r, &st)) fail_msg("%s", st.text);
        assert_int_equal(r.n_samples, 7);
        first_latents(o.encode.output, mean[on], N);
    }
    expect_le(rel_l2(mean[1], mean[0], N), F32_BOUND, "latents");
}

/* One sample of the data with its view. */
typedef struct {
    dataset  d;
    sample   s;
    uint8_t *png;
    int64_t  png_size;
} shaped;

static void shaped_open(shaped *s, int64_t i) {
    status          st = {0};
    dataset_request r = {.shards = in_folder("data/shards")};
    *s = (shaped){0};
    if (!dataset_open(&s->d, &r, &st) || !dataset_read(&s->d, i, &s->s, &st) ||
        !dataset_read_view(&s->d, i, 0, &s->png, &s->png_size, &st))
        fail_msg("%s", st.text);
}

static void shaped_close(shaped *s) {
    free(s->png);
    sample_free(&s->s);
    dataset_close(&s->d);
}

/* What networks make of one sample. */
typedef struct {
    float *mean, *decoded, *sampled;
    double loss[3];
} outcome;

static outcome passes(const shaped *s, bool gpu) {
    status         st = {0};
    place          p;
    network        vae, dit;
    view_input     view;
    double         time[3] = {0.1, 0.5, 0.9};
    sampler_config cfg = {.steps = 3, .shift = 3, .guidance = 2, .seed = 5};
    int64_t        n = s->s.n_tiles;
    tile_set       t = {"sample", s->s.id, s->d.resolution, n, s->s.coord};
    options        o = run_options(true, gpu, "net-dit");
    float         *value = malloc((size_t)(n * TILE_CELLS) * sizeof *value);
    float         *eps = malloc((size_t)(n * CHANNELS) * sizeof *eps);
    outcome        r = {malloc((size_t)(n * CHANNELS) * sizeof(float)),
                        malloc((size_t)(n * TILE_CELLS) * sizeof(float)),
                        malloc((size_t)(n * CHANNELS) * sizeof(float)),
                        {0}};
    for (int64_t i = 0; i < n * TILE_CELLS; i++) value[i] = f16_to_f32(s->s.value[i]);
    fill_rule(eps, n * CHANNELS, 3, 2);
    open_place(&p, gpu);
    pass_need encoding, decoding;
    bool      ok = view_prepare(&o, s->png, s->png_size, "view", NULL, &view, &st) &&
              network_load(&vae, in_folder("net-vae"), true, true, &p, &st) &&
              network_load(&dit, in_folder("net-dit"), false, true, &p, &st) &&
              vae_encode_need(&vae, &t, value, &encoding, &st) && vae_decode_need(&vae, &t, &decoding, &st) &&
              vae_encode(&vae, &t, value, r.mean, &st) && vae_decode(&vae, &t, r.mean, r.decoded, &st) &&
              dit_sample(&dit, &t, &view, &cfg, r.sampled, &st) &&
              dit_flow_loss(&dit, &t, &view, r.mean, eps, 3, time, r.loss, &st);
    if (!ok) fail_msg("%s", st.text);
    /* what was said beforehand is what they took */
    size_t tables = encoding.tables > decoding.tables ? encoding.tables : decoding.tables, step = 64;
    assert_int_equal(vae.told[PASS_ENCODE], encoding.activations);
    assert_int_equal(vae.told[PASS_DECODE], decoding.activations);
    assert_int_equal(vae.work.peak, decoding.activations);
    assert_int_equal(vae.c.scratch.size, encoding.scratch);
    if (gpu) assert_in_range(vae.copy.size, tables, tables + step);
    view_free(&view);
    network_free(&vae);
    network_free(&dit);
    free(value);
    free(eps);
    return r;
}

static void test_networks(void **state) {
    (void)state;
    watch  w = {0};
    shaped s;
    for (int dit = 0; dit < 2; dit++) {
        options o = run_options(dit, false, dit ? "net-dit" : "net-vae");
        o.train.steps = 2;
        train_ok(&o, &w);
    }
    shaped_open(&s, 1);
    outcome cpu = passes(&s, false), gpu = passes(&s, true);
    int64_t n = s.s.n_tiles;
    expect_le(rel_l2(gpu.mean, cpu.mean, n * CHANNELS), F32_BOUND, "encoded");
    expect_le(rel_l2(gpu.decoded, cpu.decoded, n * TILE_CELLS), F32_BOUND, "decoded");
    expect_le(rel_l2(gpu.sampled, cpu.sampled, n * CHANNELS), 10 * F32_BOUND, "sampled");
    for (int i = 0; i < 3; i++) expect_le(fabs(gpu.loss[i] / cpu.loss[i] - 1), F32_BOUND, "flow loss");
    for (int k = 0; k < 2; k++) {
        outcome *r = k ? &gpu : &cpu;
        free(r->mean);
        free(r->decoded);
        free(r->sampled);
    }
    shaped_close(&s);
}

/* Decodes z on the GPU, whole or in chunks of 2 tiles; the result is memory of `host`. */
static const float *decode(network *v, const ssvae_batch *b, const ssvae_batch *tables, const tensor *z, bool chunks,
                           arena *host) {
    arena      counting = arena_counting_on("work", DEV_CUDA);
    float     *out = arena_alloc(host, (size_t)(b->n_tiles * TILE_CELLS) * sizeof *out);
    const var *y = NULL;
    for (int dry = 1; dry >= 0; dry--) {
        if (!dry) v->work = arena_new_on("work", counting.peak, DEV_CUDA);
        v->c.dry = dry;
        v->t = (tape){.c = &v->c, .step = dry ? &counting : &v->work, .book = &v->book};
        tape_begin(&v->t);
        var *leaf = tape_leaf(&v->t, *z, false);
        if (chunks)
            ssvae_decode_chunks(&v->t, &v->vae, b, tables, leaf, 2, 4, out);
        else
            y = ssvae_decode(&v->t, &v->vae, b, leaf);
    }
    const float *result = chunks ? out : download_f32(&y->v, host);
    arena_free(&v->work);
    return result;
}

/* Chunks with enough around them give what the whole gives. */
static void test_chunked_decoding(void **state) {
    (void)state;
    place   p;
    network v;
    shaped  s;
    status  st = {0};
    arena   host = {0}, copy = {0};
    shaped_open(&s, 0);
    open_place(&p, true);
    if (!network_load(&v, in_folder("net-vae"), true, true, &p, &st)) fail_msg("%s", st.text);
    int64_t n = s.s.n_tiles;
    int32_t ends[2] = {0, (int32_t)n}, *order;
    host = arena_new_pinned("host", (size_t)64 << 20);
    tensor coord = arena_tensor(&host, DT_I32, DIMS(n, 3)), sorted = arena_tensor(&host, DT_I32, DIMS(n, 3)),
           first = arena_tensor(&host, DT_I32, DIMS(2)), z = arena_tensor(&host, DT_F32, DIMS(n, CHANNELS));
    order = arena_alloc(&host, (size_t)n * sizeof *order);
    for (int64_t i = 0; i < 3 * n; i++) I32(&coord)[i] = s.s.coord[i];
    blocks_sort(I32(&coord), ends, 1, v.vae.cfg.window, order);
    for (int64_t i = 0; i < n; i++) memcpy(I32(&sorted) + 3 * i, I32(&coord) + 3 * order[i], 3 * sizeof(int32_t));
    memcpy(first.data, ends, sizeof ends);
    fill_rule(F32(&z), n * CHANNELS, 7, 2);
    ssvae_batch tables = ssvae_batch_build(&host, &v.vae.cfg, 0, &sorted, &first, NULL), b = tables;
    memory_move to = upload_once(DEV_CUDA, &host, &copy);
    tensor_move(&to, &z);
    ssvae_batch_tensors(&b, tensor_move, &to);
    v.c.scratch = arena_new_on("scratch", place_scratch_bytes(DEV_CUDA, n, v.gpu_per_tile), DEV_CUDA);
    const float *whole = decode(&v, &b, &tables, &z, false, &host), *parts = decode(&v, &b, &tables, &z, true, &host);
    expect_le(rel_l2(parts, whole, n * TILE_CELLS), 1e-5, "decoded in chunks");
    arena_free(&host);
    arena_free(&copy);
    network_free(&v);
    shaped_close(&s);
}

int main(void) {
    fixture_spec spec = {.n_samples = 7, .per_shard = 3, .resolution = 32, .vae = 7};
    int          argc = 0;
    const char  *why;
    if (device_count(&why) == 0) {
        printf("no GPU: %s\n", why);
        return 77;
    }
    comm_start(&one, &argc, NULL);
    log_init(0, 1, LOG_WARN);
    snprintf(data, sizeof data, "%s", in_folder("data"));
    fixture_write(data, &spec);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_losses),          cmocka_unit_test(test_counts),
        cmocka_unit_test(test_places),          cmocka_unit_test(test_resume),
        cmocka_unit_test(test_saved_beside),    cmocka_unit_test(test_memory),
        cmocka_unit_test(test_memory_of_parts), cmocka_unit_test(test_bad_gradient),
        cmocka_unit_test(test_rolled_back),     cmocka_unit_test(test_chunks_and_heldout),
        cmocka_unit_test(test_encode),          cmocka_unit_test(test_networks),
        cmocka_unit_test(test_chunked_decoding)};
    int failed = cmocka_run_group_tests_name("gpu step", tests, NULL, NULL);
    comm_finish(&one);
    return failed;
}
