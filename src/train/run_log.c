#include "train/run_log.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "io/jsonl.h"
#include "io/tensorboard.h"
#include "train/prometheus.h"

struct run_log {
    jsonl       *json;
    tensorboard *board;
    int64_t      step;
    bool         warned;
    char         run[PATH_CAP];
    double       told; /* to Prometheus */
};

enum { PROMETHEUS_SECONDS = 10 };

run_log *run_log_open(const char *run, const comm *c, int64_t last_step, status *st) {
    char     path[PATH_CAP], events[PATH_CAP];
    run_log *l = NULL;
    if (c->rank == 0) {
        l = calloc(1, sizeof *l);
        CHECK(l, "no memory for the log");
        snprintf(l->run, sizeof l->run, "%s", run);
        if (join_path(run, "metrics.jsonl", path, st) && join_path(run, "events", events, st) &&
            (l->json = jsonl_open(path, last_step, st)))
            l->board = tensorboard_open(events, st);
    }
    if (comm_agree(c, st)) return l;
    run_log_close(l);
    return NULL;
}

void run_log_close(run_log *l) {
    if (!l) return;
    if (l->json) jsonl_close(l->json);
    if (l->board) tensorboard_close(l->board);
    free(l);
}

static void written(run_log *l, bool ok, const status *st) {
    if (ok || l->warned) return;
    l->warned = true;
    log_warn("metrics are not written any more: %s", st->text);
}

static void begin(run_log *l, int64_t step) {
    l->step = step;
    jsonl_begin(l->json);
    jsonl_int(l->json, "step", step);
}

static void put(run_log *l, const char *key, double value) {
    status st = {0};
    jsonl_number(l->json, key, value);
    written(l, tensorboard_scalar(l->board, l->step, key, value, &st), &st);
}

static void end(run_log *l) {
    status st = {0};
    written(l, jsonl_end(l->json, &st), &st);
}

/* Sets without elements have no mean. */
static void put_means(run_log *l, const task *t, const char *prefix, double loss, const double *mean,
                      const double *count) {
    char key[64];
    snprintf(key, sizeof key, "%sloss", prefix);
    put(l, key, loss);
    for (int i = 0; i < t->n_sums; i++) {
        if (count[i] == 0) continue;
        snprintf(key, sizeof key, "%s%s", prefix, t->sum_name[i]);
        put(l, key, mean[i]);
    }
}

void run_log_rewind(run_log *l, int64_t last_step) {
    char   path[PATH_CAP];
    status st = {0};
    if (!l || !join_path(l->run, "metrics.jsonl", path, &st)) return;
    jsonl *again = jsonl_open(path, last_step, &st);
    if (!again) {
        written(l, false, &st);
        return;
    }
    jsonl_close(l->json);
    l->json = again;
}

static void put_prometheus(run_log *l, const stepper *w, const step_result *r, double step_s, double rate,
                           double slowest, const log_extra *x) {
    status            st = {0};
    prometheus_values v = {.step = w->s.step,
                           .tokens = w->s.tokens,
                           .skipped = w->s.bad_total,
                           .bad_samples = w->bad.n,
                           .rollbacks = w->s.rollbacks,
                           .loss = r->loss,
                           .grad_norm = r->grad_norm,
                           .lr = r->lr,
                           .step_s = step_s,
                           .tokens_per_s = rate,
                           .slowest = slowest};
    bool              last = w->s.step == w->x.steps;
    if (!*x->prometheus || (!last && l->told > 0 && now_seconds() - l->told < PROMETHEUS_SECONDS)) return;
    l->told = now_seconds();
    written(l, prometheus_write(x->prometheus, x->run, &v, x->good, &st), &st);
}

void run_log_step(run_log *l, const comm *c, const stepper *w, const step_result *r, log_span *span,
                  const log_extra *x) {
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    enum { DATA, FORWARD, BACKWARD, REDUCE, UPDATE, CHECKPOINT, MEMORY, TOKENS, GPU_MEMORY, VALUES };
    static const char *const name[VALUES] = {"data_s",       "forward_s", "backward_s",  "reduce_s",     "update_s",
                                             "checkpoint_s", "memory_mb", "most_tokens", "gpu_memory_mb"};
    double                   steps = (double)span->steps, wall = now_seconds() - span->t0;
    double                   slow[VALUES] = {span->times.data,
                                             span->times.forward,
                                             span->times.backward,
                                             span->times.reduce,
                                             span->times.update,
                                             span->checkpoint,
                                             (double)use.ru_maxrss / 1024,
                                             (double)span->own_tokens / steps,
                                             0};
    bool                     on_gpu = w->where.dev != DEV_CPU;
    if (on_gpu) {
        size_t free_bytes, all;
        device_memory(&free_bytes, &all);
        slow[GPU_MEMORY] = (double)(all - free_bytes) / (1 << 20);
    }
    comm_max_f64(c, slow, VALUES);
    pace   own = {span->times.forward + span->times.backward + span->times.update, (double)span->own_tokens};
    double slowest = stragglers_add(x->slow, c, own, span->steps);
    if (l) {
        double rate = wall > 0 ? (double)span->tokens / wall : 0;
        goodput_move(x->good, GOOD_USEFUL, GOOD_STALLED, slow[DATA]);
        begin(l, w->s.step);
        put_means(l, w->t, "", r->loss, r->mean, r->count);
        put(l, "grad_norm", r->grad_norm);
        put(l, "clip_limit", r->clip_limit);
        put(l, "lr", r->lr);
        put(l, "tokens", (double)w->s.tokens);
        put(l, "tokens_per_s", rate);
        put(l, "step_s", wall / steps);
        for (int i = 0; i < (on_gpu ? VALUES : GPU_MEMORY); i++)
            put(l, name[i], i < CHECKPOINT ? slow[i] / steps : slow[i]);
        put(l, "balance", r->balance);
        put(l, "skipped", (double)span->skipped);
        put(l, "skipped_total", (double)w->s.bad_total);
        put(l, "loss_z", r->loss_z);
        put(l, "norm_z", r->norm_z);
        put(l, "slowest_rank", slowest);
        jsonl_int(l->json, "bad_samples", w->bad.n);
        jsonl_int(l->json, "rollbacks", w->s.rollbacks);
        goodput_put(x->good, l->json);
        end(l);
        goodput_write(x->good, w->s.step, false);
        put_prometheus(l, w, r, wall / steps, rate, slowest, x);
    }
    *span = (log_span){.t0 = now_seconds()};
}

void run_log_heldout(run_log *l, const stepper *w, int64_t step, const heldout_result *r) {
    if (!l) return;
    begin(l, step);
    put_means(l, w->t, "heldout_", r->loss, r->mean, r->count);
    for (int i = 0; i < r->n_parts && r->n_parts > 1; i++) {
        char key[64];
        snprintf(key, sizeof key, "heldout_loss_r%d", r->part[i].resolution);
        put(l, key, r->part[i].loss);
    }
    jsonl_int(l->json, "heldout_samples", r->samples);
    put(l, "heldout_s", r->seconds);
    end(l);
}
