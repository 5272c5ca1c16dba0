/* The trainer on one rank: resume to the bit, signals, bad gradients, refusals, damaged checkpoints, overfitting, chain
 * from shards to latents. Rank counts are compared by train_ranks.c. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/fault.h"
#include "fixture.h"
#include "harness/harness.h"
#include "io/checkpoint_file.h"
#include "io/jsonl.h"
#include "train/encode.h"
#include "train/infer.h"
#include "train/run_folder.h"
#include "train/task.h"
#include "train/trainer.h"

static comm one;
static char data[PATH_CAP];

/* ---- observers ------------------------------------------------------------------------------------------------ */

typedef struct {
    double  loss[256], norm[256];
    bool    skipped[256];
    int64_t first, last;
    int64_t raise_at, bad_from,
        bad_to; /* steps (from 0) whose gradients get a NaN; raise_at: SIGTERM after that step */
} watch;

static void on_step(void *user, int64_t done, const step_result *r) {
    watch *w = user;
    if (!w->first) w->first = done;
    w->last = done;
    w->loss[done] = r->loss;
    w->norm[done] = r->grad_norm;
    w->skipped[done] = r->skipped;
    if (w->raise_at == done) raise(SIGTERM);
}

static void spoil(void *user, int64_t step, params *p) {
    watch *w = user;
    if (step >= w->bad_from && step < w->bad_to) p->g[p->total / 2] = NAN;
}

static status_code train(const options *o, watch *w, status *st) {
    trainer_hooks h = {.on_step = on_step, .user = w, .after_backward = w->bad_to > 0 ? spoil : NULL};
    return trainer_run(o, &one, &h, st);
}

static void train_ok(const options *o, watch *w) {
    status st;
    if (train(o, w, &st) != ST_OK) fail_msg("%s", st.text);
}

/* All slabs of a checkpoint, or the newest one of a run, hashed. */
static uint64_t state_hash(const char *run, int64_t *step) {
    static const char *const slabs[] = {"params", "adam_m", "adam_v", "ema", "clip_norms"};
    ckpt_manifest            m = {0};
    status                   st = {0};
    uint64_t                 h = 0;
    if (!ckpt_open_any(run, true, &m, &st)) fail_msg("%s", st.text);
    for (int i = 0; i < 5; i++) {
        int64_t n = ckpt_slab_count(&m, slabs[i]);
        float  *x = malloc((size_t)n * sizeof *x + 1);
        if (n && !ckpt_read_range(&m, slabs[i], 0, n, x, &st)) fail_msg("%s", st.text);
        assert_true(n > 0);
        h = hash_bytes(x, (size_t)n * sizeof *x, h);
        free(x);
    }
    *step = m.step;
    ckpt_close(&m);
    return h;
}

/* ---- tests ---------------------------------------------------------------------------------------------------- */

/* 10 steps, stop, 10 more: losses, norms and the whole state equal those of 20 steps in one go. */
static void resume_of(bool dit, bool grouped, const char *name) {
    options o;
    watch   whole = {0}, part = {0};
    char    a[64], b[64];
    int64_t step_a, step_b;
    snprintf(a, sizeof a, "%s-whole", name);
    snprintf(b, sizeof b, "%s-part", name);
    fixture_options(&o, data, in_folder(a), dit);
    if (grouped) o.train.balance = opt_train_balance_steps;
    o.train.balance_steps = 4;
    train_ok(&o, &whole);
    snprintf(o.train.run, sizeof o.train.run, "%s", in_folder(b));
    o.train.steps = 10;
    train_ok(&o, &part);
    assert_int_equal(part.last, 10);
    o.train.steps = 20;
    part.first = 0;
    train_ok(&o, &part);
    assert_int_equal(part.first, 11);
    assert_memory_equal(whole.loss, part.loss, sizeof whole.loss);
    assert_memory_equal(whole.norm, part.norm, sizeof whole.norm);
    assert_true(state_hash(in_folder(a), &step_a) == state_hash(in_folder(b), &step_b));
    assert_int_equal(step_a, 20);
    assert_int_equal(step_b, 20);
    assert_true(whole.loss[20] < whole.loss[1]);
}

static void test_resume_vae(void **state) {
    (void)state;
    resume_of(false, false, "vae");
}

static void test_resume_dit(void **state) {
    (void)state;
    resume_of(true, false, "dit");
}

static void test_resume_grouped(void **state) {
    (void)state;
    resume_of(true, true, "grouped");
}

/* Recomputed activations and small micro-batches change memory, not mathematics. */
static void test_memory_modes(void **state) {
    (void)state;
    for (int dit = 0; dit < 2; dit++) {
        options o;
        watch   plain = {0}, again = {0}, small = {0};
        fixture_options(&o, data, in_folder(dit ? "mem-dit-a" : "mem-vae-a"), dit);
        o.train.steps = 4;
        train_ok(&o, &plain);
        snprintf(o.train.run, sizeof o.train.run, "%s", in_folder(dit ? "mem-dit-b" : "mem-vae-b"));
        o.train.recompute = opt_train_recompute_on;
        train_ok(&o, &again);
        assert_memory_equal(plain.loss, again.loss, sizeof plain.loss); /* to the bit */
        snprintf(o.train.run, sizeof o.train.run, "%s", in_folder(dit ? "mem-dit-c" : "mem-vae-c"));
        o.train.micro_tokens = 1; /* every sample alone */
        train_ok(&o, &small);
        for (int i = 1; i <= 4; i++) expect_le(fabs(small.loss[i] / plain.loss[i] - 1), 1e-5, "loss of single samples");
    }
}

/* The bound is kept by recomputing, or refused with a sentence. */
static void test_memory_bound(void **state) {
    (void)state;
    options o;
    watch   w = {0};
    status  st;
    fixture_options(&o, data, in_folder("bound"), false);
    o.train.steps = 2;
    o.train.memory_mb = 1;
    assert_int_equal(train(&o, &w, &st), ST_CONFIG);
    assert_non_null(strstr(st.text, "train.memory_mb"));
    assert_int_equal(w.last, 0);
    watch plain = {0}; /* 7 MB hold the fullest micro-batch only with some of it recomputed */
    o.train.memory_mb = 7;
    train_ok(&o, &w);
    o.train.memory_mb = 0;
    snprintf(o.train.run, sizeof o.train.run, "%s", in_folder("bound-none"));
    train_ok(&o, &plain);
    assert_memory_equal(w.loss, plain.loss, sizeof w.loss);
}

/* Host memory made for the largest batch serves all: more tiles never need less. */
static void test_host_memory(void **state) {
    (void)state;
    options o;
    dataset d = {.resolution = 64};
    status  st = {0};
    fixture_options(&o, data, "", false);
    task *t = task_vae_new(&o, &d, &st);
    assert_non_null(t);
    t->p->dev = DEV_CPU;
    size_t before = 0;
    for (int64_t tiles = 1; tiles < 3000; tiles++) {
        size_t bytes = t->host_bytes(t, tiles, 1);
        assert_true(bytes >= before);
        before = bytes;
    }
    t->free(t);
}

static void test_overfit(void **state) {
    (void)state;
    char         folder[PATH_CAP];
    fixture_spec spec = {.n_samples = 1, .per_shard = 1, .resolution = 32, .vae = 7};
    snprintf(folder, sizeof folder, "%s", in_folder("single"));
    fixture_write(folder, &spec);
    for (int dit = 0; dit < 2; dit++) {
        options o;
        watch   w = {0};
        fixture_options(&o, folder, in_folder(dit ? "over-dit" : "over-vae"), dit);
        o.train.steps = dit ? 250 : 100;
        o.train.batch_samples = 1;
        o.train.lr = dit ? 1e-3 : 5e-3;
        o.train.clip = opt_train_clip_norm;
        o.cond.drop = 0;
        train_ok(&o, &w);
        double last = 0, first = 0;
        for (int i = 0; i < 20; i++) {
            first += w.loss[1 + i] / 20;
            last += w.loss[o.train.steps - i] / 20;
        }
        print_message("overfit %s: %.4g -> %.4g\n", dit ? "dit" : "vae", first, last);
        expect_le(last, dit ? 0.55 : 0.03, "loss on one sample");
    }
}

/* A NaN in one gradient: the step is skipped, the weights stay; too many in a row end the run with the good state
 * saved. */
static void test_bad_gradient(void **state) {
    (void)state;
    options o;
    watch   w = {.bad_from = 3, .bad_to = 5};
    fixture_options(&o, data, in_folder("bad"), false);
    o.train.steps = 8;
    train_ok(&o, &w);
    for (int i = 1; i <= 8; i++) {
        assert_int_equal(w.skipped[i], i == 4 || i == 5);
        assert_true(isfinite(w.loss[i]));
    }
    int64_t step;
    watch   good = {0}, dead = {.bad_from = 3, .bad_to = 100};
    status  st;
    fixture_options(&o, data, in_folder("bad-good"), false);
    o.train.steps = 3;
    train_ok(&o, &good);
    uint64_t before = state_hash(in_folder("bad-good"), &step);
    fixture_options(&o, data, in_folder("bad-dead"), false);
    o.train.steps = 20;
    o.train.max_bad_steps = 4;
    assert_int_equal(train(&o, &dead, &st), ST_DATA);
    assert_non_null(strstr(st.text, "4 steps in a row"));
    assert_int_equal(dead.last, 7);
    assert_true(state_hash(in_folder("bad-dead"), &step) == before);
    assert_int_equal(step, 7);
}

static void test_signal(void **state) {
    (void)state;
    options o;
    watch   w = {.raise_at = 4};
    status  st;
    int64_t step;
    fixture_options(&o, data, in_folder("signal"), true);
    assert_int_equal(train(&o, &w, &st), ST_REQUEUE);
    assert_int_equal(w.last, 5); /* the step under way when it came is finished */
    state_hash(in_folder("signal"), &step);
    assert_int_equal(step, 5);
    watch rest = {0}, whole = {0};
    train_ok(&o, &rest);
    assert_int_equal(rest.first, 6);
    fixture_options(&o, data, in_folder("signal-whole"), true);
    train_ok(&o, &whole);
    assert_true(rest.loss[20] == whole.loss[20]);
}

/* A signal while a slow disk still takes the checkpoint of step 4: that one and the last one are whole. */
static void test_signal_while_saving(void **state) {
    (void)state;
    options o;
    watch   w = {.raise_at = 4}, rest = {0}, whole = {0};
    status  st;
    int64_t step;
    fixture_options(&o, data, in_folder("signal-save"), false);
    o.train.steps = 8;
    o.train.checkpoint_every = 2;
    setenv("D3S2_FAULT", "delay=60@ckpt.write:11-", 1);
    fault_reset();
    assert_int_equal(train(&o, &w, &st), ST_REQUEUE);
    unsetenv("D3S2_FAULT");
    fault_reset();
    assert_int_equal(w.last, 5);
    state_hash(in_folder("signal-save"), &step);
    assert_int_equal(step, 5);
    state_hash(in_folder("signal-save/step-4"), &step);
    assert_int_equal(step, 4);
    train_ok(&o, &rest);
    assert_int_equal(rest.first, 6);
    fixture_options(&o, data, in_folder("signal-save-whole"), false);
    o.train.steps = 8;
    train_ok(&o, &whole);
    assert_true(rest.loss[8] == whole.loss[8]);
}

/* The end of the job's time, seconds from now. */
static void job_ends_in(double seconds) {
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)time(NULL) + (long long)seconds);
    setenv("SLURM_JOB_END_TIME", text, 1);
}

/* Too little time is left: one step, a checkpoint, and the next start goes on. Enough time, no time told, nonsense and
 * train.stop_before=0 change nothing. */
static void test_wall_time(void **state) {
    (void)state;
    options o;
    watch   w = {0}, rest = {0}, whole = {0};
    status  st;
    int64_t step;
    fixture_options(&o, data, in_folder("wall"), false);
    o.train.steps = 4;
    job_ends_in(100); /* the default keeps 120 */
    assert_int_equal(train(&o, &w, &st), ST_REQUEUE);
    assert_int_equal(w.last, 1);
    state_hash(in_folder("wall"), &step);
    assert_int_equal(step, 1);
    job_ends_in(100000);
    train_ok(&o, &rest);
    assert_int_equal(rest.first, 2);
    assert_int_equal(rest.last, 4);
    setenv("SLURM_JOB_END_TIME", "tomorrow", 1);
    snprintf(o.train.run, sizeof o.train.run, "%s", in_folder("wall-whole"));
    train_ok(&o, &whole);
    assert_true(rest.loss[4] == whole.loss[4]);
    job_ends_in(-5);
    o.train.stop_before = 0;
    o.train.steps = 6;
    train_ok(&o, &whole);
    assert_int_equal(whole.last, 6);
    unsetenv("SLURM_JOB_END_TIME");
}

/* Checkpoints on the way, written by a slow disk while training goes on or waited for, are those of runs that end
 * there; losses do not depend on it. */
static void test_saved_beside(void **state) {
    (void)state;
    options     o;
    watch       w[4] = {0};
    int64_t     step;
    char        run[PATH_CAP + 8];
    const char *name[] = {"beside-no", "beside", "beside-not", "beside-end"};
    for (int i = 0; i < 4; i++) {
        fixture_options(&o, data, in_folder(name[i]), false);
        o.train.steps = i == 3 ? 6 : 12;
        o.train.checkpoint_every = i == 1 || i == 2 ? 3 : 0;
        o.train.checkpoint_async = i != 2;
        o.train.keep_last = 10;
        if (i == 1) setenv("D3S2_FAULT", "delay=20@ckpt.write:1-", 1);
        fault_reset();
        train_ok(&o, &w[i]);
        unsetenv("D3S2_FAULT");
        fault_reset();
    }
    for (int i = 1; i < 3; i++) {
        assert_memory_equal(w[i].loss, w[0].loss, sizeof w[0].loss);
        snprintf(run, sizeof run, "%s/step-6", in_folder(name[i]));
        assert_true(state_hash(run, &step) == state_hash(in_folder("beside-end"), &step));
        assert_true(state_hash(in_folder(name[i]), &step) == state_hash(in_folder("beside-no"), &step));
        assert_int_equal(step, 12);
        for (int k = 3; k <= 12; k += 3) {
            snprintf(run, sizeof run, "%s/step-%d", in_folder(name[i]), k);
            state_hash(run, &step);
            assert_int_equal(step, k);
        }
    }
}

static void write_byte(const char *path, long from_end) {
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, -from_end, SEEK_END);
    int c = fgetc(f);
    fseek(f, -from_end, SEEK_END);
    fputc(c ^ 0x55, f);
    fclose(f);
}

static void test_damaged_checkpoint(void **state) {
    (void)state;
    options o;
    watch   w = {0}, again = {0};
    char    path[PATH_CAP];
    fixture_options(&o, data, in_folder("damage"), false);
    o.train.steps = 6;
    o.train.checkpoint_every = 3;
    train_ok(&o, &w);
    snprintf(path, sizeof path, "%s/step-6/manifest.json", in_folder("damage"));
    write_byte(path, 40);
    o.train.steps = 8;
    train_ok(&o, &again);
    assert_int_equal(again.first, 4); /* from step 3 */
    assert_true(again.loss[5] == w.loss[5]);
    int64_t *step, n;
    double  *loss;
    status   st = {0};
    snprintf(path, sizeof path, "%s/metrics.jsonl", in_folder("damage"));
    assert_true(jsonl_series(path, "loss", &step, &loss, &n, &st));
    assert_int_equal(n, 8); /* no step twice */
    for (int64_t i = 0; i < n; i++) assert_int_equal(step[i], i + 1);
    free(step);
    free(loss);
}

/* Folders of three resolutions: a run in one piece and one in two end on the same bits, every folder has its turn, and
 * held-out data of all of them count. */
static void test_resolutions(void **state) {
    (void)state;
    static const int edge[3] = {16, 24, 32};
    char             train_on[3 * PATH_CAP] = "", held[3 * PATH_CAP] = "";
    options          o;
    watch            w = {0};
    status           st = {0};
    int64_t          step[2], *at, n;
    double          *loss;
    for (int i = 0; i < 3; i++) {
        char         folder[PATH_CAP];
        fixture_spec spec = {.n_samples = 4, .per_shard = 4, .resolution = edge[i], .vae = 7};
        snprintf(folder, sizeof folder, "%.300s-%d", in_folder("mixed"), edge[i]);
        fixture_write(folder, &spec);
        snprintf(train_on + strlen(train_on), PATH_CAP, "%s%.400s/shards", i ? "," : "", folder);
        snprintf(held + strlen(held), PATH_CAP, "%s%.400s/./shards", i ? "," : "", folder);
    }
    fixture_options(&o, data, in_folder("mixed-whole"), false);
    assert_true(strlen(train_on) < sizeof o.data.train && strlen(held) < sizeof o.data.heldout);
    strcpy(o.data.train, train_on);
    strcpy(o.data.heldout, held);
    o.train.steps = 12;
    o.train.batch_samples = 3;
    assert_int_equal(train(&o, &w, &st), ST_CONFIG); /* no vae.frame */
    o.vae.frame = 32;
    o.data.shares = (option_floats){2, {1, 1}};
    assert_int_equal(train(&o, &w, &st), ST_CONFIG);
    assert_non_null(strstr(st.text, "data.shares"));
    o.data.shares = (option_floats){3, {2, 1, 1}};
    o.train.eval_every = 12;
    o.train.eval_samples = 5;
    st = (status){0};
    train_ok(&o, &w);
    uint64_t whole = state_hash(o.train.run, &step[0]);
    assert_true(jsonl_series(in_folder("mixed-whole/metrics.jsonl"), "heldout_loss", &at, &loss, &n, &st));
    assert_true(n == 1 && isfinite(loss[0]));
    double all = loss[0], low = INFINITY, high = 0;
    free(at);
    free(loss);
    for (int i = 0; i < 3; i++) { /* the whole lies among its parts */
        char key[32];
        snprintf(key, sizeof key, "heldout_loss_r%d", edge[i]);
        assert_true(jsonl_series(in_folder("mixed-whole/metrics.jsonl"), key, &at, &loss, &n, &st));
        assert_int_equal(n, 1);
        low = fmin(low, loss[0]);
        high = fmax(high, loss[0]);
        free(at);
        free(loss);
    }
    assert_true(low < all && all < high);
    strcpy(o.train.run, in_folder("mixed-parts"));
    o.train.steps = 5;
    train_ok(&o, &w);
    o.train.steps = 12;
    train_ok(&o, &w);
    assert_true(state_hash(o.train.run, &step[1]) == whole);
    assert_int_equal(step[1], step[0]);
    /* A resolution that is not trained on. */
    fixture_write(in_folder("mixed-40"), &(fixture_spec){.n_samples = 1, .per_shard = 1, .resolution = 40, .vae = 7});
    snprintf(o.data.heldout, sizeof o.data.heldout, "%s", in_folder("mixed-40/shards"));
    o.train.steps = 13;
    assert_int_equal(train(&o, &w, &st), ST_CONFIG);
}

static void test_refusals(void **state) {
    (void)state;
    options o;
    watch   w = {0};
    status  st;
    fixture_options(&o, data, in_folder("refuse"), false);
    o.train.steps = 1;
    train_ok(&o, &w);
    o.train.steps = 2;
    o.vae.width = 48; /* another network in the same run folder */
    assert_int_equal(train(&o, &w, &st), ST_CONFIG);
    assert_true(strstr(st.text, "48") && strstr(st.text, "32"));
    fixture_options(&o, data, in_folder("refuse"), true);
    o.train.steps = 2;
    assert_int_equal(train(&o, &w, &st), ST_CONFIG); /* another kind of model */
    fixture_options(&o, data, in_folder("refuse-2"), true);
    o.dit.resolution = 2;
    assert_int_equal(train(&o, &w, &st), ST_CONFIG);
    assert_non_null(strstr(st.text, "dit.resolution"));
    fixture_options(&o, data, "", true);
    assert_int_equal(train(&o, &w, &st), ST_USAGE);
    fixture_options(&o, in_folder("nowhere"), in_folder("refuse-3"), false);
    assert_int_equal(train(&o, &w, &st), ST_NO_INPUT);
    assert_int_equal(w.last, 1);
}

/* Latents of two auto-encoders in one folder; latents of another auto-encoder under a run that goes on. */
static void test_other_vae(void **state) {
    (void)state;
    options      o;
    watch        w = {0};
    status       st;
    char         mixed[PATH_CAP], other[PATH_CAP];
    fixture_spec spec = {.n_samples = 4, .per_shard = 2, .resolution = 32, .vae = 7, .vae_of_last_shard_differs = 1};
    snprintf(mixed, sizeof mixed, "%s", in_folder("mixed"));
    snprintf(other, sizeof other, "%s", in_folder("other"));
    fixture_write(mixed, &spec);
    fixture_options(&o, mixed, in_folder("other-run"), true);
    o.train.steps = 1;
    assert_int_equal(train(&o, &w, &st), ST_CONFIG);
    fixture_options(&o, data, in_folder("other-run"), true);
    o.train.steps = 1;
    train_ok(&o, &w);
    spec = (fixture_spec){.n_samples = 4, .per_shard = 2, .resolution = 32, .vae = 8};
    fixture_write(other, &spec);
    fixture_options(&o, other, in_folder("other-run"), true);
    o.train.steps = 2;
    assert_int_equal(train(&o, &w, &st), ST_CONFIG);
    assert_non_null(strstr(st.text, "another auto-encoder"));
}

static void test_lock_and_dry_run(void **state) {
    (void)state;
    options o;
    watch   w = {0};
    status  st;
    fixture_options(&o, data, in_folder("dry"), true);
    o.command.dry_run = true;
    train_ok(&o, &w);
    assert_int_equal(w.last, 0);
    assert_int_not_equal(access(in_folder("dry"), F_OK), 0);
    o.command.dry_run = false;
    run_folder mine;
    st = (status){0};
    assert_true(run_folder_open(&mine, &o, &one, &st));
    assert_int_equal(train(&o, &w, &st), ST_CONFIG);
    assert_non_null(strstr(st.text, "in use"));
    run_folder_close(&mine);
}

static bool reads_all(const char *shards) {
    dataset         d;
    dataset_request r = {.shards = shards};
    status          st = {0};
    sample          s;
    if (!dataset_open(&d, &r, &st)) return true; /* a table was hit, not a sample */
    for (int64_t i = 0; i < d.n && status_ok(&st); i++)
        if (dataset_read(&d, i, &s, &st)) sample_free(&s);
    dataset_close(&d);
    return status_ok(&st);
}

/* A byte of a sample flipped: the run ends with file and sample in the message. */
static void test_damaged_sample(void **state) {
    (void)state;
    options      o;
    watch        w = {0};
    status       st;
    char         folder[PATH_CAP], shard_path[PATH_CAP + 32];
    fixture_spec spec = {.n_samples = 3, .per_shard = 3, .resolution = 32, .vae = 7};
    snprintf(folder, sizeof folder, "%s", in_folder("flipped"));
    fixture_write(folder, &spec);
    snprintf(shard_path, sizeof shard_path, "%s/shards/part-0.h5", folder);
    fixture_options(&o, folder, in_folder("flipped-run"), false);
    o.train.steps = 3;
    FILE *f = fopen(shard_path, "rb");
    fseek(f, 0, SEEK_END);
    long size = ftell(f), at = 2000;
    fclose(f);
    for (;; at += 997) {
        assert_true(at < size);
        write_byte(shard_path, size - at);
        if (!reads_all(o.data.train)) break;
        write_byte(shard_path, size - at);
    }
    assert_int_equal(train(&o, &w, &st), ST_DATA);
    assert_true(strstr(st.text, "part-0.h5") && strstr(st.text, "sample"));
    encode_report r; /* and so does encoding, without half a file */
    fixture_options(&o, data, in_folder("flipped-vae"), false);
    o.train.steps = 1;
    train_ok(&o, &w);
    snprintf(o.encode.input, sizeof o.encode.input, "%.400s/shards", folder);
    snprintf(o.encode.output, sizeof o.encode.output, "%s", in_folder("flipped-latents"));
    snprintf(o.encode.vae, sizeof o.encode.vae, "%s", o.train.run);
    st = (status){0};
    assert_false(encode_run(&o, &one, &r, &st));
    assert_int_equal(st.code, ST_DATA);
    assert_true(strstr(st.text, "part-0.h5") && strstr(st.text, "sample"));
    assert_int_not_equal(access(in_folder("flipped-latents/part-0.h5"), F_OK), 0);
}

/* Parts of samples: the loss has the counts of the boxes, and resumes to the bit. */
static void test_chunks(void **state) {
    (void)state;
    options o;
    watch   whole = {0}, part = {0};
    fixture_options(&o, data, in_folder("chunk-a"), false);
    o.vae.chunk_tiles = 2;
    o.vae.chunk_padding = 1;
    o.train.steps = 6;
    train_ok(&o, &whole);
    snprintf(o.train.run, sizeof o.train.run, "%s", in_folder("chunk-b"));
    o.train.steps = 3;
    train_ok(&o, &part);
    o.train.steps = 6;
    train_ok(&o, &part);
    assert_memory_equal(whole.loss, part.loss, sizeof whole.loss);
    o.vae.chunk_tiles = 8; /* the box is everything */
    snprintf(o.train.run, sizeof o.train.run, "%s", in_folder("chunk-c"));
    watch all = {0}, plain = {0};
    o.train.steps = 2;
    train_ok(&o, &all);
    o.vae.chunk_tiles = 0;
    snprintf(o.train.run, sizeof o.train.run, "%s", in_folder("chunk-d"));
    train_ok(&o, &plain);
    for (int i = 1; i <= 2; i++)
        expect_le(fabs(all.loss[i] / plain.loss[i] - 1), 1e-6, "loss of a box around everything");
    assert_true(fabs(whole.loss[1] - plain.loss[1]) > 1e-6);
}

/* Shards -> VAE -> latents -> transformer -> both loaded for inference; a second encode has nothing to do. */
static void test_chain(void **state) {
    (void)state;
    options       o;
    watch         w = {0};
    encode_report r;
    status        st = {0};
    fixture_options(&o, data, in_folder("chain-vae"), false);
    o.train.steps = 3;
    train_ok(&o, &w);
    snprintf(o.encode.input, sizeof o.encode.input, "%s", o.data.train);
    snprintf(o.encode.output, sizeof o.encode.output, "%s", in_folder("chain-latents"));
    snprintf(o.encode.vae, sizeof o.encode.vae, "%s", in_folder("chain-vae"));
    if (!encode_run(&o, &one, &r, &st)) fail_msg("%s", st.text);
    assert_int_equal(r.n_skipped, 0);
    assert_int_equal(r.n_samples, 7);
    if (!encode_run(&o, &one, &r, &st)) fail_msg("%s", st.text);
    assert_int_equal(r.n_skipped, r.n_shards);
    char made[PATH_CAP];
    snprintf(made, sizeof made, "%s", o.encode.output);
    o.encode.ema = false; /* other weights: all over again */
    if (!encode_run(&o, &one, &r, &st)) fail_msg("%s", st.text);
    assert_int_equal(r.n_skipped, 0);

    fixture_options(&o, data, in_folder("chain-dit"), true);
    snprintf(o.data.latents, sizeof o.data.latents, "%s", made);
    snprintf(o.data.heldout, sizeof o.data.heldout, "%.400s/.", o.data.train);
    snprintf(o.data.latents_heldout, sizeof o.data.latents_heldout, "%.400s/.", made);
    o.train.eval_every = 2;
    o.train.eval_samples = 3;
    o.train.steps = 4;
    train_ok(&o, &w);
    int64_t *step, n;
    double  *loss;
    assert_true(jsonl_series(in_folder("chain-dit/metrics.jsonl"), "heldout_loss", &step, &loss, &n, &st));
    assert_int_equal(n, 2);
    assert_true(isfinite(loss[0]) && isfinite(loss[1]));
    free(step);
    free(loss);

    ssvae vae;
    ssdit dit;
    arena weights[2];
    ctx   c = {.be = &backend_cpu};
    if (!load_vae(in_folder("chain-vae"), true, &c, &vae, &weights[0], &st)) fail_msg("%s", st.text);
    if (!load_dit(in_folder("chain-dit"), false, &c, &dit, &weights[1], &st)) fail_msg("%s", st.text);
    assert_int_equal(vae.cfg.width, 32);
    assert_int_equal(dit.cfg.ssa.width, 64);
    ssvae_free(&vae);
    ssdit_free(&dit);
    arena_free(&weights[0]);
    arena_free(&weights[1]);
    assert_false(load_dit(in_folder("chain-vae"), true, &c, &dit, &weights[1], &st));
    assert_int_equal(st.code, ST_CONFIG);

    watch from = {0}, zero = {0}; /* train.init_from */
    fixture_options(&o, data, in_folder("chain-from"), false);
    snprintf(o.train.init_from, sizeof o.train.init_from, "%s", in_folder("chain-vae"));
    o.train.steps = 1;
    train_ok(&o, &from);
    fixture_options(&o, data, in_folder("chain-zero"), false);
    o.train.steps = 1;
    train_ok(&o, &zero);
    assert_true(from.first == 1 && from.loss[1] < zero.loss[1]);
}

int main(void) {
    fixture_spec spec = {.n_samples = 7, .per_shard = 3, .resolution = 32, .vae = 7};
    int          argc = 0;
    comm_start(&one, &argc, NULL);
    log_init(0, 1, LOG_WARN);
    snprintf(data, sizeof data, "%s", in_folder("data"));
    fixture_write(data, &spec);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_resume_vae),
                                       cmocka_unit_test(test_resume_dit),
                                       cmocka_unit_test(test_resume_grouped),
                                       cmocka_unit_test(test_memory_modes),
                                       cmocka_unit_test(test_memory_bound),
                                       cmocka_unit_test(test_host_memory),
                                       cmocka_unit_test(test_overfit),
                                       cmocka_unit_test(test_bad_gradient),
                                       cmocka_unit_test(test_signal),
                                       cmocka_unit_test(test_wall_time),
                                       cmocka_unit_test(test_saved_beside),
                                       cmocka_unit_test(test_signal_while_saving),
                                       cmocka_unit_test(test_damaged_checkpoint),
                                       cmocka_unit_test(test_resolutions),
                                       cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_other_vae),
                                       cmocka_unit_test(test_lock_and_dry_run),
                                       cmocka_unit_test(test_damaged_sample),
                                       cmocka_unit_test(test_chunks),
                                       cmocka_unit_test(test_chain)};
    int                     failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_finish(&one);
    return failed;
}
