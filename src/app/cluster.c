#include "app/cluster.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "app/traffic.h"
#include "io/checkpoint_file.h"
#include "core/rng.h"
#include "train/plan.h"

static void *grab(int64_t n, size_t width) {
    void *p = calloc((size_t)(n > 0 ? n : 1), width);
    CHECK(p, "no memory for a cluster of %lld", (long long)n);
    return p;
}

int64_t *cluster_sizes(double spread, double mean, int64_t n, uint64_t seed) {
    enum { CUT = 12 };
    double  *x = grab(n, sizeof *x), all = 0;
    int64_t *tokens = grab(n, sizeof *tokens);
    rng_key  key = {.seed = seed, .purpose = RNG_CLUSTER};
    for (int64_t i = 0; i < n; i++) {
        x[i] = spread > 0 ? fmin(exp(spread * rng_normal(key, (uint64_t)i)), CUT) : 1;
        all += x[i];
    }
    for (int64_t i = 0; i < n; i++) tokens[i] = (int64_t)fmax(1, round(x[i] / all * (double)n * mean));
    free(x);
    return tokens;
}

/* ---- steps --------------------------------------------------------------------------------------------------------
 */

/* Nanoseconds that the cost model gives the last micro-batch of a rank. */
static int64_t last_micro(const plan_step *s, const plan_config *cfg, int rank) {
    int64_t cost = 0;
    for (int64_t i = 0; i < s->n_items; i++)
        if (s->item[i].rank == rank && s->item[i].micro == s->n_micro[rank] - 1)
            cost += cost_of(&cfg->cost, cfg->tokens[s->item[i].index]);
    return cost;
}

/* The slowest rank with its jitter: seconds; *rank. */
static double slowest_of(const options *o, const int64_t *load, int ranks, int64_t step, int *rank) {
    rng_key key = {.seed = (uint64_t)o->train.seed, .purpose = RNG_CLUSTER, .step = (uint64_t)step, .sample = 1};
    double  most = -1;
    for (int r = 0; r < ranks; r++) {
        double t = (double)load[r] * 1e-9;
        if (o->cluster.jitter > 0 && t > 0) t *= fmax(0, 1 + o->cluster.jitter * rng_normal(key, (uint64_t)r));
        if (t <= most) continue;
        most = t;
        *rank = r;
    }
    return most;
}

cluster_steps cluster_simulate(const options *o, int ranks, double *step_s) {
    double      began = now_seconds(), sum = 0, mean = 0, slowest = 0, fixed = o->cluster.step_ms * 1e-3;
    int64_t     tokens = 0, n = o->cluster.data_samples;
    int64_t    *size = cluster_sizes(o->bench.spread, (double)o->bench.tokens, n, (uint64_t)o->train.seed);
    plan_config cfg = {.seed = (uint64_t)o->train.seed,
                       .n_samples = n,
                       .tokens = size,
                       .batch_samples = o->bench.samples * ranks,
                       .micro_tokens = o->train.micro_tokens > 0 ? o->train.micro_tokens : INT64_MAX / 2,
                       .cost = cost_model_of(o),
                       .alike_steps = o->train.balance == opt_train_balance_steps ? o->train.balance_steps : 0};
    int64_t    *load = grab(ranks, sizeof *load);
    plan       *p = plan_new(&cfg);
    traffic     t;
    traffic_of_network(&t, o, ranks, o->train.precision == opt_train_precision_f32 ? 4 : 2);
    cluster_steps c = {.ranks = ranks, .n_buckets = t.n, .share_s = t.share_s, .bytes = t.bytes};
    for (int64_t step = 0; step < o->cluster.steps; step++) {
        plan_step s = plan_of_step(p, step, ranks);
        int       rank = 0;
        double    busy;
        plan_loads(p, &s, ranks, load);
        double most = slowest_of(o, load, ranks, step, &rank);
        double backward = (1 - o->cluster.forward) * (double)last_micro(&s, &cfg, rank) * 1e-9;
        double after = traffic_exposed(&t, backward, &busy);
        double all = most + o->cluster.interference * t.beside_s + after + fixed + t.share_s;
        if (step_s) step_s[step] = all;
        sum += all;
        mean += (double)s.cost / ranks * 1e-9;
        slowest += most;
        c.exposed_s += after;
        c.busy_s = busy;
        tokens += s.tokens;
        plan_step_free(&s);
    }
    double steps = (double)o->cluster.steps;
    c.step_s = sum / steps;
    c.compute_s = mean / steps;
    c.balance = mean / slowest;
    c.exposed_s /= steps;
    c.efficiency = (mean + fixed * steps) / sum;
    c.tokens_s = (double)tokens / sum;
    c.checkpoint_bytes = t.numbers * 4 * (o->train.ema > 0 ? 4 : 3);
    traffic_free(&t);
    plan_free(p);
    free(load);
    free(size);
    c.seconds = now_seconds() - began;
    return c;
}

double cluster_balance(const options *o, const int64_t *size, int64_t n, int64_t steps, int ranks, int64_t samples,
                       int64_t alike_steps) {
    int64_t     epoch = n / (ranks * samples) + 1;
    plan_config cfg = {.seed = (uint64_t)o->train.seed,
                       .n_samples = n,
                       .tokens = size,
                       .batch_samples = ranks * samples,
                       .micro_tokens = INT64_MAX / 2,
                       .cost = cost_model_of(o),
                       .alike_steps = alike_steps};
    return plan_balance(&cfg, steps < epoch ? steps : epoch, ranks);
}

const char *cluster_binds(double imbalance, double communication, double faults) {
    if (imbalance < 0.02 && communication < 0.02 && faults < 0.02) return "computing";
    if (imbalance >= communication && imbalance >= faults) return "imbalance";
    return communication >= faults ? "communication" : "faults";
}

/* ---- faults -------------------------------------------------------------------------------------------------------
 */

cluster_faults cluster_faults_of(const options *o, int ranks) {
    return (cluster_faults){.every = o->train.checkpoint_every,
                            .keep_last = o->train.keep_last,
                            .keep_every = o->train.keep_every,
                            .retries = o->cluster.retries,
                            .stall_s = o->cluster.stall_s,
                            .restart_s = o->cluster.restart_s,
                            .mttf_s = 3600 * o->cluster.gpu_mtbf_h / ranks,
                            .horizon_s = 3600 * o->cluster.hours,
                            .seed = (uint64_t)o->train.seed};
}

int64_t cluster_interval(const cluster_faults *f, double step_s) {
    double steps = sqrt(2 * f->stall_s * f->mttf_s) / step_s;
    return steps < 1 ? 1 : (int64_t)llround(fmin(steps, 1e12));
}

/* Checkpoints on the disk, newest first, as pruning leaves them. */
typedef struct {
    int64_t *step;
    int64_t  n, room;
} kept;

static void keep(kept *k, int64_t step, const cluster_faults *f) {
    int64_t n = 0;
    if (k->n == k->room) {
        k->room = 2 * k->room + 64;
        k->step = realloc(k->step, (size_t)k->room * sizeof *k->step);
        CHECK(k->step, "no memory for %lld checkpoints", (long long)k->room);
    }
    memmove(k->step + 1, k->step, (size_t)k->n * sizeof *k->step);
    k->step[0] = step;
    k->n++;
    for (int64_t i = 0; i < k->n; i++)
        if (ckpt_stays((int)(i < 1 << 30 ? i : 1 << 30), k->step[i], (int)f->keep_last, f->keep_every))
            k->step[n++] = k->step[i];
    k->n = n;
}

/* Seconds until the next fault, the k-th drawn. */
static double next_fault(const cluster_faults *f, int64_t k) {
    rng_key key = {.seed = f->seed, .purpose = RNG_CLUSTER, .sample = 2};
    return f->mttf_s > 0 ? -f->mttf_s * log(rng_uniform(key, (uint64_t)k)) : INFINITY;
}

/* Times of steps that repeat after n: sum[i] of the first i. */
typedef struct {
    double *sum; /* [n+1] */
    int64_t n;
} clock_table;

/* Seconds of steps 0 .. step-1. */
static double seconds_to(const clock_table *c, int64_t step) {
    return (double)(step / c->n) * c->sum[c->n] + c->sum[step % c->n];
}

/* The first step count, from `step` on, after which `seconds` more have passed. */
static int64_t steps_after(const clock_table *c, int64_t step, double seconds) {
    double  until = seconds_to(c, step) + seconds;
    int64_t low = step, high = step + 1;
    while (seconds_to(c, high) < until) high = step + 2 * (high - step);
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (seconds_to(c, middle) < until)
            low = middle + 1;
        else
            high = middle;
    }
    return high;
}

cluster_run cluster_live(const cluster_faults *f, const double *step_s, int64_t n) {
    cluster_run r = {0};
    kept        disk = {0};
    clock_table c = {grab(n + 1, sizeof *c.sum), n};
    int64_t     step = 0, in_row = 0;
    double      fault = next_fault(f, 0);
    for (int64_t i = 0; i < n; i++) c.sum[i + 1] = c.sum[i] + step_s[i];
    while (r.wall < f->horizon_s) {
        int64_t due = f->every > 0 ? (step / f->every + 1) * f->every : INT64_MAX,
                last = steps_after(&c, step, f->horizon_s - r.wall);
        bool   ends = last < due;
        double work = seconds_to(&c, ends ? last : due) - seconds_to(&c, step), stall = ends ? 0 : f->stall_s;
        if (r.wall + work + stall < fault) {
            r.wall += work + stall;
            r.productive += work;
            r.stalled += stall;
            step = ends ? last : due;
            if (!ckpt_due(step, f->every)) continue;
            keep(&disk, step, f);
            if (disk.n > r.most_kept) r.most_kept = disk.n;
            r.n_checkpoints++;
            in_row = 0;
            continue;
        }
        r.lost += fault - r.wall; /* all since the newest checkpoint */
        r.wall = fault;
        step = disk.n ? disk.step[0] : 0;
        r.n_faults++;
        if (++in_row > f->retries) {
            r.given_up = true;
            break;
        }
        fault = r.wall + next_fault(f, r.n_faults);
        double ready = fmin(r.wall + f->restart_s, fault); /* a fault during the start is the next one */
        r.starting += ready - r.wall;
        r.wall = ready;
    }
    r.steps = step;
    free(disk.step);
    free(c.sum);
    return r;
}
