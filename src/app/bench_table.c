#include "app/bench_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Address space, not memory: half of the machine's, at most 48 GB. */
static const size_t MEMORY = (size_t)48 << 30, SCRATCH = (size_t)256 << 20;

static bool cannot_write(const char *path) {
    fprintf(stderr, "d3s2: error: %s: cannot write: %s\n", path, strerror(errno));
    return false;
}

bool bench_sink_open(bench_sink *s, const char *path) {
    *s = (bench_sink){.host = "?"};
    gethostname(s->host, sizeof s->host - 1);
    return !path || (s->csv = fopen(path, "a")) || cannot_write(path);
}

bool bench_sink_close(bench_sink *s, const char *path) {
    FILE *f = s->csv;
    s->csv = NULL;
    return !f || fclose(f) == 0 || cannot_write(path);
}

bool bench_table_open(bench_table *t, dtype act, const bench_sink *sink) {
    const char *why;
    *t = (bench_table){.act = act, .sink = sink};
    if (!bench_gpu_open(&t->g, act, &why)) {
        fprintf(stderr, "d3s2: error: no GPU to time: %s\n", why);
        return false;
    }
    size_t half = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE) / 2;
    t->ref = (ctx){.be = &backend_ref, .scratch = arena_new("scratch", SCRATCH), .deterministic = true};
    t->gpu = t->ref;
    t->gpu.be = bench_gpu_backend();
    t->b.memory = arena_new("bench", half < MEMORY ? half : MEMORY);
    t->b.prepare = &t->gpu;
    printf("%s, %s, %s, git %s: matrix product %.1f TFLOP/s, copy %.0f GB/s\n", sink->host, t->g.name, dtype_name(act),
           D3S2_GIT_HASH, t->g.peak.gemm * 1e-12, t->g.peak.copy * 1e-9);
    printf("Checked against the reference at a smaller shape. Rates are of the cold median, bytes are read or written "
           "once.\n");
    printf("%-18s %-44s %10s %10s %10s %8s %8s %6s %6s  %s\n", "op", "shape", "warm us", "cold us", "cold p95",
           "TFLOP/s", "GB/s", "% gemm", "% copy", "error");
    if (!sink->csv) return true;
    if (ftell(sink->csv) == 0)
        fprintf(sink->csv, "git,host,device,dtype,op,shape,checked_at,runs,warm_us,warm_p95_us,cold_us,cold_p95_us,"
                           "tflops,gbytes_s,share_of_gemm,share_of_copy,error\n");
    fprintf(sink->csv, "%s,%s,%s,%s,peak,,,0,0,0,0,0,%.3f,%.1f,1,1,0\n", D3S2_GIT_HASH, sink->host, t->g.name,
            dtype_name(act), t->g.peak.gemm * 1e-12, t->g.peak.copy * 1e-9);
    return true;
}

void bench_table_close(bench_table *t) {
    arena_free(&t->ref.scratch);
    arena_free(&t->b.memory);
    bench_gpu_close();
}

/* The result at the smaller shape: on the GPU, and of the reference on the same inputs. */
static double check(bench_table *t, const bench_row *r) {
    void         *want[BENCH_MAX_OUT];
    bench_case   *b = &t->b;
    const tensor *coord = b->coord;
    b->blank = false;
    b->coord = NULL;
    bench_setup(b, r, r->check);
    b->coord = coord;
    bench_gpu_round(r->op, &b->args);
    bench_clear(b);
    op_table[r->op].front(&t->ref, &b->args);
    bench_keep(b, want);
    bench_clear(b);
    op_table[r->op].front(&t->gpu, &b->args);
    return bench_error(b, want);
}

bool bench_table_row(bench_table *t, const bench_row *r, bench_times *times) {
    char        shape[128], checked[128];
    bench_case *b = &t->b;
    FILE       *csv = t->sink->csv;
    const char *op = op_table[r->op].name;
    double      err = check(t, r), tolerance = t->act == DT_BF16 ? BENCH_TOLERANCE_16 : BENCH_TOLERANCE;
    bench_words(r, r->shape, shape);
    bench_words(r, r->check, checked);
    if (!(err <= tolerance)) {
        printf("%-18s %-44s WRONG at %s: error %.2e of the largest value; not timed\n", op, shape, checked, err);
        return false;
    }
    b->blank = true;
    bench_setup(b, r, r->shape);
    bench_times m = bench_gpu_time(r->op, &b->args);
    double      flops = b->flops / m.cold * 1e6, bytes = m.bytes / m.cold * 1e6;
    bench_peaks peak = t->g.peak;
    printf("%-18s %-44s %10.1f %10.1f %10.1f %8.2f %8.1f %6.1f %6.1f  %.0e\n", op, shape, m.warm, m.cold, m.cold_p95,
           flops * 1e-12, bytes * 1e-9, 100 * flops / peak.gemm, 100 * bytes / peak.copy, err);
    if (csv)
        fprintf(csv, "%s,%s,%s,%s,%s,%s,%s,%d,%.2f,%.2f,%.2f,%.2f,%.3f,%.1f,%.4f,%.4f,%.2e\n", D3S2_GIT_HASH,
                t->sink->host, t->g.name, dtype_name(t->act), op, shape, checked, m.runs, m.warm, m.warm_p95, m.cold,
                m.cold_p95, flops * 1e-12, bytes * 1e-9, flops / peak.gemm, bytes / peak.copy, err);
    fflush(stdout);
    if (times) *times = m;
    return true;
}

bool bench_whole(const char *text, int least, int *out) {
    char *end;
    long  x = strtol(text, &end, 10);
    *out = (int)x;
    return *text && !*end && x >= least && x <= 1 << 22;
}

bool bench_sizes_of(const char *text, int least, int out[BENCH_MOST_SIZES], int *n) {
    char copy[256], *at = NULL;
    snprintf(copy, sizeof copy, "%s", text);
    *n = 0;
    for (char *word = strtok_r(copy, ",", &at); word; word = strtok_r(NULL, ",", &at))
        if (*n == BENCH_MOST_SIZES || !bench_whole(word, least, &out[(*n)++])) return false;
    return *n > 0;
}

int bench_gpu_rows(const char *filter, dtype act, const bench_sink *sink, int *n_wrong) {
    const bench_row *tables[] = {bench_gpu_dense, bench_gpu_conv, bench_gpu_sparse, bench_gpu_attention};
    bench_table      t;
    int              n = 0;
    if (!bench_table_open(&t, act, sink)) return -1;
    for (int k = 0; k < 4; k++)
        for (const bench_row *r = tables[k]; r->setup; r++) {
            if (!strstr(op_table[r->op].name, filter)) continue;
            n++;
            *n_wrong += !bench_table_row(&t, r, NULL);
        }
    bench_table_close(&t);
    return n;
}
