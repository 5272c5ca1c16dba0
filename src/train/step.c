#include "train/step.h"

#include <math.h>
#include <string.h>

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

/* Forward and backward of one micro-batch; `last`: layers report to the buckets as they complete. */
static bool run_micro(stepper *w, const double count[TASK_SUMS], bool last, double sum[TASK_SUMS], step_times *times,
                      status *st) {
    micro_batch *b;
    engine_need  need;
    double       t0 = now_seconds();
    if (!loader_next(w->l, &b, st)) return false;
    double t1 = now_seconds();
    bool   ok = engine_prepare(&w->e, w->t, b, &need, st);
    if (ok) {
        w->e.t.on_layer_done = last ? layer_done : NULL;
        w->e.t.user = &w->b;
        tape_begin(&w->e.t);
        w->t->forward(w->t, &w->e.t, b, count, sum);
        double t2 = now_seconds();
        tape_backward(&w->e.t);
        times->forward += t2 - t1;
        times->backward += now_seconds() - t2;
    }
    times->data += t1 - t0;
    loader_done(w->l, b);
    return ok;
}

/* What all ranks must know of each other after backward. */
static void exchange(stepper *w, double sum[TASK_SUMS], bool wants_stop, bool failed, bool *stop, bool *any_failed) {
    double all[TASK_SUMS + 2];
    memcpy(all, sum, TASK_SUMS * sizeof *sum);
    all[TASK_SUMS] = wants_stop;
    all[TASK_SUMS + 1] = failed;
    comm_sum_f64(w->c, all, TASK_SUMS + 2);
    memcpy(sum, all, TASK_SUMS * sizeof *sum);
    *stop = all[TASK_SUMS] > 0;
    *any_failed = all[TASK_SUMS + 1] > 0;
}

/* Norm, skip or clip, update. Every rank holds the same gradient and decides the same. */
static void apply(stepper *w, step_result *r) {
    double t = now_seconds(), factor = 1;
    r->lr = optimizer_lr(&w->x, w->s.step);
    r->grad_norm = optimizer_norm(&w->e.c, &w->x);
    r->clip_limit = w->clip ? clip_limit(&w->s.clip) : INFINITY;
    r->skipped = !isfinite(r->grad_norm) || !isfinite(r->loss);
    if (!r->skipped) {
        if (w->clip) {
            factor = clip_factor(r->grad_norm, r->clip_limit);
            clip_observe(&w->s.clip, r->grad_norm);
        }
        optimizer_update(&w->e.c, &w->x, w->c, w->s.step, factor);
    }
    w->s.bad_in_row = r->skipped ? w->s.bad_in_row + 1 : 0;
    w->s.bad_total += r->skipped;
    r->times.update = now_seconds() - t;
}

bool step_run(stepper *w, bool wants_stop, step_result *r, status *st) {
    params   *p = w->t->p;
    plan_step s = plan_of_step(w->p, w->s.step, w->c->size);
    int       n = s.n_micro[w->c->rank];
    double    count[TASK_SUMS], sum[TASK_SUMS] = {0};
    bool      any_failed;
    *r = (step_result){.tokens = s.tokens, .samples = s.n_items, .balance = s.balance};
    double t = now_seconds();
    bool   ok = step_counts(w, &s, count, st);
    r->times.data = now_seconds() - t;
    memset(p->g, 0, (size_t)p->total * sizeof(float));
    if (n == 0) buckets_begin(&w->b, p->g);
    for (int m = 0; m < n; m++) {
        if (m == n - 1) buckets_begin(&w->b, p->g);
        ok = ok && run_micro(w, count, m == n - 1 && !w->after_backward, sum, &r->times, st);
    }
    if (w->after_backward) w->after_backward(w->user, w->s.step, p);
    r->times.reduce = buckets_finish(&w->b);
    exchange(w, sum, wants_stop, !ok, &r->stop, &any_failed);
    plan_step_free(&s);
    if (any_failed) return comm_agree(w->c, st);
    memcpy(r->count, count, sizeof r->count);
    for (int i = 0; i < w->t->n_sums; i++) r->mean[i] = count[i] > 0 ? sum[i] / count[i] : 0;
    r->loss = w->t->loss(w->t, r->mean);
    apply(w, r);
    w->s.step++;
    w->s.tokens += r->tokens;
    return true;
}
