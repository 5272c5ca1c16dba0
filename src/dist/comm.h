/* Ranks: one interface over MPI and one process (NCCL joins with the CUDA back end). Collective calls are marked; every
 * rank of the comm must make them in the same order. Failures are fatal and end the whole job. */
#pragma once
#include "core/base.h"

typedef struct {
    int   rank, size;
    void *mpi; /* MPI_Comm*, NULL: one process without MPI */
} comm;

/* Starts MPI if the process was launched by mpirun/srun (or always, as a singleton), sets log rank and fatal abort. */
void comm_start(comm *c, int *argc, char ***argv);
void comm_finish(comm *c);
/* A duplicate for a purpose of its own (checkpoints, control). Collective. */
comm comm_dup(const comm *c);
void comm_free(comm *c);

/* Collective, in place. Counts are elements and may exceed 2^31. */
void comm_sum_f64(const comm *c, double *x, int64_t n);
void comm_sum_f32(const comm *c, float *x, int64_t n);
void comm_sum_i64(const comm *c, int64_t *x, int64_t n);
void comm_max_f64(const comm *c, double *x, int64_t n);
void comm_max_i64(const comm *c, int64_t *x, int64_t n);
void comm_bcast(const comm *c, void *data, int64_t bytes, int root);
void comm_barrier(const comm *c);
/* recv holds size*bytes on every rank. */
void comm_all_gather(const comm *c, const void *send, void *recv, int64_t bytes);
/* True on all ranks when ok is true on all; a failing status of the lowest rank is copied to all. */
bool comm_agree(const comm *c, status *st);

/* Sum of a slab in buckets, overlapped with whatever the caller does between start and wait. */
typedef struct comm_request comm_request;
/* Collective; requests of a comm are waited for in the order they were started. */
comm_request               *comm_sum_f32_start(const comm *c, float *x, int64_t n);
void                        comm_progress(const comm *c); /* gives running sums a push; never blocks, not collective */
void                        comm_wait(comm_request *r);   /* frees r */
