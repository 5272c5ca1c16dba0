/* The quick start's configurations on any device and number of ranks, 50 steps of each model on small data. Built a
 * second time with pretend_gpu.c (PRETEND), for the host's part.
 *
 *     gpu_ranks FOLDER NAME [section.key=value ...]     under mpirun
 *     gpu_ranks FOLDER check
 *
 * The first writes losses to FOLDER/NAME.txt; NAME cpu comes before the others and empties the folder. The second
 * compares all of them with cpu.txt: a loss may differ by 1e-5 of itself, "bf16" in a name allows 1e-3, "reduce" 1e-2.
 * Not a CMocka program, as it runs as several tests that depend on each other. Exit code 77: not enough GPUs here. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "fixture.h"
#include "harness/harness.h"
#include "io/atomic_file.h"
#include "train/trainer.h"

#ifdef PRETEND
enum { STEPS = 8 }; /* slow, and the CPU's kernels */
#else
enum { STEPS = 50 };
#endif

static FILE *out;

typedef struct {
    const char *model;
    comm       *c;
    step_times  sum;
} watch;

/* Every rank has the same gradient, to the bit: then it has the same norm. */
static void on_step(void *user, int64_t done, const step_result *r) {
    watch *w = user;
    double norm[2] = {r->grad_norm, -r->grad_norm};
    comm_max_f64(w->c, norm, 2);
    CHECK(norm[0] == -norm[1], "step %lld: the gradient norm is %.17g on one rank, %.17g on another", (long long)done,
          norm[0], -norm[1]);
    if (out) fprintf(out, "%s %lld %.17g %.17g\n", w->model, (long long)done, r->loss, r->grad_norm);
    w->sum.forward += r->times.forward;
    w->sum.backward += r->times.backward;
    w->sum.reduce += r->times.reduce;
    w->sum.update += r->times.update;
}

static void must(const status *st) {
    CHECK(status_ok(st), "%s", st->text);
}

static void run_model(comm *c, const char *folder, const char *name, bool dit, int n_set, char **set) {
    options       o, sizes;
    status        st = {0};
    char          data[PATH_CAP], run[PATH_CAP];
    watch         w = {.model = dit ? "dit" : "vae", .c = c};
    trainer_hooks h = {.on_step = on_step, .user = &w};
    snprintf(data, sizeof data, "%.300s/data-%.60s", folder, name);
    snprintf(run, sizeof run, "%.370s/%s", data, w.model);
    fixture_options(&sizes, data, run, dit);
    options_default(&o);
    options_read(&o, in_source(dit ? "configs/quickstart_dit.yaml" : "configs/quickstart_vae.yaml"), &st);
    must(&st);
    o.data = sizes.data;
    o.vae.latent_channels = sizes.vae.latent_channels; /* those of the fixture's latents */
    snprintf(o.train.run, sizeof o.train.run, "%s", run);
    o.train.steps = STEPS;
    o.train.batch_samples = 4;
    /* The published optimiser, rate and starts. The quick start's own part within 50 steps whatever computes them: Muon
     * makes a step of full size of directions that are rounding, and from the quick start's initial kernels one rank
     * and two ranks of CPUs differ by 3e-5 at step 41 (from the published ones by 6e-9). */
    o.train.optimizer = opt_train_optimizer_adamw;
    o.train.sharded_optimizer = true;
    o.train.lr = 1e-4;
    o.vae.up_gain = 1;
    o.vae.centre_gain = 0;
    o.train.checkpoint_every = 0;
    o.train.eval_every = 0;
    o.train.overlap = opt_train_overlap_on; /* in pieces, where the words do not say otherwise */
    o.train.bucket_mb = 1;
    for (int i = 0; i < n_set; i++) {
        const char *eq = strchr(set[i], '=');
        char        key[64];
        CHECK(eq, "'%s' is not section.key=value", set[i]);
        snprintf(key, sizeof key, "%.*s", (int)(eq - set[i]), set[i]);
        options_set(&o, key, eq + 1, &st);
        must(&st);
    }
    double t = now_seconds();
    trainer_run(&o, c, &h, &st);
    must(&st);
    if (c->rank == 0)
        printf(
            "%s %s on %d ranks: %.2f s; ms a step: forward %.3f, backward %.3f, exposed reduction %.3f, update %.3f\n",
            name, w.model, c->size, now_seconds() - t, 1e3 * w.sum.forward / STEPS, 1e3 * w.sum.backward / STEPS,
            1e3 * w.sum.reduce / STEPS, 1e3 * w.sum.update / STEPS);
}

static int run_all(comm *c, const char *folder, const char *name, int n_set, char **set) {
    char         path[PATH_CAP];
    status       st = {0};
    fixture_spec spec = {.n_samples = 7, .per_shard = 3, .resolution = 32, .vae = 7};
    if (c->rank == 0) {
        if (strcmp(name, "cpu") == 0) remove_tree(folder, &st); /* the first run: nothing of an older build stays */
        make_folder(folder, &st);
        snprintf(path, sizeof path, "%.300s/data-%.60s", folder, name);
        remove_tree(path, &st);
        fixture_write(path, &spec);
        snprintf(path, sizeof path, "%.300s/%.60s.txt", folder, name);
        out = fopen(path, "w");
        CHECK(out, "cannot write %s", path);
    }
    comm_barrier(c);
    for (int dit = 0; dit < 2; dit++) run_model(c, folder, name, dit, n_set, set);
    if (out) fclose(out);
    if (c->rank == 0) {
        snprintf(path, sizeof path, "%.300s/data-%.60s", folder, name);
        remove_tree(path, &st);
    }
    return 0;
}

/* A GPU for each rank of this host, where one is asked for. */
static bool enough_gpus(const comm *c, int n_set, char **set) {
    int         rank, size;
    const char *why;
    bool        wanted = false;
    for (int i = 0; i < n_set; i++) wanted |= strcmp(set[i], "train.device=cuda") == 0;
    comm_local(c, &rank, &size);
    int n = wanted ? device_count(&why) : 0;
    if (wanted && n < size && c->rank == 0) printf("%d ranks here, %d GPUs: %s\n", size, n, why);
    return !wanted || n >= size;
}

/* The step with the largest difference, per model. False: beyond the bound. */
static bool compare(const char *folder, const char *name) {
    FILE  *f[2];
    char   path[PATH_CAP];
    int    lines = 0, at[2] = {0};
    double worst[2] = {0}, bound = strstr(name, "reduce") ? 1e-2 : strstr(name, "bf16") ? 1e-3 : 1e-5;
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%.300s/%.64s", folder, i ? name : "cpu.txt");
        f[i] = fopen(path, "r");
        CHECK(f[i], "%s is missing", path);
    }
    for (;;) {
        char   model[2][8];
        int    step[2], got = 0;
        double loss[2], norm[2];
        for (int i = 0; i < 2; i++) got += fscanf(f[i], "%7s %d %lf %lf", model[i], &step[i], &loss[i], &norm[i]) == 4;
        if (got == 0) break;
        CHECK(got == 2 && strcmp(model[0], model[1]) == 0 && step[0] == step[1], "%s: other steps in line %d", name,
              lines + 1);
        double e = fabs(loss[1] / loss[0] - 1);
        bool   dit = strcmp(model[0], "dit") == 0;
        if (!(e <= worst[dit])) worst[dit] = e, at[dit] = step[0];
        lines++;
    }
    for (int i = 0; i < 2; i++) fclose(f[i]);
    bool ok = lines == 2 * STEPS && worst[0] <= bound && worst[1] <= bound;
    printf(
        "%-24s largest relative difference of a loss from the CPU: vae %.2g (step %d), dit %.2g (step %d); bound %g: "
        "%s\n",
        name, worst[0], at[0], worst[1], at[1], bound,
        lines < 2 * STEPS ? "NOT COMPLETE"
        : ok              ? "ok"
                          : "TOO LARGE");
    return ok;
}

static int check(const char *folder) {
    DIR *d = opendir(folder);
    int  n = 0, bad = 0;
    CHECK(d, "no folder %s", folder);
    for (const struct dirent *e; (e = readdir(d));) {
        const char *dot = strrchr(e->d_name, '.');
        if (!dot || strcmp(dot, ".txt") != 0 || strcmp(e->d_name, "cpu.txt") == 0) continue;
        bad += !compare(folder, e->d_name);
        n++;
    }
    closedir(d);
    return n == 0 ? 77 : bad > 0;
}

int main(int argc, char **argv) {
    CHECK(argc >= 3, "usage: gpu_ranks FOLDER NAME [section.key=value ...] | FOLDER check");
    if (strcmp(argv[2], "check") == 0) return check(argv[1]);
    comm world;
    comm_start(&world, &argc, &argv);
    log_init(world.rank, world.size, LOG_WARN);
    int code = enough_gpus(&world, argc - 3, argv + 3) ? run_all(&world, argv[1], argv[2], argc - 3, argv + 3) : 77;
    comm_finish(&world);
    return code;
}
