/* Sums and exchanges by levels (comm_levels.h) as NCCL's calls. */
#include "dist/comm_levels.h"
#include "dist/comm_model.h"
#include "dist/comm_nccl_cuda.h"

/* Step 2 where there are few nodes: elements begin .. end-1 go to the nodes of their owners alone. */
static void reduce_between(struct nccl *n, const tensor *x, const int64_t *first, int64_t begin, int64_t end) {
    NCCL_DO(n, ncclGroupStart());
    for (int s = 0; s < n->size; s++) {
        int64_t from = first[s] > begin ? first[s] : begin, to = first[s + 1] < end ? first[s + 1] : end;
        int     node = n->levels->node_of[levels_owner(n->levels, s)];
        if (to > from)
            NCCL_DO(n, ncclReduce(nccl_at(x, from), nccl_at(x, from), (size_t)(to - from), nccl_type(x), ncclSum, node,
                                  n->comm[GROUP_BETWEEN], nccl_stream()));
    }
    NCCL_DO(n, ncclGroupEnd());
}

/* Step 3: the parts go to the owners of slices in this node, or to all of it. */
static void move_parts(struct nccl *n, const tensor *x, const int64_t *first) {
    const struct levels *v = n->levels;
    ncclDataType_t       type = nccl_type(x);
    ncclComm_t           c = n->comm[GROUP_INSIDE];
    int64_t count = tensor_count(x), even = levels_part(v, count, 1), rest = count - even * v->places, from, k;
    NCCL_DO(n, ncclGroupStart());
    for (int p = 0; first && p < v->places; p++) {
        if (p == v->place) continue;
        if ((k = levels_move(v, count, first, v->place, p, &from)) > 0)
            NCCL_DO(n, ncclSend(nccl_at(x, from), (size_t)k, type, p, c, nccl_stream()));
        if ((k = levels_move(v, count, first, p, v->place, &from)) > 0)
            NCCL_DO(n, ncclRecv(nccl_at(x, from), (size_t)k, type, p, c, nccl_stream()));
    }
    if (!first && even > 0)
        NCCL_DO(n, ncclAllGather(nccl_at(x, even * v->place), x->data, (size_t)even, type, c, nccl_stream()));
    if (!first && rest > 0)
        NCCL_DO(n, ncclBroadcast(nccl_at(x, count - rest), nccl_at(x, count - rest), (size_t)rest, type, v->places - 1,
                                 c, nccl_stream()));
    NCCL_DO(n, ncclGroupEnd());
}

/* comm_levels.h. The rest of a count that does not divide evenly belongs to the last part. */
void nccl_sum_by_levels(struct nccl *n, const tensor *x, const int64_t *first) {
    const struct levels *v = n->levels;
    ncclDataType_t       type = nccl_type(x);
    ncclComm_t           c = n->comm[GROUP_INSIDE];
    int64_t              count = tensor_count(x), even = levels_part(v, count, 1), rest = count - even * v->places;
    int64_t              own = levels_part(v, count, v->place), n_own = levels_part(v, count, v->place + 1) - own;
    NCCL_DO(n, ncclGroupStart());
    if (even > 0)
        NCCL_DO(n, ncclReduceScatter(x->data, nccl_at(x, own), (size_t)even, type, ncclSum, c, nccl_stream()));
    if (rest > 0)
        NCCL_DO(n, ncclReduce(nccl_at(x, count - rest), nccl_at(x, count - rest), (size_t)rest, type, ncclSum,
                              v->places - 1, c, nccl_stream()));
    NCCL_DO(n, ncclGroupEnd());
    if (first && v->nodes <= COMM_CHAIN_NODES)
        reduce_between(n, x, first, own, own + n_own);
    else if (n_own > 0)
        NCCL_DO(n, ncclAllReduce(nccl_at(x, own), nccl_at(x, own), (size_t)n_own, type, ncclSum, n->comm[GROUP_BETWEEN],
                                 nccl_stream()));
    move_parts(n, x, first);
}

/* One slice of each rank, all as long: those of a column are gathered down the column, or those of the columns, which
 * their first ones begin, along the rows. */
static void gather(struct nccl *n, const comm_piece *slice, group g) {
    const struct levels *v = n->levels;
    const tensor        *x = &slice[g == GROUP_BETWEEN ? v->place * v->nodes : 0].x;
    size_t               count = (size_t)tensor_count(x) * (size_t)(g == GROUP_BETWEEN ? 1 : v->nodes);
    int                  own = g == GROUP_BETWEEN ? v->node : v->place;
    NCCL_DO(n,
            ncclAllGather(nccl_at(x, own * (int64_t)count), x->data, count, nccl_type(x), n->comm[g], nccl_stream()));
}

void nccl_share_by_levels(struct nccl *n, const comm_piece *piece, int n_pieces) {
    const struct levels *v = n->levels;
    for (group g = GROUP_BETWEEN; g != GROUP_ALL; g--) { /* down the columns, then along the rows */
        NCCL_DO(n, ncclGroupStart());
        for (int i = 0, next; i < n_pieces; i = next) {
            tensor x = piece[i].x;
            int    owner = piece[i].owner;
            next = g == GROUP_BETWEEN ? i + 1 : levels_join(v, piece, n_pieces, i, &x);
            if (levels_even(v, piece, n_pieces, i)) {
                gather(n, &piece[i], g);
                next = i + n->size;
            } else if (g == GROUP_INSIDE) {
                nccl_broadcast(n, &x, v->place_of[owner], g);
            } else if (v->place_of[owner] == v->place) {
                nccl_broadcast(n, &x, v->node_of[owner], g);
            }
        }
        NCCL_DO(n, ncclGroupEnd());
    }
}
