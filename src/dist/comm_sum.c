/* Ordered sums over MPI. MPI_Allreduce is not used: its order of additions is the library's choice (size, topology,
 * arrival) and the standard does not promise the same bits on every rank. Here each rank owns a slice, gets that slice
 * of everybody (all-to-all), adds in rank order in double, and the slices go round again (all-gather): the volume of a
 * ring, bits that depend on the inputs and the number of ranks only. */
#include "core/beat.h"
#include "dist/comm_levels.h"
#include "dist/comm_mpi.h"
#include "dist/comm_nccl.h"

#include <stdlib.h>

struct sum_part {
    sum_part    *next;
    ranks       *r;
    int          rank, size;
    MPI_Datatype type;
    char        *x;        /* the part of the slab */
    char        *gathered; /* [size][own slice] */
    int         *count, *first, *own_count, *own_first;
    MPI_Request  request;
    bool         sliced; /* ends with the own slice: no second leg */
    bool         spreading, done;
};

struct comm_request {
    struct nccl *nccl;   /* or */
    level_sum   *levels; /* then there are no parts */
    int          n_parts;
    sum_part    *part;
};

static int64_t clamp(int64_t x, int64_t most) {
    return x < 0 ? 0 : x < most ? x : most;
}

/* Elements at .. at+n-1 of x. `slice`: who needs what of x; NULL: everybody everything. */
static void part_start(const comm *c, sum_part *p, char *x, int64_t at, int64_t n, const int64_t *slice,
                       MPI_Datatype type) {
    int *table = calloc((size_t)(4 * c->size), sizeof(int));
    int  width = type == MPI_FLOAT ? 4 : 8;
    CHECK(table, "no memory for a reduction");
    *p = (sum_part){.r = ranks_of(c),
                    .rank = c->rank,
                    .size = c->size,
                    .type = type,
                    .x = x + at * width,
                    .sliced = slice != NULL,
                    .count = table,
                    .first = table + c->size,
                    .own_count = table + 2 * c->size,
                    .own_first = table + 3 * c->size};
    for (int i = 0; i < p->size; i++) {
        int64_t from = slice ? slice[i] - at : n * i / p->size, end = slice ? slice[i + 1] - at : n * (i + 1) / p->size;
        p->first[i] = (int)clamp(from, n);
        p->count[i] = (int)clamp(end, n) - p->first[i];
    }
    int own = p->count[p->rank];
    for (int i = 0; i < p->size; i++) {
        p->own_count[i] = own;
        p->own_first[i] = i * own;
    }
    p->gathered = malloc((size_t)own * (size_t)p->size * (size_t)width + 1);
    CHECK(p->gathered, "no memory for a reduction of %lld elements", (long long)n);
    MPI_DO(MPI_Ialltoallv(p->x, p->count, p->first, type, p->gathered, p->own_count, p->own_first, type, p->r->main,
                          &p->request));
    if (p->r->tail)
        p->r->tail->next = p;
    else
        p->r->head = p;
    p->r->tail = p;
}

/* Adds the own slice of all ranks in rank order, in double. */
static void part_add(const sum_part *p) {
    int64_t own = p->count[p->rank];
    for (int64_t i = 0; i < own; i++) {
        double s = 0;
        if (p->type == MPI_FLOAT) {
            for (int k = 0; k < p->size; k++) s += (double)((const float *)p->gathered)[k * own + i];
            ((float *)p->x)[p->first[p->rank] + i] = (float)s;
        } else {
            for (int k = 0; k < p->size; k++) s += ((const double *)p->gathered)[k * own + i];
            ((double *)p->x)[p->first[p->rank] + i] = s;
        }
    }
}

static bool part_ready(sum_part *p, bool wait) {
    int ready = 1;
    if (wait)
        MPI_DO(MPI_Wait(&p->request, MPI_STATUS_IGNORE));
    else
        MPI_DO(MPI_Test(&p->request, &ready, MPI_STATUS_IGNORE));
    return ready;
}

/* Moves the queue on: without `last` as far as it goes by itself, else until `last` is done. */
static void queue_advance(ranks *r, const sum_part *last) {
    bool earlier_spread = true, wait = last != NULL;
    for (sum_part *p = r->head; p; p = p->next) {
        if (!p->spreading && earlier_spread && part_ready(p, wait)) {
            part_add(p);
            p->spreading = true;
            p->done = p->sliced;
            if (!p->sliced)
                MPI_DO(MPI_Iallgatherv(MPI_IN_PLACE, 0, p->type, p->x, p->count, p->first, p->type, r->spread,
                                       &p->request));
        }
        if (p->spreading && !p->done) p->done = part_ready(p, p == last);
        earlier_spread &= p->spreading;
        if (p == last) break;
    }
    while (r->head && r->head->done) r->head = r->head->next;
    if (!r->head) r->tail = NULL;
}

static comm_request *request_new(void) {
    comm_request *r = calloc(1, sizeof *r);
    CHECK(r, "no memory for a reduction");
    return r;
}

comm_request *mpi_sum_start(const comm *c, const tensor *x, const int64_t *first) {
    int64_t n = tensor_count(x);
    if (!c->mpi || c->size == 1 || n == 0) return NULL;
    CHECK(x->dt == DT_F32 || x->dt == DT_F64, "a sum of %s in host memory", dtype_name(x->dt));
    comm_request *r = request_new();
    r->n_parts = (int)((n + COMM_PART_MAX - 1) / COMM_PART_MAX);
    r->part = malloc((size_t)r->n_parts * sizeof *r->part);
    CHECK(r->part, "no memory for a reduction");
    for (int i = 0; i < r->n_parts; i++) {
        int64_t at = (int64_t)i * COMM_PART_MAX, k = n - at < COMM_PART_MAX ? n - at : COMM_PART_MAX;
        part_start(c, &r->part[i], x->data, at, k, first, x->dt == DT_F32 ? MPI_FLOAT : MPI_DOUBLE);
    }
    return r;
}

bool mpi_sum_ready(comm_request *r) {
    bool ready = true;
    if (!r) return true;
    queue_advance(r->part->r, NULL);
    for (int i = 0; i < r->n_parts; i++) ready &= r->part[i].done;
    return ready;
}

void mpi_sum_finish(comm_request *r) {
    if (!r) return;
    for (int i = 0; i < r->n_parts; i++) {
        sum_part *p = &r->part[i];
        CHECK(p->done || p->r->head == p, "reductions are waited for in the order they were started");
        while (!p->done || p->r->head == p) queue_advance(p->r, p);
        free(p->gathered);
        free(p->count);
    }
    free(r->part);
    free(r);
}

comm_request *comm_sum_slices_start(const comm *c, const tensor *x, const int64_t *first) {
    comm_request *r;
    if (c->size == 1) return NULL;
    if (x->dev == DEV_CPU) {
        beat_collective("sum of slices", (int64_t)tensor_bytes(x), false);
        if (!c->levels || x->dt != DT_F32) return mpi_sum_start(c, x, first);
        r = request_new();
        r->levels = levels_sum_start(c->levels, x, first);
        return r;
    }
    CHECK(c->nccl, "a sum over GPUs before comm_device_open");
    r = request_new();
    r->nccl = c->nccl;
    if (first)
        nccl_sum_slices(r->nccl, x, first);
    else
        nccl_sum(r->nccl, x);
    return r;
}

comm_request *comm_sum_start(const comm *c, const tensor *x) {
    return comm_sum_slices_start(c, x, NULL);
}

void comm_progress(const comm *c) {
    if (c->mpi) queue_advance(ranks_of(c), NULL);
    if (c->levels) levels_progress(c->levels);
}

void comm_wait(comm_request *r) {
    if (!r) return;
    if (!r->nccl) beat_wait("end of a sum");
    if (r->n_parts > 0) {
        mpi_sum_finish(r);
    } else {
        if (r->nccl)
            nccl_join(r->nccl);
        else
            levels_wait(r->levels);
        free(r);
    }
    beat_back();
}

void comm_share(const comm *c, const comm_piece *piece, int n) {
    if (c->size == 1 || n == 0) return;
    if (piece->x.dev == DEV_CUDA) {
        CHECK(c->nccl, "memory of a GPU before comm_device_open");
        nccl_share(c->nccl, piece, n);
        nccl_join(c->nccl);
    } else if (c->levels) {
        levels_share(c->levels, piece, n);
    } else {
        for (int i = 0; i < n; i++) comm_bcast(c, piece[i].x.data, (int64_t)tensor_bytes(&piece[i].x), piece[i].owner);
    }
}

/* Blocking sums go in parts of 64 MB, so that they need little memory beside the slab. */
static void sum_ordered(const comm *c, void *x, int64_t n, dtype dt) {
    int64_t width = (int64_t)dtype_size(dt), most = ((int64_t)64 << 20) / width;
    CHECK(!c->mpi || !ranks_of(c)->head, "a blocking sum while another sum is under way");
    for (int64_t done = 0; c->mpi && done < n;) {
        int64_t k = n - done < most ? n - done : most;
        tensor  part = tensor_wrap((char *)x + done * width, dt, DIMS(k));
        beat_collective("sum of slices", k * width, true);
        mpi_sum_finish(mpi_sum_start(c, &part, NULL));
        beat_back();
        done += k;
    }
}

void comm_sum_f32(const comm *c, float *x, int64_t n) {
    sum_ordered(c, x, n, DT_F32);
}
void comm_sum_f64(const comm *c, double *x, int64_t n) {
    sum_ordered(c, x, n, DT_F64);
}
