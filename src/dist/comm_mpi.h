/* MPI behind a comm; inside src/dist. */
#pragma once
#include "dist/comm.h"

#include <mpi.h>

enum { COMM_PART_MAX = 1 << 28 /* elements of one MPI call: counts are int */ };

typedef struct sum_part sum_part;

/* What comm.mpi points to. Sums have two legs. The first is started by the caller, in program order, on `main`; the
 * second starts whenever the first is through, so it has a communicator of its own and starts in the order of the
 * queue: then every rank makes the calls on each communicator in one order. */
typedef struct {
    MPI_Comm  main, spread;
    sum_part *head, *tail; /* parts under way, oldest first */
} ranks;

static inline ranks *ranks_of(const comm *c) {
    return c->mpi;
}

/* Fatal but for MPI_SUCCESS. */
void comm_check_mpi(int rc, const char *call);
#define MPI_DO(call) comm_check_mpi((call), #call)

/* A comm that owns m. */
comm comm_wrap(MPI_Comm m);

/* comm_sum_slices_start over all ranks of c at once, in host memory, f32 or f64, without signs of life: sums by levels
 * consist of several. NULL where there is nothing to do, which is welcome below. */
comm_request *mpi_sum_start(const comm *c, const tensor *x, const int64_t *first);
bool          mpi_sum_ready(comm_request *r);  /* gives it a push */
void          mpi_sum_finish(comm_request *r); /* waits, frees r */
