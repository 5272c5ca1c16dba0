#include "train/step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/beat.h"
#include "core/fault.h"

/* ---- clocks --------------------------------------------------------------------------------------------------- */

static int clock_set(step_clock *k) {
    if (k->n == k->most) {
        k->most = k->most ? 2 * k->most : 16;
        k->event = realloc(k->event, (size_t)k->most * sizeof(device_event *));
        k->at = realloc(k->at, (size_t)k->most * sizeof *k->at);
        CHECK(k->event && k->at, "no memory for %d points in time", k->most);
        for (int i = k->n; i < k->most; i++) k->event[i] = k->dev == DEV_CPU ? NULL : device_event_new();
    }
    if (k->dev == DEV_CPU)
        k->at[k->n] = now_seconds();
    else
        device_event_record(k->event[k->n], STREAM_COMPUTE);
    return k->n++;
}

/* On a GPU after the host has waited for point b. */
static double clock_between(const step_clock *k, int a, int b) {
    return k->dev == DEV_CPU ? k->at[b] - k->at[a] : device_event_seconds(k->event[a], k->event[b]);
}

static void clock_free(step_clock *k) {
    for (int i = 0; i < k->most; i++) device_event_free(k->event[i]);
    free(k->event);
    free(k->at);
    *k = (step_clock){0};
}

void stepper_ready(stepper *w, int64_t most_values) {
    w->clock.dev = w->update_clock.dev = w->where.dev;
    values_init(&w->values, w->where.dev, most_values + w->c->size); /* the norm, in slices */
}

void stepper_free(stepper *w) {
    clock_free(&w->clock);
    clock_free(&w->update_clock);
    values_free(&w->values);
    upload_free(&w->up);
    bad_samples_free(&w->bad);
}

/* ---- one step ------------------------------------------------------------------------------------------------- */

static void layer_done(void *user, int layer) {
    buckets_layer_done(user, layer);
}

/* Global counts of the step, from the index or from the batches of all ranks (collective). */
static bool step_counts(stepper *w, const plan_step *s, double count[TASK_SUMS], status *st) {
    bool ok = true;
    memset(count, 0, TASK_SUMS * sizeof *count);
    if (!w->t->count_batches) {
        w->t->counts(w->t, w->d, s, count);
    } else {
        ok = loader_counts(w->l, s->n_micro[w->c->rank], count, st);
        comm_sum_f64(w->c, count, TASK_SUMS);
    }
    return ok;
}

/* Forward and backward of one micro-batch, between three points of the clock; `last`: layers report to the buckets as
 * they complete. */
static bool run_micro(stepper *w, const double count[TASK_SUMS], bool last, step_times *times, int64_t *tokens,
                      status *st) {
    micro_batch *b;
    engine_need  need;
    tensor       value[TASK_TENSORS];
    double       t0 = now_seconds();
    beat_enter(BEAT_DATA);
    if (!loader_next(w->l, &b, st)) return false;
    times->data += now_seconds() - t0;
    times->prepare += b->seconds;
    bad_samples_note(&w->bad, b);
    if (b->n_samples == 0) { /* all of it was bad */
        for (int i = 0; i < 3; i++) clock_set(&w->clock);
        loader_done(w->l, b);
        return true;
    }
    *tokens += b->n_tiles;
    beat_enter(BEAT_FORWARD);
    upload_use(&w->up, w->t, b);
    bool ok = engine_prepare(&w->e, w->t, b, &need, st);
    if (ok) {
        w->e.t.on_layer_done = last ? layer_done : NULL;
        w->e.t.user = &w->b;
        clock_set(&w->clock);
        fault_at("step.forward");
        if (fault_at("step.loop"))
            for (;;) {
            }
        tape_begin(&w->e.t);
        int n = w->t->forward(w->t, &w->e.t, b, count, value);
        values_take(&w->values, b, value, n);
        clock_set(&w->clock);
        beat_enter(BEAT_BACKWARD);
        fault_at("step.backward");
        tape_backward(&w->e.t);
        clock_set(&w->clock);
    }
    upload_done(&w->up, b);
    loader_done(w->l, b);
    return ok;
}

/* What all ranks must know of each other after backward. */
typedef struct {
    bool stop, failed, bad_sample; /* any rank's */
} agreed;

static agreed exchange(stepper *w, double sum[TASK_SUMS], bool wants_stop, bool failed) {
    enum { STOP = TASK_SUMS, FAILED, BAD, SAVER, ALL = SAVER + SAVER_SUMS };
    double all[ALL];
    memcpy(all, sum, TASK_SUMS * sizeof *sum);
    all[STOP] = wants_stop;
    all[FAILED] = failed;
    all[BAD] = w->bad.n_found > 0;
    saver_tell(w->save, all + SAVER);
    comm_sum_f64(w->c, all, ALL);
    saver_hear(w->save, all + SAVER);
    memcpy(sum, all, TASK_SUMS * sizeof *sum);
    return (agreed){.stop = all[STOP] > 0, .failed = all[FAILED] > 0, .bad_sample = all[BAD] > 0};
}

/* How far loss and norm lie above the usual; the windows hold steps that count only. */
static void judge_spike(stepper *w, step_result *r) {
    if (w->spike_window == 0 || r->skipped) return;
    r->loss_z = spike_z(&w->s.loss_window, w->spike_window, r->loss);
    r->norm_z = spike_z(&w->s.norm_window, w->spike_window, r->grad_norm);
    if (w->spike_skip > 0) r->spiked = r->skipped = fmax(r->loss_z, r->norm_z) > w->spike_skip;
    if (r->skipped) return;
    spike_observe(&w->s.loss_window, w->spike_window, r->loss);
    spike_observe(&w->s.norm_window, w->spike_window, r->grad_norm);
}

/* Skip or clip, update. Every rank holds the same gradient and decides the same. */
static void apply(stepper *w, step_result *r) {
    double factor = 1;
    r->lr = optimizer_lr(&w->x, w->s.step);
    r->clip_limit = w->clip ? clip_limit(&w->s.clip) : INFINITY;
    r->skipped = !isfinite(r->grad_norm) || !isfinite(r->loss);
    judge_spike(w, r);
    clock_set(&w->update_clock);
    if (!r->skipped) {
        if (w->clip) {
            factor = clip_factor(r->grad_norm, r->clip_limit);
            clip_observe(&w->s.clip, r->grad_norm);
        }
        optimizer_update(&w->e.c, &w->x, w->c, w->s.step, factor);
    }
    clock_set(&w->update_clock);
    w->s.bad_in_row = r->skipped ? w->s.bad_in_row + 1 : 0;
    w->s.bad_total += r->skipped;
}

/* Zero gradients, all micro-batches, the sum over the ranks, its norm; all of it enqueued only, on a GPU. */
static bool gradients(stepper *w, const double count[TASK_SUMS], int n_micro, step_result *r, int64_t *norm_at,
                      status *st) {
    params *p = w->t->p;
    tensor  slab = optimizer_gradients(&w->x), norm;
    bool    ok = status_ok(st);
    zero_fwd(&w->e.c, &(xy_args){.y = &slab});
    if (fault_at("step.gradient")) slab_write(p->dev, p->g, p->total / 3, 1, &(float){NAN});
    if (n_micro == 0) buckets_begin(&w->b, &slab);
    for (int m = 0; m < n_micro; m++) {
        if (m == n_micro - 1) buckets_begin(&w->b, &slab);
        ok = ok && run_micro(w, count, m == n_micro - 1 && !w->after_backward, &r->times, &r->own_tokens, st);
    }
    if (w->after_backward) w->after_backward(w->user, w->s.step, p);
    beat_enter(BEAT_REDUCE);
    fault_at("step.reduce");
    clock_set(&w->clock);
    buckets_finish(&w->b);
    clock_set(&w->clock);
    norm = optimizer_norm(&w->e.c, &w->x, w->c);
    *norm_at = values_take_plain(&w->values, &norm);
    return ok;
}

/* The points of the clock are three for each micro-batch, then before and after the reduction's end. */
static void read_clock(stepper *w, step_times *t) {
    step_clock *k = &w->clock;
    for (int i = 0; i + 4 < k->n; i += 3) {
        t->forward += clock_between(k, i, i + 1);
        t->backward += clock_between(k, i + 1, i + 2);
    }
    t->reduce = clock_between(k, k->n - 2, k->n - 1);
    k->n = 0;
}

static void read_update_clock(stepper *w, step_times *t) {
    if (w->update_clock.n > 0) t->update = clock_between(&w->update_clock, 0, 1);
    w->update_clock.n = 0;
}

/* One bit of one weight, as a particle or a bad memory would. */
static void flip_weight(const params *p) {
    uint32_t bits;
    float    v;
    slab_read(p->dev, p->w, p->total / 2, 1, &v);
    memcpy(&bits, &v, sizeof bits);
    bits ^= 1u << 20;
    memcpy(&v, &bits, sizeof v);
    slab_write(p->dev, p->w, p->total / 2, 1, &v);
}

bool step_run(stepper *w, bool wants_stop, step_result *r, status *st) {
    plan_step s = plan_of_step(w->p, w->s.step + w->s.shift, w->c->size);
    double    count[TASK_SUMS], sum[TASK_SUMS] = {0}, t = now_seconds();
    int64_t   norm_at;
    bool      on_gpu = w->where.dev != DEV_CPU;
    *r = (step_result){.tokens = s.tokens, .samples = s.n_items, .balance = s.balance};
    comm_device_step(w->c, w->s.step);
    beat_enter(BEAT_DATA);
    beat_step(w->s.step);
    step_counts(w, &s, count, st);
    r->times.data = now_seconds() - t;
    bool ok = gradients(w, count, s.n_micro[w->c->rank], r, &norm_at, st);
    plan_step_free(&s);
    if (on_gpu) { /* the next batch is on its way before the host waits, if the loader has it */
        micro_batch *next = loader_peek(w->l);
        if (next && next->n_samples > 0) upload_start(&w->up, w->t, next);
        beat_wait("the GPU's end of the step");
        device_sync(STREAM_COMPUTE);
        beat_back();
        comm_device_settled(w->c);
        read_update_clock(w, &r->times);
    }
    read_clock(w, &r->times);
    r->grad_norm = 0;
    for (int k = 0; k < w->c->size; k++) r->grad_norm += w->values.value[norm_at + k];
    r->grad_norm = sqrt(r->grad_norm);
    values_add(&w->values, sum);
    if (fault_at("step.loss")) sum[0] = NAN;
    agreed all = exchange(w, sum, wants_stop, !ok);
    r->stop = all.stop;
    if (all.failed) return comm_agree(w->c, st);
    if (all.bad_sample && !bad_samples_join(&w->bad, w->c, w->d->n, w->max_bad, st)) return false;
    memcpy(r->count, count, sizeof r->count);
    for (int i = 0; i < w->t->n_sums; i++) r->mean[i] = count[i] > 0 ? sum[i] / count[i] : 0;
    r->loss = w->t->loss(w->t, r->mean);
    beat_enter(BEAT_UPDATE);
    fault_at("step.update");
    apply(w, r);
    if (fault_at("step.weight")) flip_weight(w->t->p);
    if (!on_gpu) read_update_clock(w, &r->times);
    w->s.step++;
    w->s.tokens += r->tokens;
    return true;
}
