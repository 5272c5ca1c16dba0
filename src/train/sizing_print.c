/* What a run is about to do, before its first step. */
#include "train/sizing.h"

#include <stdio.h>

/* How even the ranks' shares will be, and what train.balance would do. */
static void print_balance(const stepper *w, const options *o, const sizing *z) {
    enum { STEPS = 64 };
    plan_config cfg = plan_config_of(o, w->d, z->micro_tokens), grouped = cfg;
    int64_t     steps = o->train.steps < STEPS ? o->train.steps : STEPS;
    char        hint[80] = "";
    double      now = plan_balance(&cfg, steps, w->c->size), then = 0;
    grouped.alike_steps = o->train.balance_steps;
    if (cfg.alike_steps == 0 && cfg.batch_samples > 0) then = plan_balance(&grouped, steps, w->c->size);
    if (then > now + 0.02) snprintf(hint, sizeof hint, "; train.balance=steps would make it %.1f %%", 100 * then);
    log_info("balance: the mean rank's share is %.1f %% of the slowest one's (%lld steps, by train.cost_*)%s",
             100 * now, (long long)steps, hint);
}

void sizing_print(const stepper *w, const options *o, const sizing *z, double step_seconds) {
    const dataset *d = w->d;
    const params  *p = w->t->p;
    int64_t        numbers = 0;
    for (int i = 0; i < p->n; i++) numbers += p->row[i]->count;
    log_info("device: %s", w->where.text);
    log_info("data: %lld samples (%lld left out), %lld tokens, largest %lld, resolution %d, %d shards", (long long)d->n,
             (long long)d->n_left_out, (long long)d->total_tiles, (long long)d->max_tiles, d->resolution, d->n_shards);
    if (d->n_folders > 1) {
        plan_config cfg = plan_config_of(o, d, 0);
        double      sum = 0;
        for (int f = 0; f < d->n_folders; f++) sum += cfg.group[f].share;
        for (int f = 0; f < d->n_folders; f++)
            log_info("folder %d: %lld samples of resolution %d, %.1f %% of the steps", f + 1, (long long)d->folder[f].n,
                     d->folder[f].resolution, 100 * cfg.group[f].share / sum);
    }
    log_info("model: %s, %lld parameters in %d tensors; weights, gradients and optimiser %.1f MB a rank", w->t->name,
             (long long)numbers, p->n, (double)z->slab_bytes / 1e6);
    if (o->train.batch_tokens > 0)
        log_info("steps: %lld of %lld tokens on %d ranks", (long long)o->train.steps, (long long)o->train.batch_tokens,
                 w->c->size);
    else
        log_info("steps: %lld of %lld samples (%.1f epochs) on %d ranks", (long long)o->train.steps,
                 (long long)o->train.batch_samples,
                 (double)o->train.steps * (double)o->train.batch_samples / (double)d->n, w->c->size);
    log_info(
        "micro-batch: at most %lld tokens; the fullest has %lld in %lld samples and needs %.1f MB (%d of %d segments "
        "recomputed), %.1f MB to prepare",
        (long long)z->micro_tokens, (long long)z->worst_tiles, (long long)z->worst_samples, (double)z->need.bytes / 1e6,
        z->need.recomputed, z->need.n_segments, (double)z->host_bytes / 1e6);
    if (z->gpu_all > 0)
        log_info("memory of the GPU: %.0f MB for activations, %.0f scratch, %.0f for two batches; %.0f of %.0f in use",
                 (double)w->e.step.size / 1e6, (double)w->e.c.scratch.size / 1e6,
                 UPLOAD_PLACES * (double)w->up.place[0].size / 1e6, (double)z->gpu_used / 1e6,
                 (double)z->gpu_all / 1e6);
    if (z->host.planned) host_plan_print(&z->host, z->need.bytes);
    if (w->c->size > 1 && w->c->rank == 0) print_balance(w, o, z);
    log_info("checkpoints: this rank writes %.1f MB, from a copy in %.1f MB of host memory",
             (double)saver_bytes(w->c, w->t, &w->x, &w->s) / 1e6,
             (double)saver_room(w->c, w->t, &w->x, &w->s, o) / 1e6);
    if (step_seconds > 0)
        log_info("time: about %.2f s a step, %.1f hours in all (measured on one micro-batch)", step_seconds,
                 step_seconds * (double)o->train.steps / 3600);
    else if (o->command.dry_run)
        log_info("time: not measured (`d3s2 bench step` does so for one size)");
}
