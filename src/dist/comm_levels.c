#include "dist/comm_levels.h"

#include <stdlib.h>
#include <string.h>

#include "core/beat.h"
#include "dist/comm_mpi.h"

/* ---- who is where --------------------------------------------------------------------------------------------- */

comm_nodes comm_nodes_of(const comm *c, int node_ranks) {
    int rank, size;
    comm_local(c, &rank, &size);
    if (node_ranks > 0) {
        int before = c->rank / node_ranks * node_ranks;
        rank = c->rank - before;
        size = c->size - before < node_ranks ? c->size - before : node_ranks;
    }
    int64_t n = rank == 0, most[2] = {size, -size};
    comm_sum_i64(c, &n, 1);
    comm_max_i64(c, most, 2);
    return (comm_nodes){(int)n, (int)-most[1], (int)most[0]};
}

/* The ranks of this rank's node, in their order. */
static comm node_comm(const comm *c, int node_ranks) {
    MPI_Comm m;
    if (node_ranks > 0)
        MPI_DO(MPI_Comm_split(ranks_of(c)->main, c->rank / node_ranks, c->rank, &m));
    else
        MPI_DO(MPI_Comm_split_type(ranks_of(c)->main, MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &m));
    return comm_wrap(m);
}

typedef struct {
    int64_t first_rank, place; /* of its node; in it */
} seat;

/* Nodes are numbered by their first ranks. */
static void find_seats(struct levels *v, const comm *c) {
    seat *all = malloc((size_t)c->size * sizeof *all), own = {c->rank, v->inside.rank};
    CHECK(all, "no memory for %d ranks", c->size);
    comm_bcast(&v->inside, &own.first_rank, sizeof own.first_rank, 0);
    comm_all_gather(c, &own, all, sizeof own);
    for (int r = 0, n = 0; r < c->size; r++) {
        if (all[r].first_rank == r) v->node_of[r] = n++;
        v->node_of[r] = v->node_of[all[r].first_rank];
        v->place_of[r] = (int)all[r].place;
        v->rank_at[v->node_of[r] * v->places + v->place_of[r]] = r;
    }
    free(all);
}

void comm_levels_open(comm *c, int node_ranks) {
    comm_nodes n = comm_nodes_of(c, node_ranks);
    CHECK(!c->levels && !c->nccl, "levels are opened once, and before the GPU");
    CHECK(n.least == n.most, "levels over %d nodes of %d to %d ranks", n.n, n.least, n.most);
    if (!c->mpi) return;
    struct levels *v = calloc(1, sizeof *v);
    int           *table = calloc(3 * (size_t)c->size, sizeof *table);
    MPI_Comm       column;
    CHECK(v && table, "no memory for %d ranks", c->size);
    *v = (struct levels){.inside = node_comm(c, node_ranks),
                         .nodes = n.n,
                         .places = n.most,
                         .node_of = table,
                         .place_of = table + c->size,
                         .rank_at = table + 2 * c->size};
    find_seats(v, c);
    v->node = v->node_of[c->rank];
    v->place = v->inside.rank;
    MPI_DO(MPI_Comm_split(ranks_of(c)->main, v->place, v->node, &column));
    v->between = comm_wrap(column);
    CHECK(v->inside.size == v->places && v->between.size == v->nodes, "%d ranks: a node of %d, a column of %d", c->size,
          v->inside.size, v->between.size);
    c->levels = v;
}

void comm_levels_close(comm *c) {
    struct levels *v = c->levels;
    if (!v) return;
    CHECK(!v->head, "a sum by levels is still under way");
    comm_free(&v->inside);
    comm_free(&v->between);
    free(v->node_of);
    free(v);
    c->levels = NULL;
}

int levels_owner(const struct levels *v, int slice) {
    return v->rank_at[slice % v->nodes * v->places + slice / v->nodes];
}

int comm_owner(const comm *c, int slice) {
    return c->levels ? levels_owner(c->levels, slice) : slice;
}

int comm_own_slice(const comm *c) {
    const struct levels *v = c->levels;
    return v ? v->place * v->nodes + v->node : c->rank;
}

/* ---- what goes where ------------------------------------------------------------------------------------------ */

int64_t levels_part(const struct levels *v, int64_t n, int k) {
    enum { ALIGN = 16 }; /* elements: NCCL is slower on memory that 16 bytes do not divide */
    return k < v->places ? n / v->places / ALIGN * ALIGN * k : n;
}

int64_t levels_move(const struct levels *v, int64_t n, const int64_t *first, int from, int to, int64_t *at) {
    int64_t begin = levels_part(v, n, from), end = levels_part(v, n, from + 1);
    if (first) {
        int s = to * v->nodes + v->node;
        if (first[s] > begin) begin = first[s];
        if (first[s + 1] < end) end = first[s + 1];
    }
    *at = begin;
    return end > begin ? end - begin : 0;
}

static const char *end_of(const tensor *x) {
    return (const char *)x->data + tensor_bytes(x);
}

bool levels_even(const struct levels *v, const comm_piece *piece, int n, int i) {
    int size = v->nodes * v->places;
    if (n - i < size || tensor_count(&piece[i].x) == 0) return false;
    for (int s = 0; s < size; s++) {
        const comm_piece *p = &piece[i + s];
        if (p->owner != levels_owner(v, s) || p->x.dt != piece[i].x.dt ||
            tensor_count(&p->x) != tensor_count(&piece[i].x) || (s > 0 && p->x.data != end_of(&p[-1].x)))
            return false;
    }
    return true;
}

int levels_join(const struct levels *v, const comm_piece *piece, int n, int i, tensor *x) {
    int     place = v->place_of[piece[i].owner], k = i + 1;
    int64_t count = tensor_count(&piece[i].x);
    for (; k < n && v->place_of[piece[k].owner] == place && piece[k].x.dt == piece[i].x.dt &&
           piece[k].x.data == end_of(&piece[k - 1].x);
         k++)
        count += tensor_count(&piece[k].x);
    *x = tensor_wrap(piece[i].x.data, piece[i].x.dt, DIMS(count));
    x->dev = piece[i].x.dev;
    return k;
}

/* ---- over MPI ------------------------------------------------------------------------------------------------- */

/* Steps begin in program order (1) or behind the same step of the sum before (2, 3), and step 3 has a communicator of
 * its own: so every rank makes the calls on each communicator in one order. */
struct level_sum {
    level_sum     *next;
    struct levels *v;
    tensor         x;
    int64_t       *first; /* [size+1], NULL: all to everybody */
    int            step;  /* under way; 4: done */
    comm_request  *sum;   /* of steps 1 and 2 */
    MPI_Request   *move;  /* of step 3 */
    int            n_moves;
};

level_sum *levels_sum_start(struct levels *v, const tensor *x, const int64_t *first) {
    level_sum *s = malloc(sizeof *s);
    int64_t   *part = malloc(((size_t)v->places + 1) * sizeof *part), n = tensor_count(x);
    size_t     bytes = ((size_t)v->nodes * (size_t)v->places + 1) * sizeof *first;
    CHECK(s && part, "no memory for a sum");
    *s = (level_sum){.v = v, .x = *x, .step = 1};
    if (first) {
        s->first = malloc(bytes);
        CHECK(s->first, "no memory for a sum");
        memcpy(s->first, first, bytes);
    }
    for (int k = 0; k <= v->places; k++) part[k] = levels_part(v, n, k);
    s->sum = mpi_sum_start(&v->inside, x, part);
    free(part);
    if (v->tail)
        v->tail->next = s;
    else
        v->head = s;
    v->tail = s;
    return s;
}

static void start_between(level_sum *s) {
    int64_t n = tensor_count(&s->x), at = levels_part(s->v, n, s->v->place);
    tensor  own = tensor_rows(&s->x, at, levels_part(s->v, n, s->v->place + 1) - at);
    s->sum = mpi_sum_start(&s->v->between, &own, NULL);
}

static int parts_of(int64_t n) {
    return (int)((n + COMM_PART_MAX - 1) / COMM_PART_MAX);
}

/* Both ends of a move cut it alike. */
static void post(level_sum *s, int64_t at, int64_t n, int to, int from) {
    MPI_Comm m = ranks_of(&s->v->inside)->spread;
    for (int64_t done = 0; done < n; done += COMM_PART_MAX) {
        float       *x = F32(&s->x) + at + done;
        int          k = (int)(n - done < COMM_PART_MAX ? n - done : COMM_PART_MAX);
        MPI_Request *r = &s->move[s->n_moves++];
        if (to >= 0)
            MPI_DO(MPI_Isend(x, k, MPI_FLOAT, to, 0, m, r));
        else
            MPI_DO(MPI_Irecv(x, k, MPI_FLOAT, from, 0, m, r));
    }
}

static void start_moves(level_sum *s) {
    const struct levels *v = s->v;
    int64_t              n = tensor_count(&s->x), at, count;
    s->move = malloc(2 * (size_t)v->places * (size_t)(1 + parts_of(n)) * sizeof(MPI_Request));
    CHECK(s->move, "no memory for %d moves", 2 * v->places);
    for (int k = 0; k < v->places; k++) {
        if (k == v->place) continue;
        count = levels_move(v, n, s->first, k, v->place, &at);
        post(s, at, count, -1, k);
        count = levels_move(v, n, s->first, v->place, k, &at);
        post(s, at, count, k, -1);
    }
}

/* Ends the step under way, if it is through or by waiting, and begins the next. */
static bool step_on(level_sum *s, bool wait) {
    int ready = 1;
    if (s->step < 3) {
        if (!wait && !mpi_sum_ready(s->sum)) return false;
        mpi_sum_finish(s->sum);
        s->sum = NULL;
        if (s->step == 1)
            start_between(s);
        else
            start_moves(s);
    } else {
        if (wait)
            MPI_DO(MPI_Waitall(s->n_moves, s->move, MPI_STATUSES_IGNORE));
        else
            MPI_DO(MPI_Testall(s->n_moves, s->move, &ready, MPI_STATUSES_IGNORE));
        if (!ready) return false;
    }
    s->step++;
    return true;
}

void levels_progress(struct levels *v) {
    int reached = 4; /* by the sum before */
    for (level_sum *s = v->head; s; s = s->next) {
        while (s->step < reached && step_on(s, false)) {
        }
        reached = s->step;
    }
}

void levels_wait(level_sum *s) {
    struct levels *v = s->v;
    CHECK(s == v->head, "reductions are waited for in the order they were started");
    levels_progress(v);
    while (s->step < 4) step_on(s, true);
    v->head = s->next;
    if (!v->head) v->tail = NULL;
    free(s->move);
    free(s->first);
    free(s);
}

static void bcast(const comm *c, const tensor *x, int root) {
    int64_t bytes = (int64_t)tensor_bytes(x);
    for (int64_t done = 0; done < bytes; done += COMM_PART_MAX) {
        int64_t n = bytes - done < COMM_PART_MAX ? bytes - done : COMM_PART_MAX;
        MPI_DO(MPI_Bcast((char *)x->data + done, (int)n, MPI_BYTE, root, ranks_of(c)->main));
    }
}

void levels_share(const struct levels *v, const comm_piece *piece, int n) {
    int64_t bytes = 0;
    for (int i = 0; i < n; i++) bytes += (int64_t)tensor_bytes(&piece[i].x);
    beat_collective("broadcast of pieces", bytes, true);
    for (int i = 0; i < n; i++)
        if (v->place_of[piece[i].owner] == v->place) bcast(&v->between, &piece[i].x, v->node_of[piece[i].owner]);
    for (int i = 0, next; i < n; i = next) {
        tensor x;
        next = levels_join(v, piece, n, i, &x);
        bcast(&v->inside, &x, v->place_of[piece[i].owner]);
    }
    beat_back();
}
