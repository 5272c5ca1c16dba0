/* The steps are the trainer's own: loader, forward, backward, reduction over ranks, update; only the data are made here
 * and nothing is saved. Times are those that the trainer reports: of the stream of ops on a GPU, without waiting for
 * data, which is told apart. */
#include "app/bench_step.h"
#include "app/bench_data.h"
#include "app/bench_flops.h"
#include "app/bench_peak.h"
#include "app/bench_shell.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/device.h"
#include "data/condition.h"
#include "io/atomic_file.h"
#include "train/setup.h"
#include "train/trainer.h"

#ifndef D3S2_GIT_HASH
#define D3S2_GIT_HASH "unknown"
#endif

enum { MOST_STEPS = 100000 };

typedef struct {
    const comm *world;
    int64_t     warmup;
    double     *step, *data, *prepare, *reduce, *update; /* [n] seconds of the slowest rank */
    int64_t     n, tokens;
    double      loss, used_bytes; /* of memory, the most that was seen */
} step_log;

static void note_memory(step_log *s) {
    double        used;
    size_t        free_bytes, all;
    struct rusage r;
    if (device_is_open()) {
        device_memory(&free_bytes, &all);
        used = (double)(all - free_bytes);
    } else {
        getrusage(RUSAGE_SELF, &r);
        used = (double)r.ru_maxrss * 1024;
    }
    if (used > s->used_bytes) s->used_bytes = used;
}

static void on_step(void *user, int64_t done, const step_result *r) {
    step_log *s = user;
    double    t[5] = {r->times.forward + r->times.backward + r->times.reduce + r->times.update, r->times.data,
                      r->times.reduce, r->times.update, r->times.prepare};
    if (done <= s->warmup) return;
    comm_max_f64(s->world, t, 5);
    s->step[s->n] = t[0];
    s->data[s->n] = t[1];
    s->reduce[s->n] = t[2];
    s->prepare[s->n] = t[4];
    s->update[s->n++] = t[3];
    s->tokens = r->tokens;
    s->loss = r->loss;
    note_memory(s);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int64_t n) {
    qsort(x, (size_t)n, sizeof *x, ascending);
    return n ? x[n / 2] : 0;
}

/* What the data ask for, and what is not of a measurement. Prints what differs from the configuration. */
static bool arrange(options *o, const comm *world, const char *folder, int *edge, status *st) {
    bool dit = o->train.model == opt_train_model_dit;
    int  least = shell_edge(o->bench.tokens), own = dit ? (int)o->dit.resolution : (int)o->data.resolution / 8;
    *edge = own > least ? own : least;
    if (dit && *edge % (int)o->dit.m_slc != 0) *edge += (int)o->dit.m_slc - *edge % (int)o->dit.m_slc;
    if (dit && *edge != o->dit.resolution) {
        log_info("bench: dit.resolution is %d, for so many tokens", *edge);
        o->dit.resolution = *edge;
    }
    if (dit && (o->cond.encoder != opt_cond_encoder_patches || o->dit.cond_width != PATCH_WIDTH)) {
        log_info("bench: the condition is that of the patches encoder, %d numbers a token", PATCH_WIDTH);
        o->cond.encoder = opt_cond_encoder_patches;
        o->dit.cond_width = PATCH_WIDTH;
    }
    o->data.resolution = 8 * *edge;
    o->data.min_tiles = o->data.max_tiles = 0;
    o->data.heldout[0] = o->data.latents_heldout[0] = o->train.init_from[0] = 0;
    o->cond.augment = false;
    o->cond.drop = 0;
    o->train.batch_tokens = 0;
    o->train.batch_samples = o->bench.samples * world->size;
    o->train.steps = o->bench.warmup + o->bench.steps;
    o->train.eval_every = 0;
    o->train.checkpoint_every = 0;
    o->train.log_every = MOST_STEPS;
    return join_path(folder, "shards", o->data.train, st) && join_path(folder, "latents", o->data.latents, st) &&
           join_path(folder, "run", o->train.run, st);
}

/* Operations of a step of one rank; 0: not counted (a step of parts). */
static double flops_of(const options *o, int edge) {
    int64_t n = o->bench.tokens;
    arena   host = arena_new("host", ((size_t)64 << 20) + (size_t)n * 16384);
    tensor  coord = arena_tensor(&host, DT_I32, DIMS(n, 3)), first = arena_tensor(&host, DT_I32, DIMS(2));
    double  flops = 0;
    I32(&first)[0] = 0;
    I32(&first)[1] = (int32_t)n;
    if (o->train.model == opt_train_model_dit) {
        int64_t      side = o->cond.size / PATCH_SIDE;
        ssdit_config cfg = ssdit_config_of(o);
        shell_cells(n, edge, cfg.ssa.m_slc, I32(&coord));
        flops = dit_flops(&cfg, &coord, side * side + o->dit.sparse_cond);
    } else if (o->vae.chunk_tiles == 0 && o->vae.crop_tiles == 0) {
        ssvae_config cfg = ssvae_config_of(o);
        double       radius = shell_cells(n, edge, cfg.window, I32(&coord));
        float       *value = arena_alloc(&host, (size_t)n * 512 * sizeof *value);
        bench_data_values(I32(&coord), n, edge, radius, value);
        ssvae_batch b = ssvae_batch_build(&host, &cfg, &coord, &first, value);
        flops = vae_flops(&cfg, &b);
    }
    arena_free(&host);
    return flops * (double)o->bench.samples;
}

/* FLOP/s of a large matrix product: of this rank's GPU, or of the CPU back end. */
static double gemm_of(const options *o, const comm *world, char device[200], status *st) {
    place where;
    if (!place_open(&where, o, world, true, st)) return 0;
    snprintf(device, 200, "%s", where.text);
    ctx         c = place_ctx(&where);
    int64_t     n = where.dev == DEV_CUDA ? (where.act == DT_BF16 ? 8192 : 4096) : 1024;
    bench_peaks p = bench_peak(&c, where.dev, n, 0);
    place_ctx_free(&c);
    return p.gemm;
}

static void report(const step_log *s, const options *o, const comm *world, const char *device, double flops,
                   double gemm, FILE *csv) {
    char    host[64] = "?";
    int64_t n = s->n;
    double *copy = malloc((size_t)(n + 1) * sizeof *copy), reduce = median(s->reduce, n), data = median(s->data, n),
           update = median(s->update, n), prepare = median(s->prepare, n);
    CHECK(copy, "no memory for %lld times", (long long)n);
    memcpy(copy, s->step, (size_t)n * sizeof *copy);
    double step = median(copy, n), p95 = copy[(int64_t)(0.95 * (double)(n - 1) + 0.999)];
    double rate = (double)s->tokens / step, share = flops > 0 && gemm > 0 ? flops / step / gemm : 0;
    gethostname(host, sizeof host - 1);
    printf("%s, %s, %d ranks, git %s\n", host, device, world->size, D3S2_GIT_HASH);
    printf("%s: %lld samples of %lld tokens a rank, %lld steps after %lld\n",
           o->train.model == opt_train_model_dit ? "dit" : "vae", (long long)o->bench.samples,
           (long long)o->bench.tokens, (long long)n, (long long)s->warmup);
    printf("step        %10.2f ms median, %.2f ms at the 95th percentile (slowest rank; data not counted)\n",
           1e3 * step, 1e3 * p95);
    printf("tokens/s    %10.0f\n", rate);
    if (flops > 0)
        printf("operations  %10.3g TFLOP a rank, %.3g TFLOP/s: %.1f %% of a matrix product's %.3g\n", flops * 1e-12,
               flops / step * 1e-12, 100 * share, gemm * 1e-12);
    else
        printf("operations  not counted: a step sees parts of samples\n");
    printf("reduction   %10.2f ms exposed, %.2f %% of the step\n", 1e3 * reduce, 100 * reduce / step);
    printf("update      %10.2f ms\n", 1e3 * update);
    printf("data        %10.2f ms waited for, beside the step; %.2f ms to prepare\n", 1e3 * data, 1e3 * prepare);
    printf("memory      %10.2f GB in use\n", s->used_bytes * 1e-9);
    printf("loss        %10.5g\n", s->loss);
    if (csv)
        fprintf(csv, "%s,%s,\"%s\",%s,%d,%lld,%lld,%lld,%.3f,%.3f,%.0f,%.3f,%.4f,%.1f,%.3f,%.3f,%.3f,%.3f\n",
                D3S2_GIT_HASH, host, device, o->train.model == opt_train_model_dit ? "dit" : "vae", world->size,
                (long long)o->bench.samples, (long long)o->bench.tokens, (long long)n, 1e3 * step, 1e3 * p95, rate,
                flops * 1e-12, share, gemm * 1e-12, 1e3 * reduce, 1e3 * update, 1e3 * data, s->used_bytes * 1e-9);
    free(copy);
}

static bool measure(options *o, const comm *world, const char *folder, FILE *csv, status *st) {
    step_log s = {.world = world, .warmup = o->bench.warmup};
    char     device[200] = "?";
    int      edge = 0;
    comm     c = *world;
    if (!arrange(o, world, folder, &edge, st)) return false;
    if (world->rank == 0)
        bench_data_write(folder, o->bench.tokens, o->bench.samples, edge, (int)o->vae.latent_channels, st);
    if (!comm_agree(world, st)) return false;
    double gemm = gemm_of(o, world, device, st), flops = flops_of(o, edge), *room;
    if (!comm_agree(world, st)) return false;
    room = malloc(5 * (size_t)o->bench.steps * sizeof *room);
    CHECK(room, "no memory for the times of %lld steps", (long long)o->bench.steps);
    s.step = room;
    s.data = room + o->bench.steps;
    s.reduce = room + 2 * o->bench.steps;
    s.update = room + 3 * o->bench.steps;
    s.prepare = room + 4 * o->bench.steps;
    bool ok = trainer_run(o, &c, &(trainer_hooks){.on_step = on_step, .user = &s, .unsaved = true}, st) == ST_OK;
    comm_max_f64(world, &s.used_bytes, 1);
    if (ok && world->rank == 0) report(&s, o, world, device, flops, gemm, csv);
    free(room);
    return ok;
}

/* "--csv FILE" among the words, taken out. */
static const char *take_csv(int *argc, char **argv) {
    for (int i = 1; i + 1 < *argc; i++)
        if (!strcmp(argv[i], "--csv")) {
            const char *path = argv[i + 1];
            memmove(argv + i, argv + i + 2, (size_t)(*argc - i - 2) * sizeof *argv);
            *argc -= 2;
            return path;
        }
    return NULL;
}

int bench_step(const comm *world, int argc, char **argv) {
    status      st = {0};
    options    *o = malloc(sizeof *o);
    const char *path = take_csv(&argc, argv), *tmp = getenv("TMPDIR");
    char        folder[PATH_CAP] = "";
    FILE       *csv = NULL;
    CHECK(o, "no memory for the options");
    if (options_parse(argc, argv, o, &st) && o->command.n_args)
        status_set(&st, ST_USAGE, "bench step takes no argument '%.80s'", o->command.arg[0]);
    if (status_ok(&st) && world->rank == 0) {
        snprintf(folder, sizeof folder, "%.400s/d3s2-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
        if (!mkdtemp(folder)) status_set(&st, ST_IO, "%s: no folder for synthetic data", folder);
        if (status_ok(&st) && path && !(csv = fopen(path, "a"))) status_set(&st, ST_IO, "cannot write %.300s", path);
        if (csv && ftell(csv) == 0)
            fprintf(csv, "git,host,device,model,ranks,samples,tokens,steps,step_ms,p95_ms,tokens_s,tflop,share_of_gemm,"
                         "gemm_tflops,exposed_ms,update_ms,data_ms,memory_gb\n");
    }
    bool ok = comm_agree(world, &st);
    comm_bcast(world, folder, sizeof folder, 0);
    ok = ok && measure(o, world, folder, csv, &st);
    status removing = {0};
    if (world->rank == 0 && folder[0]) remove_tree(folder, &removing);
    if (csv && fclose(csv) != 0) status_set(&st, ST_IO, "cannot write %.300s", path);
    comm_agree(world, &st);
    if (!ok && world->rank == 0 && st.text[0]) fprintf(stderr, "d3s2: error: %s\n", st.text);
    free(o);
    return (int)st.code;
}
