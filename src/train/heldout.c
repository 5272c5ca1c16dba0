#include "train/heldout.h"

static bool one_sample(stepper *w, const dataset *d, int64_t i, double sum[TASK_SUMS], double count[TASK_SUMS],
                       status *st) {
    plan_item        item = {.index = i};
    const plan_item *list[1] = {&item};
    arena            host = arena_new("host batch", w->t->host_bytes(w->t, d->entry[i].tiles, 1));
    micro_batch      b = {.host = &host};
    loader_lock(w->l);
    bool ok = w->t->load(w->t, d, (batch_purpose){.eval = true}, list, 1, &b, st);
    loader_unlock(w->l);
    if (ok) {
        engine_prepare_forward(&w->e, w->t, &b);
        tape_begin(&w->e.t);
        w->t->forward(w->t, &w->e.t, &b, b.count, sum);
        for (int k = 0; k < TASK_SUMS; k++) count[k] += b.count[k];
    }
    arena_free(&host);
    return ok;
}

bool heldout_run(stepper *w, const dataset *d, int64_t max_samples, heldout_result *r, status *st) {
    double all[2][TASK_SUMS] = {{0}}, t = now_seconds();
    *r = (heldout_result){.samples = d->n < max_samples ? d->n : max_samples};
    for (int64_t i = w->c->rank; i < r->samples; i += w->c->size)
        if (!one_sample(w, d, i, all[0], all[1], st)) break;
    comm_sum_f64(w->c, &all[0][0], 2 * TASK_SUMS);
    for (int k = 0; k < w->t->n_sums; k++) {
        r->count[k] = all[1][k];
        r->mean[k] = all[1][k] > 0 ? all[0][k] / all[1][k] : 0;
    }
    r->loss = w->t->loss(w->t, r->mean);
    r->seconds = now_seconds() - t;
    return comm_agree(w->c, st);
}
