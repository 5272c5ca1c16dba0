/* The same run on any number of ranks. `train_ranks FOLDER` (under mpirun) trains both models for 20 steps and writes
 * losses to FOLDER/losses-<ranks>.txt; `train_ranks FOLDER check` compares the files. Not a CMocka program, as it runs
 * as several tests that depend on each other. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "harness/harness.h"
#include "io/atomic_file.h"
#include "train/levels.h"
#include "train/trainer.h"

enum { STEPS = 20, MODES = 10 };

static FILE *out;

static void on_step(void *user, int64_t done, const step_result *r) {
    const char *name = user;
    if (out)
        fprintf(out, "%s %lld %.17g %.17g %lld\n", name, (long long)done, r->loss, r->grad_norm, (long long)r->tokens);
}

/* A gradient that is not finite on one rank is a bad step on all of them. */
static void spoil(void *user, int64_t step, params *p) {
    (void)user;
    if (step == 2 && log_rank() == 0) p->g[p->total / 3] = INFINITY;
}

/* A signal at one rank only. */
static void signal_last(void *user, int64_t done, const step_result *r) {
    const comm *c = user;
    (void)r;
    if (done == 2 && c->rank == c->size - 1) raise(SIGTERM);
}

/* All ranks stop after the same step, say so with the same code, and the run goes on from there. */
static void stop_and_go(comm *c, const char *folder) {
    options       o;
    status        st = {0};
    char          data[PATH_CAP], run[PATH_CAP];
    trainer_hooks h = {.on_step = signal_last, .user = c};
    snprintf(data, sizeof data, "%.400s/data-%d", folder, c->size);
    snprintf(run, sizeof run, "%.400s/data-%d/stop", folder, c->size);
    fixture_options(&o, data, run, false);
    o.train.steps = 5;
    CHECK(trainer_run(&o, c, &h, &st) == ST_REQUEUE, "code %d: %s", (int)st.code, st.text);
    CHECK(strstr(st.text, "step 3"), "%s", st.text);
    CHECK(trainer_run(&o, c, NULL, &st) == ST_OK, "%s", st.text);
}

static void must(const status *st) {
    CHECK(status_ok(st), "%s", st->text);
}

/* Which sums are by levels, and what is told when they cannot be. */
static void choices(comm *c) {
    options o;
    status  st = {0};
    options_default(&o);
    for (int k = 0; k <= c->size; k++) { /* nodes of k ranks; 0: this host */
        bool equal = k == 0 || c->size % k == 0, several = equal && k > 1 && k < c->size;
        for (int set = opt_train_reduce_levels_auto; set <= opt_train_reduce_levels_on; set++) {
            bool on = set == opt_train_reduce_levels_on || (set == opt_train_reduce_levels_auto && several);
            o.train.node_ranks = k;
            o.train.reduce_levels = set;
            int  nodes;
            bool ok = levels_choose(&o, c, &nodes, &st);
            CHECK(ok == (equal || set != opt_train_reduce_levels_on), "setting %d, nodes of %d: %s", set, k, st.text);
            CHECK(nodes == (k ? (c->size + k - 1) / k : 1), "%d nodes of %d of %d ranks", nodes, k, c->size);
            CHECK((c->levels != NULL) == (ok && on && c->size > 1), "setting %d, nodes of %d", set, k);
            CHECK(ok || (st.code == ST_CONFIG && strstr(st.text, "start as many on each")), "%s", st.text);
            st = (status){0};
            comm_levels_close(c);
        }
    }
}

/* By levels: as two nodes, or as nodes of one rank. */
static void set_levels(options *o, const comm *c, bool on, bool two) {
    o->train.reduce_levels = on ? opt_train_reduce_levels_on : opt_train_reduce_levels_off;
    o->train.node_ranks = two && c->size > 1 ? c->size / 2 : 1;
}

static void run_all(comm *c, const char *folder) {
    static char *const mode[MODES] = {
        "vae",       "dit",        "vae-skip",         "dit-plain",      "vae-muon", "vae-muon-plain",
        "vae-mixed", "dit-levels", "dit-levels-plain", "vae-muon-levels"};
    char   path[PATH_CAP];
    status st = {0};
    if (c->rank == 0) {
        fixture_spec spec = {.n_samples = 7, .per_shard = 3, .resolution = 32, .vae = 7};
        snprintf(path, sizeof path, "%.400s/data-%d", folder, c->size);
        remove_tree(path, &st);
        fixture_write(path, &spec);
        spec.resolution = 24;
        snprintf(path, sizeof path, "%.400s/data-%d/coarse", folder, c->size);
        fixture_write(path, &spec);
        snprintf(path, sizeof path, "%.400s/losses-%d.txt", folder, c->size);
        out = fopen(path, "w");
        CHECK(out, "cannot write %s", path);
    }
    comm_barrier(c);
    for (int k = 0; k < MODES; k++) {
        options       o;
        char          data[PATH_CAP], run[PATH_CAP];
        trainer_hooks h = {.on_step = on_step, .user = mode[k], .after_backward = k == 2 ? spoil : NULL};
        snprintf(data, sizeof data, "%.400s/data-%d", folder, c->size);
        snprintf(run, sizeof run, "%.400s/data-%d/%s", folder, c->size, mode[k]);
        fixture_options(&o, data, run, strncmp(mode[k], "dit", 3) == 0);
        o.train.overlap = strstr(mode[k], "muon") ? opt_train_overlap_off : opt_train_overlap_on;
        o.train.bucket_mb = 1;
        o.train.lr =
            1e-4; /* the published rate (R§3.10): AdamW's first steps multiply rounding by the rate over the gradient */
        o.train.sharded_optimizer = !strstr(mode[k], "plain");
        if (strstr(mode[k], "muon")) o.train.optimizer = opt_train_optimizer_muon;
        set_levels(&o, c, strstr(mode[k], "levels"), true);
        o.train.steps = k < 2 ? STEPS : 5;
        if (k == 6) { /* two resolutions, of which each step takes one */
            snprintf(o.data.train, sizeof o.data.train, "%.200s/shards,%.200s/coarse/shards", data, data);
            o.vae.frame = 32;
        }
        trainer_run(&o, c, &h, &st);
        must(&st);
        /* Goes on from what the ranks wrote in slices; those by levels with other owners: without levels, as other
         * nodes, as before. */
        int resumes = k == 1 || k == 4 ? 1 : k == 7 ? 3 : 0;
        for (int i = 0; i < resumes; i++) {
            if (k == 7) set_levels(&o, c, i > 0, i == 2);
            o.train.steps += 2;
            trainer_run(&o, c, &h, &st);
            must(&st);
        }
    }
    if (out) fclose(out);
    out = NULL;
    stop_and_go(c, folder);
    choices(c);
    if (c->rank == 0) {
        snprintf(path, sizeof path, "%.400s/data-%d", folder, c->size);
        remove_tree(path, &st);
    }
}

/* Losses and norms of the first steps of a run on so many ranks. */
typedef struct {
    double loss[6], norm[6];
} curve;

static curve read_curve(const char *folder, int ranks, const char *run) {
    char      path[PATH_CAP], name[64];
    double    l, n;
    long long step, tokens;
    curve     c = {0};
    snprintf(path, sizeof path, "%.400s/losses-%d.txt", folder, ranks);
    FILE *f = fopen(path, "r");
    CHECK(f, "%s is missing", path);
    while (fscanf(f, "%63s %lld %lf %lf %lld", name, &step, &l, &n, &tokens) == 5)
        if (strcmp(name, run) == 0 && step >= 1 && step <= 5) c.loss[step] = l, c.norm[step] = n;
    fclose(f);
    CHECK(c.loss[5] > 0, "no run %s in %s", run, path);
    return c;
}

/* Sharded and not, with and without levels: to the last bit; but two nodes of two ranks add in another order. */
static void check_bits(const char *folder, int ranks) {
    curve flat = read_curve(folder, ranks, "dit"), plain = read_curve(folder, ranks, "dit-plain"),
          levels = read_curve(folder, ranks, "dit-levels"), both = read_curve(folder, ranks, "dit-levels-plain");
    CHECK(memcmp(&flat, &plain, sizeof flat) == 0, "on %d ranks a sharded optimiser trains otherwise", ranks);
    CHECK(memcmp(&levels, &both, sizeof flat) == 0, "by levels on %d ranks a sharded optimiser trains otherwise",
          ranks);
    CHECK((memcmp(&flat, &levels, sizeof flat) == 0) == (ranks < 4), "sums by levels on %d ranks", ranks);
}

static int check(const char *folder) {
    static const int ranks[] = {1, 2, 4};
    FILE            *f[3];
    char             path[PATH_CAP], name[3][64];
    int              lines = 0;
    double           worst = 0;
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%.400s/losses-%d.txt", folder, ranks[i]);
        f[i] = fopen(path, "r");
        CHECK(f[i], "%s is missing", path);
    }
    for (;;) {
        double    loss[3], norm[3];
        long long step[3], tokens[3];
        int       got = 0;
        for (int i = 0; i < 3; i++)
            got += fscanf(f[i], "%63s %lld %lf %lf %lld", name[i], &step[i], &loss[i], &norm[i], &tokens[i]) == 5;
        if (got == 0) break;
        CHECK(got == 3, "files of different length after %d lines", lines);
        lines++;
        for (int i = 1; i < 3; i++) {
            CHECK(strcmp(name[0], name[i]) == 0 && step[0] == step[i] && tokens[0] == tokens[i],
                  "other steps in line %d", lines);
            double e = fabs(loss[i] - loss[0]) / fabs(loss[0]);
            if (e > worst) worst = e;
            CHECK(e <= 1e-6, "%s step %lld: loss %.9g on 1 rank, %.9g on %d ranks (relative %.2g)", name[0], step[0],
                  loss[0], loss[i], ranks[i], e);
            CHECK(isfinite(norm[0]) == isfinite(norm[i]), "%s step %lld: skipped on some ranks only", name[0], step[0]);
        }
    }
    CHECK(lines == 2 * STEPS + 8 * 5 + 5 * 2, "%d lines", lines);
    printf("%d steps on 1, 2 and 4 ranks: largest relative difference of a loss %.3g\n", lines, worst);
    for (int i = 0; i < 3; i++) fclose(f[i]);
    for (int i = 0; i < 3; i++) check_bits(folder, ranks[i]);
    return 0;
}

int main(int argc, char **argv) {
    CHECK(argc >= 2, "usage: train_ranks FOLDER [check]");
    if (argc > 2) return check(argv[1]);
    comm   world;
    status st = {0};
    comm_start(&world, &argc, &argv);
    log_init(world.rank, world.size, LOG_WARN);
    if (world.rank == 0) make_folder(argv[1], &st);
    run_all(&world, argv[1]);
    comm_finish(&world);
    return 0;
}
