#include "app/bench_ssa.h"

#include <stdlib.h>
#include <string.h>

#include "app/bench_table.h"
#include "data/shard.h"

typedef struct {
    int         tokens[BENCH_MOST_SIZES], n_sizes, m_cmp, topk, near, heads, kv_heads, width;
    const char *shards, *csv;
} request;

static bool read_words(int argc, char **argv, request *r) {
    *r = (request){
        .tokens = {131072}, .n_sizes = 1, .m_cmp = 8, .topk = 8, .near = 1, .heads = 32, .kv_heads = 2, .width = 32};
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        bool        ok;
        if (!strcmp(word, "--random")) {
            r->near = 0;
            continue;
        }
        if (!strcmp(word, "--device")) /* there is one place it can run */
            ok = !strcmp(value, "cuda");
        else if (!strcmp(word, "--tokens"))
            ok = bench_sizes_of(value, 512, r->tokens, &r->n_sizes);
        else if (!strcmp(word, "--cmp"))
            ok = bench_whole(value, 1, &r->m_cmp) && 8 % r->m_cmp == 0;
        else if (!strcmp(word, "--topk"))
            ok = bench_whole(value, 1, &r->topk);
        else if (!strcmp(word, "--heads"))
            ok = bench_whole(value, 1, &r->heads);
        else if (!strcmp(word, "--kv-heads"))
            ok = bench_whole(value, 1, &r->kv_heads);
        else if (!strcmp(word, "--width"))
            ok = bench_whole(value, 1, &r->width);
        else if (!strcmp(word, "--shards"))
            ok = *(r->shards = value) != 0;
        else if (!strcmp(word, "--csv"))
            ok = *(r->csv = value) != 0;
        else
            ok = false;
        if (!ok) {
            fprintf(stderr, "d3s2: error: bench ssa: '%s %s' is not understood; see d3s2 bench --help\n", word, value);
            return false;
        }
        i++;
    }
    if (r->heads % r->kv_heads == 0) return true;
    fprintf(stderr, "d3s2: error: bench ssa: %d heads do not divide among %d key heads\n", r->heads, r->kv_heads);
    return false;
}

/* The tiles of up to BENCH_MOST_SIZES samples of a folder, in the order of their files. */
static int read_shapes(const char *folder, tensor *coord, arena *a, status *st) {
    shard *s;
    int    n_shards, n = 0;
    if (!shard_open_all(folder, &s, &n_shards, st)) return 0;
    for (int i = 0; i < n_shards; i++)
        for (int64_t k = 0; k < s[i].n_samples && n < BENCH_MOST_SIZES; k++) {
            sample x = {0};
            if (!shard_read_sample(&s[i], k, false, &x, st)) break;
            coord[n] = arena_tensor(a, DT_I32, DIMS(x.n_tiles, 3));
            for (int64_t c = 0; c < 3 * x.n_tiles; c++) I32(&coord[n])[c] = x.coord[c];
            printf("%s: %lld tokens\n", x.source, (long long)x.n_tiles);
            sample_free(&x);
            n++;
        }
    shard_close_all(s, n_shards);
    return status_ok(st) ? n : 0;
}

/* All branches at one size; adds up what the core takes. */
static bool one_size(bench_table *t, const request *r, int tokens) {
    double sum[2] = {0};
    bool   ok = true;
    for (const bench_ssa_row *row = bench_ssa_rows; row->row.setup; row++) {
        bench_row   at = row->row;
        bench_times m;
        int check = 700, shape[BENCH_SHAPE] = {tokens, r->heads, r->kv_heads, r->width, r->topk, r->m_cmp, r->near};
        memcpy(at.shape, shape, sizeof shape);
        memcpy(at.check, shape, sizeof shape);
        at.check[0] = check;
        if (bench_table_row(t, &at, &m))
            sum[row->backward] += m.warm * 1e-3;
        else
            ok = false;
    }
    printf("%-18s N=%d H=%d G=%d D=%d m=%d K=%d %s: forward %.3f ms, backward %.3f ms%s\n", "SSA core", tokens,
           r->heads, r->kv_heads, r->width, r->m_cmp, r->topk, r->near ? "near" : "random", sum[0], sum[1],
           ok ? "" : " WITHOUT WHAT IS WRONG");
    static const char *const way[] = {"fwd", "bwd"};
    for (int i = 0; i < 2 && t->sink->csv; i++)
        fprintf(t->sink->csv, "%s,%s,%s,%s,ssa_core_%s,N=%d H=%d G=%d D=%d m=%d K=%d near=%d,,0,%.2f,0,0,0,0,0,0,0,0\n",
                D3S2_GIT_HASH, t->sink->host, t->g.name, dtype_name(t->act), way[i], tokens, r->heads, r->kv_heads,
                r->width, r->m_cmp, r->topk, r->near, sum[i] * 1e3);
    fflush(stdout);
    return ok;
}

int bench_ssa(int argc, char **argv) {
    request     r;
    bench_table t;
    bench_sink  sink;
    arena       places = arena_new("shapes", (size_t)1 << 30);
    tensor      coord[BENCH_MOST_SIZES];
    status      st = {0};
    bool        ok = true;
    if (!read_words(argc, argv, &r)) return ST_USAGE;
    if (r.shards && !(r.n_sizes = read_shapes(r.shards, coord, &places, &st))) {
        fprintf(stderr, "d3s2: error: %s\n", status_ok(&st) ? "no sample in the shards" : st.text);
        return ST_NO_INPUT;
    }
    if (!bench_sink_open(&sink, r.csv)) return ST_IO;
    if (!bench_table_open(&t, DT_BF16, &sink)) return ST_CONFIG;
    for (int i = 0; i < r.n_sizes; i++) {
        t.b.coord = r.shards ? &coord[i] : NULL;
        ok &= one_size(&t, &r, r.shards ? (int)coord[i].dim[0] : r.tokens[i]);
    }
    bench_table_close(&t);
    arena_free(&places);
    if (!bench_sink_close(&sink, r.csv)) return ST_IO;
    return ok ? ST_OK : ST_INTERNAL;
}
