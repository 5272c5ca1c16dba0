#include "train/heldout.h"

#include "core/beat.h"

static bool one_sample(stepper *w, const dataset *d, int64_t i, micro_batch *b, double sum[TASK_SUMS],
                       double count[TASK_SUMS], status *st) {
    plan_item        item = {.index = i};
    const plan_item *list[1] = {&item};
    tensor           value[TASK_TENSORS];
    double           global[TASK_SUMS];
    beat_op("held-out sample", i);
    loader_lock(w->l);
    bool ok = w->t->load(w->t, d, (batch_purpose){.eval = true}, list, 1, b, st);
    loader_unlock(w->l);
    if (!ok) return false;
    for (int k = 0; k < TASK_SUMS; k++) global[k] = b->count[k];
    upload_use(&w->up, w->t, b);
    ok = engine_prepare_forward(&w->e, w->t, b, st);
    if (ok) {
        tape_begin(&w->e.t);
        values_take(&w->values, b, value, w->t->forward(w->t, &w->e.t, b, global, value));
        for (int k = 0; k < TASK_SUMS; k++) count[k] += global[k];
    }
    upload_done(&w->up, b);
    if (w->where.dev != DEV_CPU) device_sync(STREAM_COMPUTE);
    values_add(&w->values, sum);
    return ok;
}

bool heldout_run(stepper *w, const dataset *d, int64_t max_samples, heldout_result *r, status *st) {
    double        all[2][TASK_SUMS] = {{0}}, t = now_seconds();
    bool          on_gpu = w->where.dev != DEV_CPU;
    size_t        most = w->t->host_bytes(w->t, d->max_tiles, 1);
    arena         host = on_gpu ? arena_new_pinned("host batch", most) : arena_new("host batch", most);
    device_event *uploaded = on_gpu ? device_event_new() : NULL;
    *r = (heldout_result){.samples = d->n < max_samples ? d->n : max_samples};
    for (int64_t i = w->c->rank; i < r->samples; i += w->c->size) {
        arena_reset(&host, 0);
        micro_batch b = micro_batch_in(&host, uploaded);
        if (!one_sample(w, d, i, &b, all[0], all[1], st)) break;
    }
    arena_free(&host);
    device_event_free(uploaded);
    comm_sum_f64(w->c, &all[0][0], 2 * TASK_SUMS);
    for (int k = 0; k < w->t->n_sums; k++) {
        r->count[k] = all[1][k];
        r->mean[k] = all[1][k] > 0 ? all[0][k] / all[1][k] : 0;
    }
    r->loss = w->t->loss(w->t, r->mean);
    r->seconds = now_seconds() - t;
    return comm_agree(w->c, st);
}
