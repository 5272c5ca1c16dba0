#include "app/bench_vae.h"

#include <string.h>

#include "app/bench_table.h"

/* All layers at one number of tiles; adds up what they take. */
static bool one_size(bench_table *t, int tiles) {
    double sum[2] = {0};
    bool   ok = true;
    for (const bench_row *row = bench_gpu_conv; row->setup; row++) {
        bench_row   at = *row;
        bench_times m;
        at.shape[0] = tiles;
        if (bench_table_row(t, &at, &m))
            sum[row->op == OP_conv3_bwd] += m.warm * 1e-3;
        else
            ok = false;
    }
    printf("%-18s tiles=%d: forward %.3f ms, backward %.3f ms%s\n", "all convolutions", tiles, sum[0], sum[1],
           ok ? "" : " WITHOUT WHAT IS WRONG");
    fflush(stdout);
    return ok;
}

int bench_vae(int argc, char **argv) {
    int         tiles[BENCH_MOST_SIZES] = {45904}, n = 1;
    const char *csv = NULL;
    bench_table t;
    bench_sink  sink;
    bool        ok = true;
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--tiles"))
            ok = bench_sizes_of(value, 64, tiles, &n);
        else if (!strcmp(argv[i], "--csv"))
            ok = *(csv = value) != 0;
        else
            ok = !strcmp(argv[i], "--device") && !strcmp(value, "cuda"); /* there is one place it can run */
        if (ok) continue;
        fprintf(stderr, "d3s2: error: bench vae: '%s %s' is not understood; see d3s2 bench --help\n", argv[i], value);
        return ST_USAGE;
    }
    if (!bench_sink_open(&sink, csv)) return ST_IO;
    if (!bench_table_open(&t, DT_BF16, &sink)) return ST_CONFIG;
    for (int i = 0; i < n; i++) ok &= one_size(&t, tiles[i]);
    bench_table_close(&t);
    if (!bench_sink_close(&sink, csv)) return ST_IO;
    return ok ? ST_OK : ST_INTERNAL;
}
