#include "train/arithmetic.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/beat.h"
#include "ops/elementwise.h"
#include "train/replicas.h"

typedef struct {
    uint64_t hash[2];
    bool     computed;
    char     host[55];
} result;

int arithmetic_judge(const uint64_t (*hash)[2], int n, bool *suspect) {
    uint64_t *steady = calloc((size_t)n, sizeof *steady);
    int       n_steady = 0, found = 0;
    CHECK(steady, "no memory for %d hashes", n);
    for (int i = 0; i < n; i++)
        if (hash[i][0] == hash[i][1]) steady[n_steady++] = hash[i][0];
    int like = replicas_majority(steady, n_steady);
    for (int i = 0; i < n; i++) {
        bool unsteady = hash[i][0] != hash[i][1];
        suspect[i] = unsteady || like < 0 || hash[i][0] != steady[like];
        found += suspect[i];
    }
    free(steady);
    return found;
}

static uint64_t gradient_hash(stepper *w, const micro_batch *b) {
    tensor slab = optimizer_gradients(&w->x), value[TASK_TENSORS];
    double count[TASK_SUMS];
    for (int i = 0; i < TASK_SUMS; i++) count[i] = b->count[i];
    zero_fwd(&w->e.c, &(xy_args){.y = &slab});
    tape_begin(&w->e.t);
    w->t->forward(w->t, &w->e.t, b, count, value);
    tape_backward(&w->e.t);
    if (w->where.dev != DEV_CPU) device_sync(STREAM_COMPUTE);
    return slab_hash(w->t->p->dev, slab.data, w->t->p->total);
}

/* Both results of one sample; false when it cannot be read here. */
static bool compute(stepper *w, int64_t index, uint64_t hash[2], status *st) {
    bool             on_gpu = w->where.dev != DEV_CPU;
    size_t           bytes = w->t->host_bytes(w->t, w->d->tokens[index], 1);
    arena            host = on_gpu ? arena_new_pinned("host batch", bytes) : arena_new("host batch", bytes);
    device_event    *uploaded = on_gpu ? device_event_new() : NULL;
    micro_batch      b = micro_batch_in(&host, uploaded);
    plan_item        item = {.index = index};
    const plan_item *list[1] = {&item};
    engine_need      need;
    status           unread = {0};
    loader_lock(w->l);
    bool read = w->t->load(w->t, w->d, (batch_purpose){.step = w->s.step}, list, 1, &b, &unread);
    loader_unlock(w->l);
    if (read) {
        upload_use(&w->up, w->t, &b);
        if (engine_prepare(&w->e, w->t, &b, &need, st)) {
            w->e.t.on_layer_done = NULL;
            for (int i = 0; i < 2; i++) hash[i] = gradient_hash(w, &b);
        }
        upload_done(&w->up, &b);
        if (on_gpu) upload_wait(&b);
    }
    arena_free(&host);
    device_event_free(uploaded);
    return read && status_ok(st);
}

static void accuse(const result *all, const bool *suspect, int n, int64_t step, int64_t passed, status *st) {
    char   who[300] = "";
    size_t at = 0;
    for (int i = 0; i < n && at + 90 < sizeof who; i++)
        if (suspect[i])
            at += (size_t)snprintf(who + at, sizeof who - at, "%srank %d on %s%s", at ? ", " : "", i, all[i].host,
                                   all[i].hash[0] != all[i].hash[1] ? " (two results of one sample)" : "");
    status_set(st, ST_SUSPECT,
               "after step %lld not all ranks compute the same gradient of one sample; suspect: %s; what was trained "
               "after step %lld may be wrong: leave these hosts out and go on from a checkpoint up to there",
               (long long)step, who, (long long)passed);
}

bool arithmetic_run(arithmetic_check *k, stepper *w, int64_t n, status *st) {
    double t = now_seconds();
    int    size = w->c->size;
    result own = {.computed = false}, *all = malloc((size_t)size * sizeof *all);
    uint64_t(*hash)[2] = malloc((size_t)size * sizeof *hash);
    bool *suspect = malloc((size_t)size * sizeof *suspect), usable = true;
    CHECK(all && hash && suspect, "no memory for the results of %d ranks", size);
    beat_enter(BEAT_EVAL);
    beat_op("check of the arithmetic", n);
    gethostname(own.host, sizeof own.host - 1);
    own.computed = compute(w, dataset_in_turn(w->d, n % w->d->n), own.hash, st);
    comm_all_gather(w->c, &own, all, sizeof own);
    for (int i = 0; i < size; i++) {
        hash[i][0] = all[i].hash[0];
        hash[i][1] = all[i].hash[1];
        usable &= all[i].computed;
    }
    k->checks++;
    k->seconds = now_seconds() - t;
    if (usable && arithmetic_judge(hash, size, suspect) > 0)
        accuse(all, suspect, size, w->s.step, k->passed, st);
    else if (usable)
        k->passed = w->s.step;
    free(all);
    free(hash);
    free(suspect);
    return comm_agree(w->c, st);
}
