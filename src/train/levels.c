#include "train/levels.h"

static const char *why_not(const options *o, const comm_nodes *n) {
    if (o->train.reduce_levels == opt_train_reduce_levels_off) return "train.reduce_levels=off";
    if (o->train.reduce_levels == opt_train_reduce_levels_on) return NULL;
    return n->n == 1             ? "one node"
           : n->least != n->most ? "nodes of different numbers of ranks"
           : n->most == 1        ? "one rank a node"
                                 : NULL;
}

bool levels_choose(const options *o, comm *c, int *nodes, status *st) {
    comm_nodes n = comm_nodes_of(c, (int)o->train.node_ranks);
    *nodes = n.n;
    if (c->size == 1) return true;
    const char *flat = why_not(o, &n);
    if (flat) {
        log_info("sums go over all %d ranks at once: %s", c->size, flat);
        return true;
    }
    if (n.least != n.most)
        return status_set(st, ST_CONFIG,
                          "train.reduce_levels=on, but %d nodes have %d to %d ranks: start as many on each, set "
                          "train.node_ranks to a divisor of %d, or set train.reduce_levels=auto",
                          n.n, n.least, n.most, c->size);
    comm_levels_open(c, (int)o->train.node_ranks);
    log_info("sums go by levels: inside %d nodes of %d ranks each, then between them", n.n, n.most);
    return true;
}
