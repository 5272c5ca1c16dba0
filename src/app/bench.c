#include "app/bench.h"
#include "app/bench_cluster.h"
#include "app/bench_rows.h"
#include "app/bench_ssa.h"
#include "app/bench_step.h"
#include "app/bench_table.h"
#include "app/bench_vae.h"
#include "core/rng.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_RUNS = 20, MAX_RUNS = 10000, N_NORMALS = 1 << 20 };
static const double MIN_SECONDS = 1.0, TOLERANCE_INT = 2e-3; /* share of integers that may differ */
/* Address space, not memory: pages that are not touched cost nothing. */
static const size_t MEMORY = (size_t)1 << 30, SCRATCH = (size_t)256 << 20;

/* ---- cases --------------------------------------------------------------------------------------------------------
 */

tensor *bench_out(bench_case *b, dtype dt, const int64_t *dims, int n_dims) {
    tensor *t = arena_alloc(&b->memory, sizeof *t);
    *t = arena_tensor(&b->memory, dt, dims, n_dims);
    if (!b->blank) memset(t->data, 0, tensor_bytes(t));
    CHECK(b->n_out < BENCH_MAX_OUT, "more than %d outputs", BENCH_MAX_OUT);
    b->out[b->n_out++] = t;
    return t;
}

static tensor *new_in(bench_case *b, dtype dt, const int64_t *dims, int n_dims) {
    tensor *t = arena_alloc(&b->memory, sizeof *t);
    *t = arena_tensor(&b->memory, dt, dims, n_dims);
    return t;
}

tensor *bench_i32(bench_case *b, const int64_t *dims, int n_dims) {
    tensor *t = new_in(b, DT_I32, dims, n_dims);
    memset(t->data, 0, tensor_bytes(t));
    return t;
}

/* A million normals again and again, from another start in every piece. */
tensor *bench_in(bench_case *b, const int64_t *dims, int n_dims) {
    static float normal[N_NORMALS];
    static bool  there;
    tensor      *t = new_in(b, DT_F32, dims, n_dims);
    uint32_t     state = (uint32_t)b->memory.used;
    if (!there) rng_fill_normal((rng_key){.seed = 1, .purpose = RNG_TEST}, 0, N_NORMALS, normal);
    there = true;
    for (int64_t i = 0, n = tensor_count(t), k; i < n; i += k) {
        state = state * 1664525u + 1013904223u;
        int64_t from = state >> 8 & (N_NORMALS - 1);
        k = n - i < N_NORMALS - from ? n - i : N_NORMALS - from;
        memcpy(F32(t) + i, normal + from, (size_t)k * sizeof(float));
    }
    return t;
}

tensor *bench_first(bench_case *b, int64_t n_rows, int n_samples) {
    tensor *t = bench_i32(b, DIMS(n_samples + 1));
    for (int i = 0; i <= n_samples; i++) I32(t)[i] = (int32_t)(n_rows * i / n_samples);
    return t;
}

void bench_setup(bench_case *b, const bench_row *r, const int *shape) {
    arena_reset(&b->memory, 0);
    b->n_out = 0;
    b->flops = 0;
    r->setup(b, shape);
}

void bench_clear(const bench_case *b) {
    for (int i = 0; i < b->n_out; i++) memset(b->out[i]->data, 0, tensor_bytes(b->out[i]));
}

void bench_keep(bench_case *b, void *want[BENCH_MAX_OUT]) {
    for (int k = 0; k < b->n_out; k++) {
        want[k] = arena_alloc(&b->memory, tensor_bytes(b->out[k]));
        memcpy(want[k], b->out[k]->data, tensor_bytes(b->out[k]));
    }
}

static double number(const tensor *t, const void *data, int64_t i) {
    return t->dt == DT_F32 ? (double)((const float *)data)[i] : ((const double *)data)[i];
}

double bench_error(const bench_case *b, void *const *want) {
    double worst = 0;
    for (int k = 0; k < b->n_out; k++) {
        const tensor *t = b->out[k];
        double        max = 0, err = 0;
        int64_t       n = tensor_count(t);
        for (int64_t i = 0; i < n; i++) {
            if (t->dt == DT_I32) {
                err += I32(t)[i] != ((const int32_t *)want[k])[i];
                continue;
            }
            double w = number(t, want[k], i), g = number(t, t->data, i), e = w == g ? 0 : fabs(g - w);
            if (!(e <= err)) err = isfinite(e) ? e : INFINITY;
            if (isfinite(w) && fabs(w) > max) max = fabs(w);
        }
        if (t->dt == DT_I32)
            err = err <= TOLERANCE_INT * (double)n ? 0 : INFINITY;
        else if (err > 0)
            err = max > 0 ? err / max : INFINITY;
        if (err > worst) worst = err;
    }
    return worst;
}

void bench_words(const bench_row *r, const int *shape, char out[128]) {
    const char *p = r->shape_text;
    int         n = 0;
    out[0] = 0;
    for (int i = 0; *p; i++) {
        int len = (int)strcspn(p, " ");
        n += snprintf(out + n, (size_t)(128 - n), "%s%.*s=%d", i ? " " : "", len, p, shape[i]);
        p += len + (p[len] == ' ');
    }
}

/* ---- CPU ----------------------------------------------------------------------------------------------------------
 */

/* Checks, times, prints. False when the result is wrong. */
static bool cpu_row(const bench_row *r, bench_case *b, ctx *cpu, ctx *ref, const bench_sink *s) {
    static double time[MAX_RUNS];
    void         *want[BENCH_MAX_OUT];
    char          shape[128], copy[OP_ARGS_BYTES];
    op_tensors    l;
    op_front      fn = op_table[r->op].front;
    bench_words(r, r->shape, shape);
    bench_setup(b, r, r->shape);
    bench_clear(b);
    double t0 = now_seconds();
    fn(ref, &b->args);
    double ref_us = (now_seconds() - t0) * 1e6;
    bench_keep(b, want);
    bench_clear(b);
    fn(cpu, &b->args);
    double err = bench_error(b, want);
    if (!(err <= BENCH_TOLERANCE)) {
        printf("%-18s %-32s WRONG: error %.2e of the largest value; not timed\n", op_table[r->op].name, shape, err);
        return false;
    }
    int    n = 0;
    double start;
    for (int i = 0; i < 3; i++) fn(cpu, &b->args); /* warm-up, beside the checked run */
    start = now_seconds();
    while (n < MIN_RUNS || (n < MAX_RUNS && now_seconds() - start < MIN_SECONDS)) {
        double t = now_seconds();
        fn(cpu, &b->args);
        time[n++] = (now_seconds() - t) * 1e6;
    }
    memcpy(copy, &b->args, sizeof copy);
    op_list(r->op, copy, &l);
    qsort(time, (size_t)n, sizeof *time, ascending_f64);
    double median = time[n / 2], p95 = time[(int)(0.95 * (n - 1))];
    double gflops = b->flops / median * 1e-3, gbytes = op_list_bytes(&l) / median * 1e-3;
    printf("%-18s %-32s %10.1f %10.1f %9.1f %8.2f %8.1f\n", op_table[r->op].name, shape, median, p95, gflops, gbytes,
           ref_us / median);
    if (s->csv)
        fprintf(s->csv, "%s,%s,%s,%s,%d,%d,%.2f,%.2f,%.3f,%.3f,%.2f\n", D3S2_GIT_HASH, s->host, op_table[r->op].name,
                shape, omp_get_max_threads(), n, median, p95, gflops, gbytes, ref_us / median);
    fflush(stdout);
    return true;
}

static int cpu_rows(const char *filter, bench_case *b, const bench_sink *s, int *n_wrong) {
    b->memory = arena_new("bench", MEMORY);
    const bench_row *tables[] = {bench_rows_dense, bench_rows_sparse, bench_rows_attention};
    ctx              ref = {.be = &backend_ref, .scratch = arena_new("scratch", SCRATCH), .deterministic = true};
    ctx              cpu = ref;
    int              n = 0;
    cpu.be = &backend_cpu;
    b->prepare = &ref;
    if (s->csv && ftell(s->csv) == 0)
        fprintf(s->csv, "git,host,op,shape,threads,runs,median_us,p95_us,gflops,gbytes_s,speedup_over_ref\n");
    printf("%s, %d threads, git %s; speed-up is over the reference\n", s->host, omp_get_max_threads(), D3S2_GIT_HASH);
    printf("%-18s %-32s %10s %10s %9s %8s %8s\n", "op", "shape", "median us", "p95 us", "GFLOP/s", "GB/s", "speed-up");
    for (int t = 0; t < 3; t++)
        for (const bench_row *r = tables[t]; r->setup; r++) {
            if (!strstr(op_table[r->op].name, filter)) continue;
            n++;
            *n_wrong += !cpu_row(r, b, &cpu, &ref, s);
        }
    arena_free(&ref.scratch);
    return n;
}

/* ---- the verb -----------------------------------------------------------------------------------------------------
 */

static void usage(FILE *f) {
    fprintf(f,
            "usage: d3s2 bench [FILTER] [--device cpu|cuda] [--f32] [--csv FILE]\n"
            "       d3s2 bench ssa [--tokens N,...] [--cmp M] [--topk K] [--heads H] [--kv-heads G] [--width D] "
            "[--random]\n"
            "                      [--shards FOLDER] [--csv FILE]\n"
            "       d3s2 bench vae [--tiles N,...] [--csv FILE]\n"
            "       [mpirun -np N] d3s2 bench step --config FILE [--device NAME] [--csv FILE] [section.key=value ...]\n"
            "       d3s2 bench cluster|balance [--config FILE] [section.key=value ...]\n"
            "       d3s2 bench cost FILE.csv ...\n"
            "       d3s2 bench links RANKS:MB:MS ...\n"
            "  Times every op whose name contains FILTER, after checking it against the reference.\n"
            "  --device cuda  on the GPU, at the shapes of the published networks; --f32: not in bf16\n"
            "  --csv FILE     appends one line per row, with git hash, host, device and shape\n"
            "  ssa            times the core of Spatial Sparse Attention branch by branch, on a GPU in bf16\n"
            "  vae            times the convolutions of the SS-VAE layer by layer, on a GPU in bf16\n"
            "  step           times whole training steps of the configured network on synthetic shapes of\n"
            "                 bench.tokens tokens, bench.samples of them on each rank\n"
            "  cluster        computes steps and a long run with faults on cluster.ranks GPUs (docs/scaling.md)\n"
            "  balance        how even the ranks' shares are on a data set of sizes by bench.tokens and bench.spread\n"
            "  cost           fits the cost model (train.cost_*) to rows of bench step on one rank\n"
            "  links          fits cluster.inside_us and inside_gb_s to measured sums over the GPUs of a node\n");
}

static int bench_ops(int argc, char **argv) {
    const char *filter = "", *path = NULL, *device = "cpu";
    bool        f32 = false;
    bench_sink  s;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--csv") && i + 1 < argc) {
            path = argv[++i];
        } else if (!strcmp(argv[i], "--device") && i + 1 < argc) {
            device = argv[++i];
        } else if (!strcmp(argv[i], "--f32")) {
            f32 = true;
        } else if (argv[i][0] != '-' && !*filter) {
            filter = argv[i];
        } else {
            fprintf(stderr, "d3s2: error: bench does not know '%s'\n", argv[i]);
            usage(stderr);
            return ST_USAGE;
        }
    }
    bool gpu = strcmp(device, "cuda") == 0;
    if (!gpu && strcmp(device, "cpu") != 0) {
        fprintf(stderr, "d3s2: error: bench can time cpu and cuda, not '%s'\n", device);
        return ST_USAGE;
    }
    if (!bench_sink_open(&s, path)) return ST_IO;
    bench_case b = {.n_out = 0};
    int        n_wrong = 0;
    int n = gpu ? bench_gpu_rows(filter, f32 ? DT_F32 : DT_BF16, &s, &n_wrong) : cpu_rows(filter, &b, &s, &n_wrong);
    if (b.memory.base) arena_free(&b.memory);
    bool written = bench_sink_close(&s, path);
    if (n == 0)
        fprintf(stderr,
                "d3s2: error: no op's name contains '%s', and it is no other benchmark: see d3s2 bench --help\n",
                filter);
    return n < 0 ? ST_CONFIG : n == 0 ? ST_USAGE : n_wrong ? ST_INTERNAL : written ? ST_OK : ST_IO;
}

/* Those that only compute, by options. */
static int bench_computed(int argc, char **argv, int (*run)(const options *o)) {
    status   st = {0};
    options *o = malloc(sizeof *o);
    CHECK(o, "no memory for the options");
    if (options_parse(argc, argv, o, &st)) st.code = (status_code)run(o);
    if (st.text[0]) fprintf(stderr, "d3s2: error: %s\n", st.text);
    free(o);
    return (int)st.code;
}

int bench_run(const comm *world, int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            if (world->rank == 0) usage(stdout);
            return ST_OK;
        }
    if (argc > 1 && !strcmp(argv[1], "step")) return bench_step(world, argc - 1, argv + 1);
    if (world->rank > 0) return ST_OK;
    if (argc > 1 && !strcmp(argv[1], "cluster")) return bench_computed(argc - 1, argv + 1, bench_cluster);
    if (argc > 1 && !strcmp(argv[1], "balance")) return bench_computed(argc - 1, argv + 1, bench_balance);
    if (argc > 1 && !strcmp(argv[1], "cost")) return bench_computed(argc - 1, argv + 1, bench_cost);
    if (argc > 1 && !strcmp(argv[1], "links")) return bench_computed(argc - 1, argv + 1, bench_links);
    if (argc > 1 && !strcmp(argv[1], "vae")) return bench_vae(argc - 1, argv + 1);
    return argc > 1 && !strcmp(argv[1], "ssa") ? bench_ssa(argc - 1, argv + 1) : bench_ops(argc, argv);
}
