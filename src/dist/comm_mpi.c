/* Ranks over MPI. Sums do not use MPI_Allreduce: its order of additions is the library's choice (size, topology,
 * arrival) and the standard does not promise the same bits on every rank. Here each rank owns a slice, gets that slice
 * of everybody (all-to-all), adds in rank order in double, and the slices go round again (all-gather): the volume of a
 * ring, bits that depend on the inputs and the number of ranks only. */
#include "core/beat.h"
#include "core/fault.h"
#include "dist/comm_nccl.h"

#include <fcntl.h>
#include <mpi.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PART_MAX = 1 << 28 /* elements of one MPI call: counts are int */, ABORT_SECONDS = 5 };

static bool started_here;

static void abort_all_ranks(int code) {
    MPI_Abort(MPI_COMM_WORLD, code);
}

static void check_mpi(int rc, const char *call) {
    if (rc == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = "";
    int  n = 0;
    MPI_Error_string(rc, text, &n);
    FATAL("%s failed: %s", call, text);
}

#define MPI_DO(call) check_mpi((call), #call)

typedef struct sum_part sum_part;

/* What comm.mpi points to. Sums have two legs. The first is started by the caller, in program order, on `main`; the
 * second starts whenever the first is through, so it has a communicator of its own and starts in the order of the
 * queue: then every rank makes the calls on each communicator in one order. */
typedef struct {
    MPI_Comm  main, spread;
    sum_part *head, *tail; /* parts under way, oldest first */
} ranks;

static ranks *ranks_of(const comm *c) {
    return c->mpi;
}
static MPI_Comm world_of(const comm *c) {
    return ranks_of(c)->main;
}

static comm wrap(MPI_Comm m) {
    comm   c = {.mpi = malloc(sizeof(ranks))};
    ranks *r = c.mpi;
    CHECK(r, "no memory for a communicator");
    *r = (ranks){.main = m};
    MPI_DO(MPI_Comm_dup(m, &r->spread));
    MPI_DO(MPI_Comm_set_errhandler(r->spread, MPI_ERRORS_RETURN));
    MPI_DO(MPI_Comm_set_errhandler(m, MPI_ERRORS_RETURN));
    MPI_DO(MPI_Comm_rank(m, &c.rank));
    MPI_DO(MPI_Comm_size(m, &c.size));
    return c;
}

/* A process that no launcher started stays without MPI: no daemon, no waiting. */
static bool launched(void) {
    static const char *const mark[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE",
                                       "MV2_COMM_WORLD_SIZE"};
    for (size_t i = 0; i < sizeof mark / sizeof mark[0]; i++)
        if (getenv(mark[i])) return true;
    return false;
}

void comm_start(comm *c, int *argc, char ***argv) {
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    *c = (comm){.rank = 0, .size = 1};
    if (launched()) {
        int level = 0;
        MPI_DO(MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &level));
        CHECK(level >= MPI_THREAD_SERIALIZED, "this MPI has thread level %d, level %d is needed", level,
              (int)MPI_THREAD_SERIALIZED);
        started_here = true;
        MPI_Comm m;
        MPI_DO(MPI_Comm_dup(MPI_COMM_WORLD, &m));
        *c = wrap(m);
        fatal_set_abort(abort_all_ranks);
        log_init(c->rank, c->size, LOG_INFO);
    }
    fault_rank(c->rank);
    /* mpirun's own daemons are tasks of a step too, so only a rank that is alone says that nobody introduced it. */
    CHECK(!tasks || c->size > 1 || atoi(tasks) == 1,
          "srun started %s tasks but MPI sees %d: this srun does not speak to the MPI library, use srun --mpi=pmix",
          tasks, c->size);
}

void comm_finish(comm *c) {
    comm_free(c);
    if (!started_here) return;
    started_here = false;
    fatal_set_abort(NULL);
    MPI_DO(MPI_Finalize());
}

comm comm_dup(const comm *c) {
    if (!c->mpi) return *c;
    MPI_Comm m;
    MPI_DO(MPI_Comm_dup(world_of(c), &m));
    return wrap(m);
}

void comm_free(comm *c) {
    if (c->mpi) {
        ranks *r = ranks_of(c);
        CHECK(!r->head, "a reduction is still under way");
        CHECK(!c->nccl, "the communicator of the GPUs is still open");
        MPI_DO(MPI_Comm_free(&r->main));
        MPI_DO(MPI_Comm_free(&r->spread));
        free(r);
    }
    *c = (comm){.rank = 0, .size = 1};
}

void comm_local(const comm *c, int *rank, int *size) {
    *rank = 0;
    *size = 1;
    if (!c->mpi) return;
    MPI_Comm host;
    MPI_DO(MPI_Comm_split_type(world_of(c), MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &host));
    MPI_DO(MPI_Comm_rank(host, rank));
    MPI_DO(MPI_Comm_size(host, size));
    MPI_DO(MPI_Comm_free(&host));
}

/* ---- the host's ranks ----------------------------------------------------------------------------------------- */

static char *map_shared(int file, size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, file, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* The first rank of the host makes an object and the others open it; then its name is taken away, so that nothing is
 * left behind however the job ends. */
static char *shared_object(MPI_Comm host, int rank, size_t bytes) {
    char name[64] = "";
    int  file = -1, bad, any_bad = 0;
    for (int i = 0; rank == 0 && file < 0 && i < 100; i++) {
        snprintf(name, sizeof name, "/d3s2-%ld-%d", (long)getpid(), i);
        file = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    }
    bad = rank == 0 &&
          (file < 0 || posix_fallocate(file, 0, (off_t)bytes) != 0); /* no room is told here, not by SIGBUS */
    MPI_DO(MPI_Bcast(name, sizeof name, MPI_CHAR, 0, host));
    if (rank > 0) file = shm_open(name, O_RDWR, 0600);
    char *p = bad || file < 0 ? NULL : map_shared(file, bytes);
    bad = !p;
    MPI_DO(MPI_Allreduce(&bad, &any_bad, 1, MPI_INT, MPI_MAX, host));
    if (file >= 0) close(file);
    if (rank == 0) shm_unlink(name);
    if (any_bad && p) munmap(p, bytes);
    return any_bad ? NULL : p;
}

void *comm_host_memory(const comm *c, size_t bytes, int *rank, int *size) {
    char *p = NULL;
    *rank = 0;
    *size = 1;
    if (c->mpi) {
        MPI_Comm host;
        MPI_DO(MPI_Comm_split_type(world_of(c), MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &host));
        MPI_DO(MPI_Comm_rank(host, rank));
        MPI_DO(MPI_Comm_size(host, size));
        p = shared_object(host, *rank, bytes * (size_t)*size);
        MPI_DO(MPI_Comm_free(&host));
        if (!p) *rank = 0, *size = 1;
    }
    if (!p) p = map_shared(-1, bytes);
    CHECK(p, "no memory of %zu bytes", bytes);
    return p;
}

void comm_host_memory_free(void *p, size_t bytes, int size) {
    munmap(p, bytes * (size_t)size);
}

static void *kill_late(void *seconds) {
    sleep((unsigned)(uintptr_t)seconds);
    raise(SIGKILL);
    return NULL;
}

void comm_abort(const comm *c, int code) {
    pthread_t t;
    /* Giving up NCCL's kernels may take its 5 seconds before MPI is told. */
    pthread_create(&t, NULL, kill_late, (void *)(uintptr_t)(c->nccl ? ABORT_SECONDS + 3 : ABORT_SECONDS));
    if (c->nccl) nccl_give_up(c->nccl);
    if (c->mpi) MPI_Abort(MPI_COMM_WORLD, code);
    _exit(code);
}

/* ---- small collectives ---------------------------------------------------------------------------------------- */

void comm_all_gather(const comm *c, const void *send, void *recv, int64_t bytes) {
    if (!c->mpi) {
        memmove(recv, send, (size_t)bytes);
        return;
    }
    beat_collective("all-gather", bytes, true);
    /* Parts of at most 1 GB per rank; they arrive part by part, so each goes through a strided view. */
    for (int64_t done = 0; done < bytes;) {
        int64_t      n = bytes - done < PART_MAX ? bytes - done : PART_MAX;
        MPI_Datatype piece, spaced;
        MPI_DO(MPI_Type_contiguous((int)n, MPI_BYTE, &piece));
        MPI_DO(MPI_Type_create_resized(piece, 0, (MPI_Aint)bytes, &spaced));
        MPI_DO(MPI_Type_commit(&spaced));
        MPI_DO(MPI_Allgather((const char *)send + done, (int)n, MPI_BYTE, (char *)recv + done, 1, spaced, world_of(c)));
        MPI_DO(MPI_Type_free(&spaced));
        MPI_DO(MPI_Type_free(&piece));
        done += n;
    }
    beat_back();
}

void comm_bcast(const comm *c, void *data, int64_t bytes, int root) {
    if (c->mpi) beat_collective("broadcast", bytes, true);
    for (int64_t done = 0; c->mpi && done < bytes;) {
        int64_t n = bytes - done < PART_MAX ? bytes - done : PART_MAX;
        MPI_DO(MPI_Bcast((char *)data + done, (int)n, MPI_BYTE, root, world_of(c)));
        done += n;
    }
    if (c->mpi) beat_back();
}

void comm_barrier(const comm *c) {
    if (!c->mpi) return;
    beat_collective("barrier", 0, true);
    MPI_DO(MPI_Barrier(world_of(c)));
    beat_back();
}

bool comm_agree(const comm *c, status *st) {
    int64_t first_bad = status_ok(st) ? -1 : (int64_t)c->size - c->rank; /* the largest is the lowest failing rank */
    comm_max_i64(c, &first_bad, 1);
    if (first_bad < 0) return true;
    comm_bcast(c, st, sizeof *st, c->size - (int)first_bad);
    return false;
}

static void reduce_exact(const comm *c, void *x, int64_t n, MPI_Datatype type, size_t width, MPI_Op op) {
    if (c->mpi) beat_collective("all-reduce", n * (int64_t)width, true);
    for (int64_t done = 0; c->mpi && done < n;) {
        int64_t k = n - done < PART_MAX ? n - done : PART_MAX;
        MPI_DO(MPI_Allreduce(MPI_IN_PLACE, (char *)x + (size_t)done * width, (int)k, type, op, world_of(c)));
        done += k;
    }
    if (c->mpi) beat_back();
}

/* Sums of integers and maxima do not depend on the order. */
void comm_sum_i64(const comm *c, int64_t *x, int64_t n) {
    reduce_exact(c, x, n, MPI_INT64_T, 8, MPI_SUM);
}
void comm_max_i64(const comm *c, int64_t *x, int64_t n) {
    reduce_exact(c, x, n, MPI_INT64_T, 8, MPI_MAX);
}
void comm_max_f64(const comm *c, double *x, int64_t n) {
    reduce_exact(c, x, n, MPI_DOUBLE, 8, MPI_MAX);
}

/* ---- ordered sums --------------------------------------------------------------------------------------------- */

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
    struct nccl *nccl; /* then there are no parts */
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

static comm_request *sum_start(const comm *c, void *x, int64_t n, const int64_t *slice, MPI_Datatype type) {
    if (!c->mpi || c->size == 1 || n == 0) return NULL;
    beat_collective("sum of slices", n * (type == MPI_FLOAT ? 4 : 8), false);
    comm_request *r = calloc(1, sizeof *r);
    CHECK(r, "no memory for a reduction");
    r->n_parts = (int)((n + PART_MAX - 1) / PART_MAX);
    r->part = malloc((size_t)r->n_parts * sizeof *r->part);
    CHECK(r->part, "no memory for a reduction");
    for (int i = 0; i < r->n_parts; i++) {
        int64_t at = (int64_t)i * PART_MAX, k = n - at < PART_MAX ? n - at : PART_MAX;
        part_start(c, &r->part[i], x, at, k, slice, type);
    }
    return r;
}

comm_request *comm_sum_slices_start(const comm *c, const tensor *x, const int64_t *first) {
    if (x->dev == DEV_CPU) {
        CHECK(x->dt == DT_F32 || x->dt == DT_F64, "a sum of %s in host memory", dtype_name(x->dt));
        return sum_start(c, x->data, tensor_count(x), first, x->dt == DT_F32 ? MPI_FLOAT : MPI_DOUBLE);
    }
    if (c->size == 1) return NULL;
    CHECK(c->nccl, "a sum over GPUs before comm_device_open");
    comm_request *r = calloc(1, sizeof *r);
    CHECK(r, "no memory for a reduction");
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
}

void comm_wait(comm_request *r) {
    if (!r) return;
    if (r->nccl)
        nccl_join(r->nccl);
    else
        beat_wait("end of a sum");
    for (int i = 0; i < r->n_parts; i++) {
        sum_part *p = &r->part[i];
        CHECK(p->done || p->r->head == p, "reductions are waited for in the order they were started");
        while (!p->done || p->r->head == p) queue_advance(p->r, p);
        free(p->gathered);
        free(p->count);
    }
    beat_back();
    free(r->part);
    free(r);
}

void comm_share(const comm *c, const comm_piece *piece, int n) {
    if (c->size == 1 || n == 0) return;
    if (piece->x.dev == DEV_CUDA) {
        CHECK(c->nccl, "memory of a GPU before comm_device_open");
        nccl_share(c->nccl, piece, n);
        nccl_join(c->nccl);
        return;
    }
    for (int i = 0; i < n; i++) comm_bcast(c, piece[i].x.data, (int64_t)tensor_bytes(&piece[i].x), piece[i].owner);
}

/* Blocking sums go in parts of 64 MB, so that they need little memory beside the slab. */
static void sum_ordered(const comm *c, void *x, int64_t n, MPI_Datatype type) {
    int64_t width = type == MPI_FLOAT ? 4 : 8, most = ((int64_t)64 << 20) / width;
    CHECK(!c->mpi || !ranks_of(c)->head, "a blocking sum while another sum is under way");
    for (int64_t done = 0; c->mpi && done < n;) {
        int64_t k = n - done < most ? n - done : most;
        comm_wait(sum_start(c, (char *)x + done * width, k, NULL, type));
        done += k;
    }
}

void comm_sum_f32(const comm *c, float *x, int64_t n) {
    sum_ordered(c, x, n, MPI_FLOAT);
}
void comm_sum_f64(const comm *c, double *x, int64_t n) {
    sum_ordered(c, x, n, MPI_DOUBLE);
}
