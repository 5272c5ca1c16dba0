#include "app/traffic.h"

#include <math.h>
#include <stdlib.h>

#include "app/net_params.h"
#include "dist/buckets.h"
#include "dist/comm_model.h"
#include "train/optimizer.h"
#include "train/overlap.h"

static void *grab(int64_t n, size_t width) {
    void *p = calloc((size_t)(n > 0 ? n : 1), width);
    CHECK(p, "no memory for %lld buckets", (long long)n);
    return p;
}

static comm_links links_of(const options *o) {
    return (comm_links){.inside = {o->cluster.inside_us * 1e-6, o->cluster.inside_gb_s * 1e9},
                        .between = {o->cluster.between_us * 1e-6, o->cluster.between_gb_s * 1e9},
                        .node_gpus = (int)o->cluster.node_gpus,
                        .cards = (int)o->cluster.cards};
}

static int nodes_of(const options *o, int ranks) {
    return (int)((ranks + o->cluster.node_gpus - 1) / o->cluster.node_gpus);
}

/* What training does by itself: train.reduce_levels=auto. */
static int reduce_of(const options *o, int ranks) {
    int64_t node = o->cluster.node_gpus;
    if (o->cluster.reduce != opt_cluster_reduce_auto) return (int)o->cluster.reduce;
    return ranks > node && node > 1 && ranks % node == 0 ? opt_cluster_reduce_levels : opt_cluster_reduce_slices;
}

/* Seconds of a sum: of slices, or with an optimiser that is not sharded for all. */
static double sum_seconds(const options *o, int ranks, double bytes, int pieces, bool latency) {
    comm_links l = links_of(o);
    bool       whole = !o->train.sharded_optimizer;
    if (!latency) l.inside.latency = l.between.latency = 0;
    switch (reduce_of(o, ranks)) {
    case opt_cluster_reduce_ring:
        return comm_ring_seconds(&l, ranks, bytes) / (whole ? 1 : 2);
    case opt_cluster_reduce_levels:
        return whole ? comm_levels_seconds(&l, ranks, bytes) : comm_levels_slices_seconds(&l, ranks, bytes, pieces);
    default:
        return whole ? comm_ring_seconds(&l, ranks, bytes) : comm_chain_seconds(&l, ranks, bytes, pieces);
    }
}

/* Of slices that go round: half of a sum for all. */
static double share_seconds(const options *o, int ranks, double bytes, int pieces) {
    comm_links l = links_of(o);
    switch (reduce_of(o, ranks)) {
    case opt_cluster_reduce_ring:
        return comm_ring_seconds(&l, ranks, bytes) / 2;
    case opt_cluster_reduce_levels:
        return comm_levels_seconds(&l, ranks, bytes) / 2;
    default:
        return comm_chain_seconds(&l, ranks, bytes, pieces);
    }
}

/* Slices that are not empty and have a part in [first, first + count). */
static int owners(const int64_t *slice, int ranks, int64_t first, int64_t count) {
    int n = 0, low = 0, high = ranks;
    while (low < high) { /* the first slice that ends behind `first` */
        int middle = (low + high) / 2;
        if (slice[middle + 1] > first)
            high = middle;
        else
            low = middle + 1;
    }
    for (int r = low; r < ranks && slice[r] < first + count; r++) n += slice[r + 1] > slice[r];
    return n;
}

static void make_room(traffic *t, int n) {
    *t = (traffic){.n = n};
    t->seconds = grab(n, sizeof *t->seconds);
    t->at = grab(n, sizeof *t->at);
    t->ready = grab(n, sizeof *t->ready);
}

static void add_bucket(traffic *t, const options *o, int ranks, int i, double at, double bytes, int pieces) {
    t->at[i] = at;
    t->seconds[i] = sum_seconds(o, ranks, bytes, pieces, true);
    double transfer = sum_seconds(o, ranks, bytes, pieces, false);
    t->transfer_s += transfer;
    if (overlap_of(o, true, nodes_of(o, ranks))) t->beside_s += transfer;
}

/* Of gradients of so many bytes, and of the weights that go round behind them; `pieces`: ranks that own any. */
static void count_bytes(traffic *t, const options *o, int ranks, double gradients, double weights, int pieces) {
    bool whole = !o->train.sharded_optimizer;
    if (!whole) t->share_s = share_seconds(o, ranks, weights, pieces);
    t->bytes = ranks == 1 ? 0 : whole ? 2 * gradients : gradients + weights;
}

void traffic_of_network(traffic *t, const options *o, int ranks, int weight_width) {
    net_params *net = grab(1, sizeof *net);
    net_params_init(net, o);
    const params *p = net->p;
    comm          c = {.size = ranks};
    buckets       b;
    bucket_row   *row = grab(p->n, sizeof *row);
    int64_t      *slice = grab(ranks + 1, sizeof *slice);
    double        wide = o->train.reduce_dtype == opt_train_reduce_dtype_bf16 ? 2 : 4;
    for (int i = 0; i < p->n; i++) row[i] = (bucket_row){p->row[i]->offset, p->row[i]->count, p->row[i]->layer};
    buckets_init(&b, &c, row, p->n, p->total, overlap_bucket_bytes(o, true, nodes_of(o, ranks)));
    optimizer_slices(p, o, ranks, slice);
    make_room(t, b.n);
    for (int i = 0; i < b.n; i++) {
        const bucket *k = &b.item[i];
        add_bucket(t, o, ranks, i, k->min_layer < 0 ? 1 : 1 - (double)k->min_layer / net->n_layers,
                   wide * (double)k->count, owners(slice, ranks, k->first, k->count));
    }
    t->numbers = (double)p->total;
    count_bytes(t, o, ranks, wide * t->numbers, t->numbers * weight_width, owners(slice, ranks, 0, p->total));
    buckets_free(&b);
    free(row);
    free(slice);
    net_params_free(net);
    free(net);
}

void traffic_even(traffic *t, const options *o, int ranks, double gradient_bytes, double weight_bytes) {
    int    n = (int)fmax(1, ceil(gradient_bytes / (double)overlap_bucket_bytes(o, true, nodes_of(o, ranks))));
    double bytes = gradient_bytes / n;
    int    pieces = (int)fmin(ranks, ceil((double)ranks / n) + 1);
    make_room(t, n);
    for (int i = 0; i < n; i++) add_bucket(t, o, ranks, i, (i + 1.0) / n, bytes, pieces);
    count_bytes(t, o, ranks, gradient_bytes, weight_bytes, ranks);
}

void traffic_free(traffic *t) {
    free(t->seconds);
    free(t->at);
    free(t->ready);
}

double traffic_exposed(traffic *t, double backward, double *busy) {
    for (int i = 0; i < t->n; i++) t->ready[i] = backward * t->at[i];
    return comm_exposed(t->ready, t->seconds, t->n, backward, busy);
}
