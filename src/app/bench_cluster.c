#include "app/bench_cluster.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/cluster.h"

static void cluster_row(const options *o, int ranks) {
    double *step_s = malloc((size_t)o->cluster.steps * sizeof *step_s);
    CHECK(step_s, "no memory for %lld steps", (long long)o->cluster.steps);
    cluster_steps  c = cluster_simulate(o, ranks, step_s);
    cluster_faults f = cluster_faults_of(o, ranks);
    cluster_run    r = cluster_live(&f, step_s, o->cluster.steps), best;
    f.every = cluster_interval(&f, c.step_s);
    best = cluster_live(&f, step_s, o->cluster.steps);
    printf(
        "%7d %9.1f %8.3f %7.3f %7.1f %7.1f %9.1f %7d %8.2f %9.2f %11.3g  %7.2f %6lld %6.1f%% %9lld %6.1f%% %7.1f  %s\n",
        ranks, 1e3 * c.step_s, c.balance, c.efficiency, 1e3 * c.exposed_s, 1e3 * c.share_s, 1e3 * c.busy_s, c.n_buckets,
        c.bytes * 1e-9, c.checkpoint_bytes * 1e-9, c.tokens_s, f.mttf_s / 3600, (long long)r.n_faults,
        100 * r.productive / r.wall, (long long)f.every, 100 * best.productive / best.wall, c.seconds,
        r.given_up ? "GIVEN UP: faults come faster than checkpoints"
                   : cluster_binds((1 / c.balance - 1) * c.compute_s / c.step_s, (c.exposed_s + c.share_s) / c.step_s,
                                   1 - best.productive / best.wall));
    free(step_s);
}

int bench_cluster(const options *o) {
    printf("%s, %lld samples of %lld tokens (spread %g) on each GPU, %lld samples in all, train.balance=%s; %lld "
           "steps, %g hours with faults\n",
           o->train.model == opt_train_model_dit ? "dit" : "vae", (long long)o->bench.samples,
           (long long)o->bench.tokens, o->bench.spread, (long long)o->cluster.data_samples,
           o->train.balance == opt_train_balance_steps ? "steps" : "off", (long long)o->cluster.steps,
           o->cluster.hours);
    printf("%7s %9s %8s %7s %7s %7s %9s %7s %8s %9s %11s  %7s %6s %7s %9s %7s %7s  %s\n", "GPUs", "step ms", "balance",
           "effic.", "exposed", "share", "sums ms", "buckets", "GB sent", "GB saved", "tokens/s", "MTTF h", "faults",
           "goodput", "best int.", "goodput", "seconds", "binds");
    for (int i = 0; i < o->cluster.ranks.n; i++) {
        cluster_row(o, (int)o->cluster.ranks.v[i]);
        fflush(stdout);
    }
    printf("exposed, share: ms of a step that wait for sums of gradients and for new weights; sums: all of the former. "
           "goodput: of %lld steps between checkpoints, and of the best interval (in steps)\n",
           (long long)o->train.checkpoint_every);
    return ST_OK;
}

int bench_balance(const options *o) {
    int64_t *size =
        cluster_sizes(o->bench.spread, (double)o->bench.tokens, o->cluster.data_samples, (uint64_t)o->train.seed);
    printf("mean over the ranks / slowest, spread %g, %lld samples of %lld tokens on average, at most %lld steps\n",
           o->bench.spread, (long long)o->cluster.data_samples, (long long)o->bench.tokens,
           (long long)o->cluster.steps);
    printf("%-16s %-14s", "samples a rank", "train.balance");
    for (int i = 0; i < o->cluster.ranks.n; i++) printf(" %8lld", (long long)o->cluster.ranks.v[i]);
    printf("\n");
    for (int64_t samples = 1; samples <= 8; samples *= 2)
        for (int on = 0; on < 2; on++) {
            printf("%-16lld %-14s", (long long)samples, on ? "steps" : "off");
            for (int i = 0; i < o->cluster.ranks.n; i++) {
                printf(" %8.3f", cluster_balance(o, size, o->cluster.data_samples, o->cluster.steps,
                                                 (int)o->cluster.ranks.v[i], samples, on ? o->train.balance_steps : 0));
                fflush(stdout);
            }
            printf("\n");
        }
    free(size);
    return ST_OK;
}
