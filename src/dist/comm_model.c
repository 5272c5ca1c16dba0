#include "dist/comm_model.h"

#include <math.h>

static int nodes_of(const comm_links *l, int ranks) {
    return (ranks + l->node_gpus - 1) / l->node_gpus;
}

/* Of the narrowest place on a ring through all ranks. */
static double ring_rate(const comm_links *l, int ranks) {
    double cards = l->cards * l->between.rate;
    return nodes_of(l, ranks) > 1 && cards < l->inside.rate ? cards : l->inside.rate;
}

double comm_ring_seconds(const comm_links *l, int ranks, double bytes) {
    double n = ranks, hop = nodes_of(l, ranks) > 1 ? fmax(l->inside.latency, l->between.latency) : l->inside.latency;
    if (ranks <= 1) return 0;
    return 2 * (n - 1) * hop + 2 * (n - 1) / n * bytes / ring_rate(l, ranks);
}

/* Reduce-scatter or all-gather inside a node. */
static double inside_seconds(const comm_links *l, double in, double bytes) {
    return (in - 1) * l->inside.latency + (in - 1) / in * bytes / l->inside.rate;
}

/* All-reduce by trees between nodes, all cards of a node at work. */
static double trees_seconds(const comm_links *l, double nodes, double bytes) {
    if (nodes <= 1) return 0;
    return 2 * ceil(log2(nodes)) * l->between.latency + 2 * (nodes - 1) / nodes * bytes / (l->cards * l->between.rate);
}

double comm_levels_seconds(const comm_links *l, int ranks, double bytes) {
    double in = ranks < l->node_gpus ? ranks : l->node_gpus;
    if (ranks <= 1) return 0;
    return 2 * inside_seconds(l, in, bytes) + trees_seconds(l, nodes_of(l, ranks), bytes);
}

double comm_levels_slices_seconds(const comm_links *l, int ranks, double bytes, int owners) {
    double nodes = nodes_of(l, ranks), in = ranks < l->node_gpus ? ranks : l->node_gpus, between = 0;
    if (ranks <= 1 || bytes <= 0) return 0;
    if (nodes > COMM_CHAIN_NODES)
        between = trees_seconds(l, nodes, bytes);
    else if (nodes > 1)
        between = (nodes - 1) * l->between.latency + bytes / (l->cards * l->between.rate);
    double own = bytes / (owners > 1 ? owners : 1);
    double lacks = in > 1 ? l->inside.latency + (in - 1) / in * own / l->inside.rate : 0;
    return inside_seconds(l, in, bytes) + between + lacks;
}

double comm_chain_seconds(const comm_links *l, int ranks, double bytes, int pieces) {
    double nodes = nodes_of(l, ranks), hop = nodes > 1 ? l->between.latency : l->inside.latency;
    if (ranks <= 1 || bytes <= 0) return 0;
    double first = (ranks - nodes) * l->inside.latency + (nodes - 1) * l->between.latency;
    return first + (pieces > 1 ? pieces - 1 : 0) * hop + bytes / ring_rate(l, ranks);
}

double comm_exposed(const double *ready, const double *seconds, int n, double end, double *busy) {
    double queue = 0, sum = 0;
    for (int i = 0; i < n; i++) {
        queue = fmax(queue, ready[i]) + seconds[i];
        sum += seconds[i];
    }
    if (busy) *busy = sum;
    return fmax(queue - end, 0);
}
