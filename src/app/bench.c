#include "app/bench.h"
#include "app/bench_rows.h"

#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef D3S2_GIT_HASH
#define D3S2_GIT_HASH "unknown"
#endif

enum { MIN_RUNS = 20, MAX_RUNS = 10000 };
static const double MIN_SECONDS = 1.0,
                    TOLERANCE = 1e-4; /* of the largest value: coarse on purpose, the op tests are fine */
static const size_t MEMORY = (size_t)1 << 30, SCRATCH = (size_t)256 << 20;

tensor *bench_out(bench_case *b, dtype dt, const int64_t *dims, int n_dims) {
    tensor *t = arena_alloc(&b->memory, sizeof *t);
    *t = arena_tensor(&b->memory, dt, dims, n_dims);
    memset(t->data, 0, tensor_bytes(t));
    CHECK(b->n_out < BENCH_MAX_OUT, "more than %d outputs", BENCH_MAX_OUT);
    b->out[b->n_out++] = t;
    return t;
}

tensor *bench_i32(bench_case *b, const int64_t *dims, int n_dims) {
    tensor *t = bench_out(b, DT_I32, dims, n_dims);
    b->n_out--;
    return t;
}

tensor *bench_in(bench_case *b, const int64_t *dims, int n_dims) {
    tensor *t = bench_out(b, DT_F32, dims, n_dims);
    b->n_out--;
    uint32_t state = (uint32_t)b->memory.used;
    for (int64_t i = 0, n = tensor_count(t); i < n; i++) {
        state = state * 1664525u + 1013904223u;
        F32(t)[i] = (float)(state >> 8) * (2.0f / 16777216.0f) - 1;
    }
    return t;
}

tensor *bench_first(bench_case *b, int64_t n_rows, int n_samples) {
    tensor *t = bench_i32(b, DIMS(n_samples + 1));
    for (int i = 0; i <= n_samples; i++) I32(t)[i] = (int32_t)(n_rows * i / n_samples);
    return t;
}

static void clear_outputs(const bench_case *b) {
    for (int i = 0; i < b->n_out; i++) memset(b->out[i]->data, 0, tensor_bytes(b->out[i]));
}

static double number(const tensor *t, const void *data, int64_t i) {
    switch (t->dt) {
    case DT_F32:
        return ((const float *)data)[i];
    case DT_F64:
        return ((const double *)data)[i];
    default:
        return ((const int32_t *)data)[i];
    }
}

/* Largest error over largest value, worst output; NaN comes out as infinity. */
static double compare(const bench_case *b, void *const *want) {
    double worst = 0;
    for (int k = 0; k < b->n_out; k++) {
        double max = 0, err = 0;
        for (int64_t i = 0, n = tensor_count(b->out[k]); i < n; i++) {
            double w = number(b->out[k], want[k], i), g = number(b->out[k], b->out[k]->data, i);
            double e = w == g ? 0 : fabs(g - w);
            if (!(e <= err)) err = isfinite(e) ? e : INFINITY;
            if (isfinite(w) && fabs(w) > max) max = fabs(w);
        }
        if (err > 0) err = max > 0 ? err / max : INFINITY;
        if (err > worst) worst = err;
    }
    return worst;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void shape_words(const bench_row *r, char out[128]) {
    const char *p = r->shape_text;
    int         n = 0;
    out[0] = 0;
    for (int i = 0; *p; i++) {
        int len = (int)strcspn(p, " ");
        n += snprintf(out + n, (size_t)(128 - n), "%s%.*s=%d", i ? " " : "", len, p, r->shape[i]);
        p += len + (p[len] == ' ');
    }
}

/* Checks, times, prints. False when the result is wrong. */
static bool bench_one(const bench_row *r, bench_case *b, ctx *cpu, ctx *ref, FILE *csv, const char *host) {
    static double time[MAX_RUNS];
    void         *want[BENCH_MAX_OUT];
    char          shape[128];
    shape_words(r, shape);
    arena_reset(&b->memory, 0);
    b->n_out = 0;
    b->flops = b->bytes = 0;
    r->setup(b, r->shape);
    clear_outputs(b);
    double t0 = now_seconds();
    r->fn(ref, &b->args);
    double ref_us = (now_seconds() - t0) * 1e6;
    for (int k = 0; k < b->n_out; k++) {
        want[k] = arena_alloc(&b->memory, tensor_bytes(b->out[k]));
        memcpy(want[k], b->out[k]->data, tensor_bytes(b->out[k]));
    }
    clear_outputs(b);
    r->fn(cpu, &b->args);
    double err = compare(b, want);
    if (!(err <= TOLERANCE)) {
        printf("%-18s %-32s WRONG: error %.2e of the largest value; not timed\n", r->op, shape, err);
        return false;
    }
    int    n = 0;
    double start = now_seconds();
    for (int i = 0; i < 3; i++) r->fn(cpu, &b->args); /* warm-up, beside the checked run */
    start = now_seconds();
    while (n < MIN_RUNS || (n < MAX_RUNS && now_seconds() - start < MIN_SECONDS)) {
        double t = now_seconds();
        r->fn(cpu, &b->args);
        time[n++] = (now_seconds() - t) * 1e6;
    }
    qsort(time, (size_t)n, sizeof *time, ascending);
    double median = time[n / 2], p95 = time[(int)(0.95 * (n - 1))];
    double gflops = b->flops / median * 1e-3, gbytes = b->bytes / median * 1e-3;
    printf("%-18s %-32s %10.1f %10.1f %9.1f %8.2f %8.1f\n", r->op, shape, median, p95, gflops, gbytes, ref_us / median);
    if (csv)
        fprintf(csv, "%s,%s,%s,%s,%d,%d,%.2f,%.2f,%.3f,%.3f,%.2f\n", D3S2_GIT_HASH, host, r->op, shape,
                omp_get_max_threads(), n, median, p95, gflops, gbytes, ref_us / median);
    fflush(stdout);
    return true;
}

static void usage(FILE *f) {
    fprintf(f, "usage: d3s2 bench [FILTER] [--csv FILE]\n"
               "  Times every op whose name contains FILTER on the CPU, after checking it against the reference.\n"
               "  --csv FILE   appends one line per row, with git hash, host, threads and shape\n");
}

int bench_run(int argc, char **argv) {
    const char *filter = "", *path = NULL;
    char        host[64] = "?";
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            usage(stdout);
            return ST_OK;
        }
        if (!strcmp(argv[i], "--csv") && i + 1 < argc) {
            path = argv[++i];
        } else if (argv[i][0] != '-' && !*filter) {
            filter = argv[i];
        } else {
            fprintf(stderr, "d3s2: error: bench does not know '%s'\n", argv[i]);
            usage(stderr);
            return ST_USAGE;
        }
    }
    gethostname(host, sizeof host - 1);
    FILE *csv = path ? fopen(path, "a") : NULL;
    if (path && !csv) {
        fprintf(stderr, "d3s2: error: cannot write %s\n", path);
        return ST_IO;
    }
    if (csv && ftell(csv) == 0)
        fprintf(csv, "git,host,op,shape,threads,runs,median_us,p95_us,gflops,gbytes_s,speedup_over_ref\n");
    ctx        ref = {.be = &backend_ref, .scratch = arena_new("scratch", SCRATCH), .deterministic = true};
    ctx        cpu = ref;
    bench_case b = {.memory = arena_new("bench", MEMORY), .prepare = &ref};
    cpu.be = &backend_cpu;
    printf("%s, %d threads, git %s; speed-up is over the reference\n", host, omp_get_max_threads(), D3S2_GIT_HASH);
    printf("%-18s %-32s %10s %10s %9s %8s %8s\n", "op", "shape", "median us", "p95 us", "GFLOP/s", "GB/s", "speed-up");
    const bench_row *tables[] = {bench_rows_dense, bench_rows_sparse};
    int              n_rows = 0, n_wrong = 0;
    for (int t = 0; t < 2; t++)
        for (const bench_row *r = tables[t]; r->op; r++) {
            if (!strstr(r->op, filter)) continue;
            n_rows++;
            n_wrong += !bench_one(r, &b, &cpu, &ref, csv, host);
        }
    arena_free(&b.memory);
    arena_free(&ref.scratch);
    bool written = !csv || fclose(csv) == 0;
    if (!written) fprintf(stderr, "d3s2: error: cannot write %s\n", path);
    if (n_rows == 0) fprintf(stderr, "d3s2: error: no op's name contains '%s'\n", filter);
    if (n_rows == 0) return ST_USAGE;
    return n_wrong ? ST_INTERNAL : written ? ST_OK : ST_IO;
}
