#include "train/trainer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/beat.h"
#include "core/fault.h"
#include "io/config_check.h"
#include "ops/elementwise.h"
#include "train/arithmetic.h"
#include "train/levels.h"
#include "train/overlap.h"
#include "train/rank_log.h"
#include "train/replicas.h"
#include "train/run_folder.h"
#include "train/run_log.h"
#include "train/sizing.h"
#include "train/stop.h"
#include "train/watchdog.h"

static const double SPIKE = 6; /* standard deviations above the usual that are told */

/* ---- building ------------------------------------------------------------------------------------------------- */

typedef struct {
    const options       *o;
    comm                *c;
    const trainer_hooks *hooks;
    stepper              w;
    dataset              data, heldout;
    arena                weights, narrow, clip; /* narrow: bf16 gradients on their way between GPUs */
    sizing               size;
    run_folder           folder;
    run_log             *log;
    watchdog            *dog;
    goodput              good; /* rank 0 */
    stragglers          *slow;
    replica_check        replicas;
    arithmetic_check     arithmetic;
    bool                 untaken; /* weights and optimiser have no memory: a dry run that computes nothing */
    int                  nodes, rank_log;
    double               rank_log_last;
    int64_t              first_step; /* steps of the checkpoint the run goes on from, -1: none */
    double               spike_told; /* when; 0: never */
    int64_t              spikes_untold;
} trainer;

static bool check_shares(const options *o, const dataset *d, status *st) {
    double sum = 0;
    int    n = o->data.shares.n;
    for (int f = 0; f < n; f++) sum += o->data.shares.v[f];
    return n == 0 || (n == d->n_folders && sum > 0) ||
           status_set(st, ST_CONFIG, "data.shares has %d numbers with sum %g, data.train %d folders: give each a share",
                      n, sum, d->n_folders);
}

enum { MOST_SAMPLES = 1000000 }; /* of a step, as train.batch_samples' range says: its tables grow with them */

static bool check_batch(const options *o, const dataset *d, status *st) {
    double seen = 0;
    for (int64_t i = 0; i < d->n; i++) seen += (double)d->tokens[i];
    double samples = (double)o->train.batch_tokens * (double)d->n / seen;
    return samples <= MOST_SAMPLES ||
           status_set(st, ST_CONFIG,
                      "train.batch_tokens = %lld is some %.0f samples of this data a step, over %d: lower it",
                      (long long)o->train.batch_tokens, samples, MOST_SAMPLES);
}

/* Whether data of each resolution in a are in b too. */
static bool resolutions_within(const dataset *a, const dataset *b) {
    for (int i = 0, k; i < a->n_folders; i++) {
        for (k = 0; k < b->n_folders && b->folder[k].resolution != a->folder[i].resolution; k++) {
        }
        if (k == b->n_folders) return false;
    }
    return true;
}

/* What makes held-out losses silent or worthless without being wrong. */
static void warn_of_heldout(const trainer *t) {
    const options *o = t->o;
    if (t->c->rank != 0 || !o->data.heldout[0]) return;
    if (o->train.eval_every == 0)
        log_warn("data.heldout is given and train.eval_every is 0: nothing is evaluated");
    else if (o->train.model == opt_train_model_dit && !o->data.latents_heldout[0])
        log_warn("data.heldout is given and data.latents_heldout is not: nothing is evaluated");
    int64_t n = dataset_common(&t->data, &t->heldout);
    if (n > 0)
        log_warn("%lld of %lld held-out samples are in data.train too: their loss says nothing about new shapes",
                 (long long)n, (long long)t->heldout.n);
}

static bool open_data(trainer *t, status *st) {
    const options *o = t->o;
    bool           dit = o->train.model == opt_train_model_dit;
    bool           stored = dit && o->cond.encoder == opt_cond_encoder_dinov2 && o->data.tokens[0];
    if (!o->data.train[0]) {
        status_set(st, ST_USAGE, "data.train is not given: the folder of shards to train on");
        return comm_agree(t->c, st);
    }
    dataset_request r = {.c = t->c,
                         .shards = o->data.train,
                         .several = true,
                         .latents = dit ? o->data.latents : NULL,
                         .tokens = stored ? o->data.tokens : NULL,
                         .resolution = (int)o->data.resolution,
                         .min_tiles = o->data.min_tiles,
                         .max_tiles = o->data.max_tiles,
                         .max_open_share = o->data.max_open_share,
                         .max_parts = o->data.max_parts,
                         .crop_tiles = dit ? 0 : o->vae.crop_tiles,
                         .cache_mb = o->data.cache_mb};
    if (dataset_open(&t->data, &r, st) && check_shares(o, &t->data, st)) check_batch(o, &t->data, st);
    if (!comm_agree(t->c, st)) return false;
    if (o->data.heldout[0] && o->train.eval_every > 0 && (!dit || o->data.latents_heldout[0])) {
        r.shards = o->data.heldout;
        r.crop_tiles = 0;
        r.latents = dit ? o->data.latents_heldout : NULL;
        r.tokens = stored ? o->data.tokens_heldout : NULL;
        if (r.tokens && !r.tokens[0])
            status_set(st, ST_USAGE, "data.tokens_heldout is not given: the condition tokens of data.heldout");
        else if (dataset_open(&t->heldout, &r, st) &&
                 (!resolutions_within(&t->heldout, &t->data) || t->heldout.vae != t->data.vae ||
                  t->heldout.encoder != t->data.encoder))
            status_set(st, ST_CONFIG,
                       "%s: held-out data have another resolution, auto-encoder or image encoder than %s",
                       o->data.heldout, o->data.train);
    }
    if (!comm_agree(t->c, st)) return false;
    warn_of_heldout(t);
    return true;
}

/* Weights and optimiser, on the GPU if there is one. */
static bool make_slabs(trainer *t, status *st) {
    stepper *w = &t->w;
    size_t   bytes, free_bytes, all;
    w->t->p->act = w->where.act;
    bytes = optimizer_bytes(w->t->p, t->o, t->c) + 4096 + (size_t)t->c->size * sizeof(double);
    if (w->where.dev == DEV_CUDA) {
        device_memory(&free_bytes, &all);
        if (bytes > free_bytes)
            status_set(st, ST_CONFIG,
                       "weights, gradients and optimiser take %.0f MB, %.0f of %.0f MB are free on the GPU%s",
                       (double)bytes / 1e6, (double)free_bytes / 1e6, (double)all / 1e6,
                       t->o->train.sharded_optimizer ? ": use more ranks" : ": set train.sharded_optimizer=true");
        if (!comm_agree(t->c, st)) return false;
    } else if (!sizing_slabs(w, t->o, bytes, &t->untaken, st)) {
        return false;
    }
    t->weights = t->untaken ? arena_counting("weights") : arena_new_on("weights", bytes, w->where.dev);
    optimizer_init(&w->x, w->t->p, t->o, t->c, &t->weights);
    if (!t->untaken) params_randomize(w->t->p, (uint64_t)t->o->train.seed);
    return true;
}

static bool build_model(trainer *t, status *st) {
    const options *o = t->o;
    stepper       *w = &t->w;
    w->t = o->train.model == opt_train_model_dit ? task_dit_new(o, &t->data, st) : task_vae_new(o, &t->data, st);
    if (!comm_agree(t->c, st) || !make_slabs(t, st)) return false;
    int64_t window = o->train.clip == opt_train_clip_adaptive ? o->train.clip_window : 0;
    t->clip = arena_new("clip", (size_t)window * 2 * sizeof(float) + 4096);
    w->clip = o->train.clip != opt_train_clip_none;
    if (t->c->rank == 0 && o->train.batch_tokens == 0 && o->train.batch_samples < t->c->size)
        log_warn("train.batch_samples = %lld on %d ranks: %lld of them have nothing to do in a step",
                 (long long)o->train.batch_samples, t->c->size, (long long)(t->c->size - o->train.batch_samples));
    w->max_bad = o->data.max_bad_samples;
    w->spike_window = o->train.spike_window;
    w->spike_skip = o->train.spike_skip;
    w->s.clip = clip_new(&t->clip, o->train.clip_norm, o->train.clip_percentile, window);
    w->s.vae = t->data.vae;
    w->s.encoder = t->data.encoder;
    w->s.data = hash_bytes(t->data.ids, (size_t)t->data.n * sizeof *t->data.ids, 0);
    if (o->train.balance == opt_train_balance_steps) /* another order */
        w->s.data =
            hash_bytes((int64_t[]){o->train.balance_steps, o->train.batch_samples}, 2 * sizeof(int64_t), w->s.data);
    for (int f = 0; t->data.n_folders > 1 && f < t->data.n_folders; f++)
        w->s.data = hash_bytes(&t->data.folder[f].resolution, sizeof t->data.folder[f].resolution, w->s.data);
    w->s.content = dataset_content(&t->data);
    w->s.grid = grid_range_of(&t->data);
    w->s.accept_data = o->data.accept_new;
    recompute_rule rule = o->train.recompute == opt_train_recompute_auto  ? RECOMPUTE_AUTO
                          : o->train.recompute == opt_train_recompute_off ? RECOMPUTE_OFF
                                                                          : RECOMPUTE_ON;
    size_t         bound = (size_t)o->train.memory_mb << 20;
    engine_init(&w->e, &w->where, w->where.dev == DEV_CPU ? bound : 0, rule); /* on a GPU sizing sets it */
    w->e.gpu_per_tile = w->t->scratch_per_tile(w->t);
    if (t->hooks) w->e.c.profile = t->hooks->profile;
    params_refresh16(&w->e.c, w->t->p);
    return true;
}

/* buckets.cast */
static void cast_gradients(void *user, const tensor *from, tensor *to) {
    copy_fwd(user, &(xy_args){.x = from, .y = to});
}

static void make_buckets(trainer *t) {
    const params *p = t->w.t->p;
    bucket_row   *row = malloc((size_t)p->n * sizeof *row);
    CHECK(row, "no memory for %d rows", p->n);
    for (int i = 0; i < p->n; i++) row[i] = (bucket_row){p->row[i]->offset, p->row[i]->count, p->row[i]->layer};
    bool gpus = t->w.where.dev == DEV_CUDA;
    buckets_init(&t->w.b, t->c, row, p->n, p->total, overlap_bucket_bytes(t->o, gpus, t->nodes));
    if (t->c->size > 1 && !overlap_of(t->o, gpus, t->nodes))
        log_info("gradients are summed behind backward, all at once");
    free(row);
    if (t->w.x.sharded) buckets_slice(&t->w.b, t->w.x.slice);
    if (!t->narrow.base) return;
    arena_reset(&t->narrow, 0);
    t->w.b.narrow = arena_tensor(&t->narrow, DT_BF16, DIMS(p->total));
    t->w.b.cast = cast_gradients;
    t->w.b.user = &t->w.e.c;
}

/* Weights to start from: the run's own newest checkpoint, else train.init_from, else random ones. */
static bool starting_point(trainer *t, status *st) {
    bool found = false;
    if (!state_resume(t->folder.path, t->c, t->w.t, &t->w.x, &t->w.s, &found, st)) return false;
    t->first_step = found ? t->w.s.step : -1;
    if (!found && t->o->train.init_from[0]) {
        if (state_load_weights(t->o->train.init_from, true, t->w.t->p, st))
            log_info("starting from the weights of %s", t->o->train.init_from);
        if (!comm_agree(t->c, st)) return false;
    }
    if (!found) optimizer_start(&t->w.x);
    params_refresh16(&t->w.e.c, t->w.t->p);
    return true;
}

/* ---- the loop ------------------------------------------------------------------------------------------------- */

/* Begins a checkpoint of the steps that are done; a failure is a warning, as training goes on. */
static void save_on_the_way(trainer *t, log_span *span) {
    status st = {0};
    double t0 = now_seconds();
    if (!t->w.save) return;
    beat_enter(BEAT_CHECKPOINT);
    if (!saver_start(t->w.save, t->w.t, &t->w.x, &t->w.s, &st) && t->c->rank == 0)
        log_warn("no checkpoint of step %lld: %s", (long long)t->w.s.step, st.text);
    span->checkpoint += now_seconds() - t0;
    goodput_mark(&t->good, t->w.s.step);
    goodput_book(&t->good, GOOD_CHECKPOINT);
}

/* The checkpoint that the run ends with is on disk when this returns. */
static bool save_at_last(trainer *t, log_span *span, status *st) {
    stepper *w = &t->w;
    double   t0 = now_seconds();
    if (!w->save || t->first_step == w->s.step) return true;
    beat_enter(BEAT_CHECKPOINT);
    saver_wait(w->save, NULL);
    bool ok =
        saver_saved(w->save) == w->s.step || (saver_start(w->save, w->t, &w->x, &w->s, st) && saver_wait(w->save, st));
    span->checkpoint += now_seconds() - t0;
    goodput_book(&t->good, GOOD_CHECKPOINT);
    return ok;
}

static bool evaluate(trainer *t, status *st) {
    heldout_result r;
    if (t->heldout.n == 0 || t->w.s.step % t->o->train.eval_every != 0) return true;
    beat_enter(BEAT_EVAL);
    fault_at("train.eval");
    goodput_book(&t->good, GOOD_OTHER);
    if (!heldout_run(&t->w, &t->heldout, t->o->train.eval_samples, &r, st)) return false;
    run_log_heldout(t->log, &t->w, t->w.s.step, &r);
    goodput_book(&t->good, GOOD_EVAL);
    log_info("step %lld: held-out loss %.6g on %lld samples", (long long)t->w.s.step, r.loss, (long long)r.samples);
    return true;
}

static void log_step(trainer *t, const step_result *r, log_span *span) {
    log_extra x = {&t->good, t->slow, t->o->train.prometheus, t->folder.path};
    rank_log_times(span, t->w.s.step, &t->rank_log_last);
    run_log_step(t->log, t->c, &t->w, r, span, &x);
}

static void count_span(log_span *span, const step_result *r) {
    span->times.data += r->times.data;
    span->times.forward += r->times.forward;
    span->times.backward += r->times.backward;
    span->times.reduce += r->times.reduce;
    span->times.update += r->times.update;
    span->tokens += r->tokens;
    span->own_tokens += r->own_tokens;
    span->skipped += r->skipped;
    span->steps++;
}

/* A bad step in a row too many: the state is that of the last good step, and is kept. */
static bool give_up(trainer *t, log_span *span, status *st) {
    status  saved = {0};
    int64_t row = t->w.s.bad_in_row;
    bool    ok = save_at_last(t, span, &saved);
    return status_set(
        st, ST_DATA,
        "%lld steps in a row were skipped (not finite, or spikes): %s%s; lower train.lr or look at the data",
        (long long)row,
        ok ? "the last good state is saved in " : "and saving failed: ", ok ? t->folder.path : saved.text);
}

/* The same, with rollbacks left: back to the newest checkpoint, and on behind the batch that was the last. The steps
 * between are done again with other batches. Every rank holds the same losses and norms, so all come here together. */
static bool roll_back(trainer *t, log_span *span, status *st) {
    stepper *w = &t->w;
    int64_t  step = w->s.step, next_batch = step + w->s.shift, bad = w->s.bad_total, done = w->s.rollbacks;
    bool     found = false;
    loader_halt(w->l);
    upload_forget(&w->up);
    if (w->save) saver_wait(w->save, NULL);
    if (!state_resume(t->folder.path, t->c, w->t, &w->x, &w->s, &found, st)) return false;
    if (!found) return give_up(t, span, st);
    params_refresh16(&w->e.c, w->t->p);
    w->s.shift = next_batch - w->s.step;
    w->s.rollbacks = done + 1;
    w->s.bad_total = bad;
    w->s.bad_in_row = 0;
    if (t->c->rank == 0)
        log_warn(
            "rolled back from step %lld to the checkpoint of step %lld, which goes on with batch %lld (%lld of %lld "
            "rollbacks)",
            (long long)step, (long long)w->s.step, (long long)next_batch, (long long)w->s.rollbacks,
            (long long)t->o->train.rollback);
    goodput_rolled_back(&t->good, w->s.step);
    run_log_rewind(t->log, w->s.step);
    loader_go_on(w->l, next_batch, t->o->train.steps + w->s.shift);
    return true;
}

/* A spike; of many one a minute, so that small batches do not fill the log. */
static void tell_spike(trainer *t, const step_result *r) {
    static const double QUIET_SECONDS = 60;
    if (t->spike_told > 0 && now_seconds() - t->spike_told < QUIET_SECONDS) {
        t->spikes_untold++;
        return;
    }
    log_info("step %lld is a spike: loss %g, %.1f standard deviations above the last steps', gradient norm %g, %.1f "
             "above (and %lld before, untold)",
             (long long)t->w.s.step, r->loss, r->loss_z, r->grad_norm, r->norm_z, (long long)t->spikes_untold);
    t->spike_told = now_seconds();
    t->spikes_untold = 0;
}

/* What is told of a step that is out of the ordinary. */
static void tell(trainer *t, const step_result *r) {
    const run_state *s = &t->w.s;
    if (r->skipped)
        log_info("step %lld skipped%s: loss %g, gradient norm %g (%lld in a row, %lld in all)", (long long)s->step,
                 r->spiked ? " as a spike" : "", r->loss, r->grad_norm, (long long)s->bad_in_row,
                 (long long)s->bad_total);
    else if (r->loss_z > SPIKE || r->norm_z > SPIKE)
        tell_spike(t, r);
}

static bool loop(trainer *t, status *st) {
    const options *o = t->o;
    stepper       *w = &t->w;
    int64_t        end = o->train.steps;
    log_span       span = {.t0 = now_seconds()};
    progress       bar;
    char           note[96] = "";
    double         step_s = 0; /* of the last one */
    if (t->c->rank == 0 && stop_time_is_up(o->train.stop_before, 0))
        log_warn("this job ends in %.0f s and train.stop_before is %g: one step is done; give it more time",
                 stop_time_left(), o->train.stop_before);
    goodput_book(&t->good, GOOD_START);
    goodput_mark(&t->good, w->s.step);
    progress_begin(&bar, "train", w->s.step, end);
    while (w->s.step < end) {
        step_result r;
        double      t0 = now_seconds();
        if (!step_run(w, stop_asked() || stop_time_is_up(o->train.stop_before, step_s), &r, st)) return false;
        beat_warm();
        step_s = now_seconds() - t0;
        goodput_book(&t->good, r.skipped ? GOOD_LOST : GOOD_USEFUL);
        count_span(&span, &r);
        tell(t, &r);
        if (t->hooks && t->hooks->on_step) t->hooks->on_step(t->hooks->user, w->s.step, &r);
        if (w->s.step % o->train.log_every == 0 || w->s.step == end || r.stop) log_step(t, &r, &span);
        goodput_book(&t->good, GOOD_OTHER);
        if (w->s.bad_in_row >= o->train.max_bad_steps) {
            if (w->s.rollbacks >= o->train.rollback) return give_up(t, &span, st);
            if (!roll_back(t, &span, st)) return false;
            continue;
        }
        if (o->train.check_replicas_every > 0 && w->s.step % o->train.check_replicas_every == 0 &&
            !replicas_check(&t->replicas, &w->e.c, t->c, &w->x, w->s.step, st))
            return false;
        if (o->train.check_arithmetic_every > 0 && w->s.step % o->train.check_arithmetic_every == 0 &&
            !arithmetic_run(&t->arithmetic, w, w->s.step / o->train.check_arithmetic_every, st))
            return false;
        if (!evaluate(t, st)) return false;
        if (ckpt_due(w->s.step, o->train.checkpoint_every)) save_on_the_way(t, &span);
        snprintf(note, sizeof note, "loss %.5g  |g| %.3g", r.loss, r.grad_norm);
        progress_step(&bar, w->s.step, note);
        if (r.stop && w->s.step < end) {
            if (!save_at_last(t, &span, st)) return false;
            return status_set(st, ST_REQUEUE, "stopped on request after step %lld; the same command continues",
                              (long long)w->s.step);
        }
    }
    progress_end(&bar, note);
    return save_at_last(t, &span, st);
}

static bool train(trainer *t, status *st) {
    stepper *w = &t->w;
    if (!starting_point(t, st)) return false;
    if (w->s.step >= t->o->train.steps) {
        log_info("%s has %lld steps already, train.steps is %lld: nothing to do", t->folder.path, (long long)w->s.step,
                 (long long)t->o->train.steps);
        return true;
    }
    if (t->c->rank == 0)
        goodput_open(&t->good, t->folder.path, w->s.step, process_age(), t->o->train.max_idle_starts, st);
    if (!comm_agree(t->c, st) || !run_folder_start(&t->folder, t->o, t->c, st)) return false;
    t->rank_log = rank_log_open(t->folder.path, t->c, w->s.step);
    goodput_write(&t->good, t->good.first_best, true);
    t->slow = stragglers_new(t->c);
    t->log = run_log_open(t->folder.path, t->c, w->s.step, st);
    if (!status_ok(st)) return false;
    plan_config order = plan_config_of(t->o, &t->data, t->size.micro_tokens);
    int         threads = (int)t->o->data.threads, spare = place_spare_threads(&w->where, t->c);
    w->p = plan_new(&order);
    w->l = loader_new(&(loader_config){.t = w->t,
                                       .d = &t->data,
                                       .plan = order,
                                       .rank = t->c->rank,
                                       .world = t->c->size,
                                       .dog = t->dog,
                                       .first_step = w->s.step + w->s.shift,
                                       .end_step = t->o->train.steps + w->s.shift,
                                       .read_ahead = (int)t->o->data.read_ahead,
                                       .threads = threads > 0 ? threads : spare,
                                       .dev = w->where.dev,
                                       .host_bytes = t->size.most_bytes});
    make_buckets(t);
    stepper_ready(w, t->size.most_values);
    if (!t->hooks || !t->hooks->unsaved)
        w->save =
            saver_new(&(saver_config){.c = t->c, .run = t->folder.path, .l = w->l, .o = t->o}, w->t, &w->x, &w->s);
    bool ok = loop(t, st);
    if (w->save) saver_wait(w->save, NULL); /* a run that ends with an error: what it had begun to save is kept */
    goodput_book(&t->good, GOOD_OTHER);
    goodput_write(&t->good, w->s.step, true);
    return ok;
}

static bool narrow_gradients(trainer *t, status *st) {
    if (t->o->train.reduce_dtype == opt_train_reduce_dtype_f32) return true;
    if (t->w.where.dev != DEV_CUDA)
        return status_set(st, ST_CONFIG, "train.reduce_dtype=bf16 is for GPUs: set it to f32");
    if (t->c->size > 1)
        t->narrow = arena_new_on("bf16 gradients", (size_t)t->w.t->p->total * sizeof(uint16_t), t->w.where.dev);
    return true;
}

static bool run(trainer *t, status *st) {
    stepper *w = &t->w;
    double   seconds = 0;
    config_check(t->o, NULL, st);
    /* The folder first: what is wrong with it is told before data are read and memory is measured. */
    if (!comm_agree(t->c, st) || !place_open(&w->where, t->o, t->c, true, st)) return false;
    if (!t->o->command.dry_run && !run_folder_open(&t->folder, t->o, t->c, st)) return false;
    if (!open_data(t, st)) return false;
    if (!levels_choose(t->o, t->c, &t->nodes, st)) return false;
    if (w->where.dev == DEV_CUDA) comm_device_open(t->c, t->o->train.comm_timeout_s);
    if (!build_model(t, st) || !narrow_gradients(t, st)) return false;
    bool dry = t->o->command.dry_run, fits = sizing_run(w, t->o, &t->heldout, t->untaken, &t->size, st);
    if (fits && dry && !t->untaken && !sizing_time(w, t->o, &t->size, &seconds, st)) return false;
    if (fits || t->size.need.bytes > 0) sizing_print(w, t->o, &t->size, seconds); /* what does not fit is told, too */
    return fits && (dry || train(t, st));
}

status_code trainer_run(const options *o, comm *c, const trainer_hooks *hooks, status *st) {
    trainer      t = {.o = o, .c = c, .hooks = hooks, .folder = {.lock = -1}, .first_step = -1, .rank_log = -1};
    stop_signals old;
    stop_listen(&old); /* one that comes before the first step ends the run after it */
    t.w.c = c;
    t.w.d = &t.data;
    if (hooks) {
        t.w.after_backward = hooks->after_backward;
        t.w.user = hooks->user;
    }
    *st = (status){0};
    t.dog = watchdog_start(c, o->train.hang_timeout_s);
    fault_at("train.start");
    run(&t, st);
    saver_free(t.w.save);
    loader_free(t.w.l);
    plan_free(t.w.p);
    buckets_free(&t.w.b);
    run_log_close(t.log);
    stragglers_free(t.slow);
    rank_log_close(t.rank_log);
    run_folder_close(&t.folder);
    optimizer_free(&t.w.x);
    stepper_free(&t.w);
    if (t.w.e.book.base) engine_free(&t.w.e);
    comm_device_close(c);
    comm_levels_close(c);
    if (t.weights.base) arena_free(&t.weights);
    if (t.narrow.base) arena_free(&t.narrow);
    if (t.clip.base) arena_free(&t.clip);
    if (t.w.t) t.w.t->free(t.w.t);
    dataset_close(&t.data);
    dataset_close(&t.heldout);
    watchdog_stop(t.dog);
    stop_unlisten(&old);
    return st->code;
}
