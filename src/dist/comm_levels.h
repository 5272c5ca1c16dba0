/* Two levels of ranks behind a comm; inside src/dist. A rank has a place in its node, and a column is the ranks of one
 * place; a sum of n elements goes
 *
 *     node 0   0 1 2 3   inside: a row         1  inside    each place gets the node's sum of its part of the n
 *     node 1   4 5 6 7   between: a column     2  between   the column sums that part over the nodes (NCCL, slices and
 *                                                           few nodes: to the nodes of the owners alone)
 *                                              3  inside    the parts go to the owners of slices, or to all
 *
 * and what an owner shares goes down its column first and from there along the rows. All links between nodes work at
 * once, and no chain is longer than a row or a column. Slices of a column are neighbours in the slab: rank (node,
 * place) owns slice place * nodes + node, so what a column or a node gathers is one piece of memory. */
#pragma once
#include "dist/comm.h"

typedef struct level_sum level_sum;

struct levels {
    comm       inside, between;    /* this rank's row and column */
    int        nodes, places;      /* how many; their product is the number of ranks */
    int        node, place;        /* of this rank: its ranks in between and inside */
    int       *node_of, *place_of; /* [size] of each rank */
    int       *rank_at;            /* [size] by node * places + place */
    level_sum *head, *tail;        /* sums over MPI under way, oldest first */
};

int     levels_owner(const struct levels *v, int slice); /* its rank */
/* Part k of n elements begins here: even parts, the rest in the last; part `places` begins at n. */
int64_t levels_part(const struct levels *v, int64_t n, int k);
/* What step 3 moves inside this node, from one place to another: elements of part `from` that `to` owns (first: as in
 * comm_sum_slices_start; NULL: all of the part). Returns their number, which may be 0. */
int64_t levels_move(const struct levels *v, int64_t n, const int64_t *first, int from, int to, int64_t *at);
/* Whether pieces i .. i+size-1 are one slice of each rank, equally long and one behind the other. */
bool    levels_even(const struct levels *v, const comm_piece *piece, int n, int i);
/* Pieces i .. are joined while they are neighbours in memory and of one column; returns the first behind them. */
int     levels_join(const struct levels *v, const comm_piece *piece, int n, int i, tensor *x);

/* Host memory: f32. As comm_sum_slices_start; `first` is copied. */
level_sum *levels_sum_start(struct levels *v, const tensor *x, const int64_t *first);
void       levels_progress(struct levels *v);
void       levels_wait(level_sum *s); /* frees s */
void       levels_share(const struct levels *v, const comm_piece *piece, int n);
