/* Ranks over MPI: start and end, what a host's ranks share, small collectives. */
#include "core/beat.h"
#include "core/fault.h"
#include "dist/comm_mpi.h"
#include "dist/comm_nccl.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ABORT_SECONDS = 5 };

static bool started_here;

static void abort_all_ranks(int code) {
    MPI_Abort(MPI_COMM_WORLD, code);
}

void comm_check_mpi(int rc, const char *call) {
    if (rc == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = "";
    int  n = 0;
    MPI_Error_string(rc, text, &n);
    FATAL("%s failed: %s", call, text);
}

comm comm_wrap(MPI_Comm m) {
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
        *c = comm_wrap(m);
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
    MPI_DO(MPI_Comm_dup(ranks_of(c)->main, &m));
    return comm_wrap(m);
}

void comm_free(comm *c) {
    if (c->mpi) {
        ranks *r = ranks_of(c);
        CHECK(!r->head, "a reduction is still under way");
        CHECK(!c->nccl, "the communicator of the GPUs is still open");
        CHECK(!c->levels, "the levels are still open");
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
    MPI_DO(MPI_Comm_split_type(ranks_of(c)->main, MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &host));
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
        MPI_DO(MPI_Comm_split_type(ranks_of(c)->main, MPI_COMM_TYPE_SHARED, c->rank, MPI_INFO_NULL, &host));
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
        int64_t      n = bytes - done < COMM_PART_MAX ? bytes - done : COMM_PART_MAX;
        MPI_Datatype piece, spaced;
        MPI_DO(MPI_Type_contiguous((int)n, MPI_BYTE, &piece));
        MPI_DO(MPI_Type_create_resized(piece, 0, (MPI_Aint)bytes, &spaced));
        MPI_DO(MPI_Type_commit(&spaced));
        MPI_DO(MPI_Allgather((const char *)send + done, (int)n, MPI_BYTE, (char *)recv + done, 1, spaced,
                             ranks_of(c)->main));
        MPI_DO(MPI_Type_free(&spaced));
        MPI_DO(MPI_Type_free(&piece));
        done += n;
    }
    beat_back();
}

void comm_bcast(const comm *c, void *data, int64_t bytes, int root) {
    if (c->mpi) beat_collective("broadcast", bytes, true);
    for (int64_t done = 0; c->mpi && done < bytes;) {
        int64_t n = bytes - done < COMM_PART_MAX ? bytes - done : COMM_PART_MAX;
        MPI_DO(MPI_Bcast((char *)data + done, (int)n, MPI_BYTE, root, ranks_of(c)->main));
        done += n;
    }
    if (c->mpi) beat_back();
}

void comm_barrier(const comm *c) {
    if (!c->mpi) return;
    beat_collective("barrier", 0, true);
    MPI_DO(MPI_Barrier(ranks_of(c)->main));
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
        int64_t k = n - done < COMM_PART_MAX ? n - done : COMM_PART_MAX;
        MPI_DO(MPI_Allreduce(MPI_IN_PLACE, (char *)x + (size_t)done * width, (int)k, type, op, ranks_of(c)->main));
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
