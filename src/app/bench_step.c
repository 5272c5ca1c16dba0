/* The steps are the trainer's own: loader, forward, backward, reduction over ranks, update; only the data are made here
 * and nothing is saved. Times are those that the trainer reports: of the stream of ops on a GPU, without waiting for
 * data, which is told apart. */
#include "app/bench_step.h"
#include "app/bench_data.h"
#include "app/bench_flops.h"
#include "app/bench_peak.h"
#include "app/bench_profile.h"
#include "app/bench_shell.h"
#include "app/net_params.h"

#include <errno.h>
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

/* Seconds of the slowest rank; BUSY: forward and backward; WAIT: minus what the least waiting rank waited for the
 * reduction; WALL: from step to step by the host's clock. Beside them the mean over the ranks of BUSY. */
typedef enum {
    T_STEP,
    T_DATA,
    T_REDUCE,
    T_UPDATE,
    T_PREPARE,
    T_FORWARD,
    T_BACKWARD,
    T_BUSY,
    T_WAIT,
    T_WALL,
    T_KINDS,
    T_BUSY_MEAN = T_KINDS,
    T_ALL
} time_kind;

typedef struct {
    const comm *world;
    int64_t     warmup, last;     /* steps between them are timed */
    op_profile *profile;          /* of the one behind, or NULL */
    double     *t[T_ALL];         /* [n] of each kind */
    int64_t     n, tokens;        /* tokens of all steps */
    double      balance;          /* sum over the steps of what the plan expects */
    double      before;           /* when the step before ended, by the host's clock */
    double      loss, used_bytes; /* of memory, at the last step */
} step_log;

/* The shapes that are written. */
typedef struct {
    int64_t *tokens, n, most;
    int      edge;
} shape_list;

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
    s->used_bytes = used;
}

static void on_step(void *user, int64_t done, const step_result *r) {
    step_log         *s = user;
    const step_times *k = &r->times;
    double            busy = k->forward + k->backward, now = now_seconds();
    double            t[T_KINDS] = {[T_STEP] = busy + k->reduce + k->update,
                                    [T_DATA] = k->data,
                                    [T_REDUCE] = k->reduce,
                                    [T_UPDATE] = k->update,
                                    [T_PREPARE] = k->prepare,
                                    [T_FORWARD] = k->forward,
                                    [T_BACKWARD] = k->backward,
                                    [T_BUSY] = busy,
                                    [T_WAIT] = -k->reduce,
                                    [T_WALL] = now - s->before};
    s->before = now;
    if (s->profile) op_profile_switch(s->profile, done == s->last);
    if (done <= s->warmup || done > s->last) return;
    comm_max_f64(s->world, t, T_KINDS);
    comm_sum_f64(s->world, &busy, 1);
    for (int i = 0; i < T_KINDS; i++) s->t[i][s->n] = t[i];
    s->t[T_BUSY_MEAN][s->n++] = busy / s->world->size;
    s->tokens += r->tokens;
    s->balance += r->balance;
    s->loss = r->loss;
    if (done == s->last) note_memory(s); /* asking a GPU takes as long as a small op, on one rank or another */
}

static double mean(const double *x, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i];
    return n ? sum / (double)n : 0;
}

/* The median of steps that are alike, the mean of steps that differ; sorts. */
static double typical(double *x, int64_t n, bool alike) {
    qsort(x, (size_t)n, sizeof *x, ascending_f64);
    return !alike ? mean(x, n) : n ? x[n / 2] : 0;
}

/* What the data ask for, and what is not of a measurement. Prints what differs from the configuration. */
static bool arrange(options *o, const comm *world, const char *folder, shape_list *shapes, status *st) {
    bool dit = o->train.model == opt_train_model_dit;
    int *edge = &shapes->edge;
    shapes->n = o->bench.samples * (o->bench.spread > 0 ? world->size * o->bench.batches : 1);
    shapes->tokens = malloc((size_t)shapes->n * sizeof *shapes->tokens);
    CHECK(shapes->tokens, "no memory for a list of %lld shapes", (long long)shapes->n);
    bench_sizes(o->bench.spread, o->bench.tokens, shapes->n, shapes->tokens);
    shapes->most = shapes->tokens[shapes->n - 1];
    int least = shell_edge(shapes->most), own = dit ? (int)o->dit.resolution : (int)o->data.resolution / 8;
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
    o->train.steps = o->bench.warmup + o->bench.steps + o->bench.profile;
    o->train.eval_every = 0;
    o->train.checkpoint_every = 0;
    o->train.log_every = MOST_STEPS;
    return join_path(folder, "shards", o->data.train, st) && join_path(folder, "latents", o->data.latents, st) &&
           join_path(folder, "run", o->train.run, st);
}

/* Operations of a sample of n tokens; 0: not counted (a step of parts). */
static double flops_of_sample(const options *o, int64_t n, int edge) {
    arena  host = arena_new("host", ((size_t)64 << 20) + (size_t)n * 16384);
    tensor coord = arena_tensor(&host, DT_I32, DIMS(n, 3)), first = arena_tensor(&host, DT_I32, DIMS(2));
    double flops = 0;
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
        ssvae_batch b = ssvae_batch_build(&host, &cfg, 8 * edge, &coord, &first, value);
        flops = vae_flops(&cfg, &b);
    }
    arena_free(&host);
    return flops;
}

/* Of a step of one rank, on average. */
static double flops_of(const options *o, const shape_list *shapes) {
    double flops = 0, last = 0;
    for (int64_t i = 0; i < shapes->n; i++) {
        if (i == 0 || shapes->tokens[i] != shapes->tokens[i - 1])
            last = flops_of_sample(o, shapes->tokens[i], shapes->edge);
        flops += last;
    }
    return flops * (double)o->bench.samples / (double)shapes->n;
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

static const char columns[] =
    "git,host,device,model,ranks,samples,tokens,steps,step_ms,p95_ms,tokens_s,tflop,share_of_gemm,gemm_tflops,"
    "exposed_ms,update_ms,data_ms,memory_gb,spread,balance,busy_balance,forward_ms,backward_ms,exposed_min_ms,"
    "reduced_mb\n";

static void report(const step_log *s, const options *o, const comm *world, const char *device, double flops,
                   double gemm, FILE *csv) {
    char        host[64] = "?";
    int64_t     n = s->n;
    bool        alike = o->bench.spread == 0;
    double      t[T_ALL], busy = mean(s->t[T_BUSY_MEAN], n) / mean(s->t[T_BUSY], n), balance = s->balance / (double)n;
    const char *model = o->train.model == opt_train_model_dit ? "dit" : "vae";
    for (int i = 0; i < T_ALL; i++) t[i] = typical(s->t[i], n, alike);
    double step = t[T_STEP], p95 = s->t[T_STEP][(int64_t)(0.95 * (double)(n - 1) + 0.999)];
    double rate = (double)s->tokens / (double)n / step, share = flops > 0 && gemm > 0 ? flops / step / gemm : 0;
    gethostname(host, sizeof host - 1);
    printf("%s, %s, %d ranks, git %s\n", host, device, world->size, D3S2_GIT_HASH);
    printf("%s: %lld samples of %lld tokens a rank, %lld steps after %lld\n", model, (long long)o->bench.samples,
           (long long)o->bench.tokens, (long long)n, (long long)s->warmup);
    printf("step        %10.2f ms %s, %.2f ms at the 95th percentile (slowest rank; data not counted)\n", 1e3 * step,
           alike ? "median" : "on average", 1e3 * p95);
    printf("wall        %10.2f ms from step to step, with data and what the host does between\n", 1e3 * t[T_WALL]);
    printf("tokens/s    %10.0f\n", rate);
    if (flops > 0)
        printf("operations  %10.3g TFLOP a rank, %.3g TFLOP/s: %.1f %% of a matrix product's %.3g\n", flops * 1e-12,
               flops / step * 1e-12, 100 * share, gemm * 1e-12);
    else
        printf("operations  not counted: a step sees parts of samples\n");
    printf("forward     %10.2f ms, backward %.2f ms\n", 1e3 * t[T_FORWARD], 1e3 * t[T_BACKWARD]);
    printf("reduction   %10.2f ms exposed, %.2f %% of the step; %.2f ms on the rank that waits least\n",
           1e3 * t[T_REDUCE], 100 * t[T_REDUCE] / step, -1e3 * t[T_WAIT]);
    printf("balance     %10.3f of forward and backward, mean over the ranks / slowest; %.3f by the cost model\n", busy,
           balance);
    printf("update      %10.2f ms\n", 1e3 * t[T_UPDATE]);
    printf("data        %10.2f ms waited for, beside the step; %.2f ms to prepare\n", 1e3 * t[T_DATA],
           1e3 * t[T_PREPARE]);
    printf("memory      %10.2f GB in use\n", s->used_bytes * 1e-9);
    printf("loss        %10.5g\n", s->loss);
    if (!csv) return;
    fprintf(csv, "%s,%s,\"%s\",%s,%d,%lld,%lld,%lld,%.3f,%.3f,%.0f,%.3f,%.4f,%.1f,%.3f,%.3f,%.3f,%.3f,", D3S2_GIT_HASH,
            host, device, model, world->size, (long long)o->bench.samples, (long long)o->bench.tokens, (long long)n,
            1e3 * step, 1e3 * p95, rate, flops * 1e-12, share, gemm * 1e-12, 1e3 * t[T_REDUCE], 1e3 * t[T_UPDATE],
            1e3 * t[T_DATA], s->used_bytes * 1e-9);
    fprintf(csv, "%g,%.4f,%.4f,%.3f,%.3f,%.3f,%.3f\n", o->bench.spread, balance, busy, 1e3 * t[T_FORWARD],
            1e3 * t[T_BACKWARD], -1e3 * t[T_WAIT], net_reduced_bytes(o) * 1e-6);
}

static bool measure(options *o, const comm *world, const char *folder, FILE *csv, status *st) {
    step_log s = {
        .world = world, .warmup = o->bench.warmup, .last = o->bench.warmup + o->bench.steps, .before = now_seconds()};
    shape_list shapes = {0};
    char       device[200] = "?";
    comm       c = *world;
    bool       ok = arrange(o, world, folder, &shapes, st);
    if (ok && world->rank == 0)
        bench_data_write(folder, shapes.tokens, shapes.n, shapes.edge, (int)o->vae.latent_channels,
                         o->train.model == opt_train_model_vae, st);
    ok = comm_agree(world, st);
    double gemm = ok ? gemm_of(o, world, device, st) : 0, flops = ok ? flops_of(o, &shapes) : 0;
    free(shapes.tokens);
    if (!comm_agree(world, st)) return false;
    double *room = malloc(T_ALL * (size_t)o->bench.steps * sizeof *room);
    CHECK(room, "no memory for the times of %lld steps", (long long)o->bench.steps);
    for (int i = 0; i < T_ALL; i++) s.t[i] = room + i * o->bench.steps;
    if (o->bench.profile && world->rank == 0) s.profile = op_profile_new();
    trainer_hooks hooks = {.on_step = on_step, .user = &s, .profile = s.profile, .unsaved = true};
    ok = trainer_run(o, &c, &hooks, st) == ST_OK;
    comm_max_f64(world, &s.used_bytes, 1);
    bool timed = ok && !o->command.dry_run; /* else the plan has been printed, and that is all */
    if (timed && world->rank == 0) report(&s, o, world, device, flops, gemm, csv);
    if (timed && s.profile) bench_profile_print(s.profile, typical(s.t[T_STEP], s.n, true));
    op_profile_free(s.profile);
    free(room);
    return ok;
}

/* For rows to be added: a new file gets the names of the columns, an old one must have the same. */
static FILE *open_rows(const char *path, status *st) {
    char  line[sizeof columns + 1] = "";
    FILE *f = fopen(path, "a+");
    if (!f) {
        status_set(st, ST_IO, "%.300s: cannot write: %s", path, strerror(errno));
    } else if (!fgets(line, sizeof line, f)) {
        fputs(columns, f);
    } else if (strcmp(line, columns) != 0) {
        status_set(st, ST_DATA, "%.300s has other columns than this version writes: choose another file", path);
        fclose(f);
        return NULL;
    }
    if (f) fseek(f, 0, SEEK_END); /* between reading and writing */
    return f;
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
    bool kept = status_ok(&st) && o->bench.folder[0];
    if (status_ok(&st) && world->rank == 0) {
        if (kept) {
            snprintf(folder, sizeof folder, "%s", o->bench.folder);
            make_folder(folder, &st);
        } else {
            snprintf(folder, sizeof folder, "%.400s/d3s2-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp");
            if (!mkdtemp(folder))
                status_set(&st, ST_IO, "%s: no folder for synthetic shapes (%s): set bench.folder or TMPDIR", folder,
                           strerror(errno));
        }
        if (status_ok(&st) && path && !o->command.dry_run) csv = open_rows(path, &st);
    }
    bool ok = comm_agree(world, &st);
    comm_bcast(world, folder, sizeof folder, 0);
    ok = ok && measure(o, world, folder, csv, &st);
    status removing = {0};
    if (world->rank == 0 && folder[0] && !kept) remove_tree(folder, &removing);
    if (csv && fclose(csv) != 0) status_set(&st, ST_IO, "%.300s: cannot write: %s", path, strerror(errno));
    comm_agree(world, &st);
    if (world->rank == 0 && st.code == ST_REQUEUE)
        fprintf(stderr, "d3s2: stopped on request: nothing is measured\n");
    else if (world->rank == 0 && st.text[0])
        fprintf(stderr, "d3s2: error: %s\n", st.text);
    free(o);
    return (int)st.code;
}
