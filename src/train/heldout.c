#include "train/heldout.h"

#include <string.h>

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

/* The first folder of the sample's resolution. */
static int part_of(const dataset *d, int64_t i) {
    int f = 0;
    while (d->folder[f].resolution != dataset_resolution(d, i)) f++;
    return f;
}

typedef double sums_and_counts[2][TASK_SUMS];

/* Sums and counts to means; the loss. */
static double means_of(const task *t, sums_and_counts x, double mean[TASK_SUMS]) {
    for (int k = 0; k < t->n_sums; k++) mean[k] = x[1][k] > 0 ? x[0][k] / x[1][k] : 0;
    return t->loss(t, mean);
}

bool heldout_run(stepper *w, const dataset *d, int64_t max_samples, heldout_result *r, status *st) {
    sums_and_counts part[DATA_FOLDERS] = {0}, all = {0};
    bool            any[DATA_FOLDERS] = {false};
    double          t = now_seconds();
    bool            on_gpu = w->where.dev != DEV_CPU;
    size_t          most = w->t->host_bytes(w->t, d->max_tiles, 1);
    arena           host = on_gpu ? arena_new_pinned("host batch", most) : arena_new("host batch", most);
    device_event   *uploaded = on_gpu ? device_event_new() : NULL;
    *r = (heldout_result){.samples = d->n < max_samples ? d->n : max_samples};
    for (int64_t i = 0; i < r->samples && status_ok(st); i++) {
        int64_t at = dataset_in_turn(d, i);
        int     f = part_of(d, at);
        any[f] = true;
        if (i % w->c->size != w->c->rank) continue;
        arena_reset(&host, 0);
        micro_batch b = micro_batch_in(&host, uploaded);
        one_sample(w, d, at, &b, part[f][0], part[f][1], st);
    }
    arena_free(&host);
    device_event_free(uploaded);
    comm_sum_f64(w->c, &part[0][0][0], DATA_FOLDERS * 2 * TASK_SUMS);
    for (int f = 0; f < d->n_folders; f++) {
        double mean[TASK_SUMS] = {0};
        if (!any[f]) continue;
        for (int k = 0; k < 2 * TASK_SUMS; k++)
            all[k / TASK_SUMS][k % TASK_SUMS] += part[f][k / TASK_SUMS][k % TASK_SUMS];
        r->part[r->n_parts++] = (heldout_part){d->folder[f].resolution, means_of(w->t, part[f], mean)};
    }
    memcpy(r->count, all[1], sizeof r->count);
    r->loss = means_of(w->t, all, r->mean);
    r->seconds = now_seconds() - t;
    return comm_agree(w->c, st);
}
