/* Ranks: one interface over MPI, NCCL (memory of a GPU) and one process. Collective calls are marked; every rank of the
 * comm must make them in the same order. Failures are fatal and end the whole job. */
#pragma once
#include "core/tensor.h"

typedef struct {
    int            rank, size;
    void          *mpi;    /* what comm_mpi.c keeps, NULL: one process without MPI */
    struct nccl   *nccl;   /* what comm_nccl_cuda.c keeps, NULL: not opened */
    struct levels *levels; /* what comm_levels.c keeps, NULL: not opened */
} comm;

/* Starts MPI if the process was launched by mpirun/srun (or always, as a singleton), sets log rank and fatal abort. */
void comm_start(comm *c, int *argc, char ***argv);
void comm_finish(comm *c);
/* A duplicate for a purpose of its own (checkpoints, control). Collective. */
comm comm_dup(const comm *c);
void comm_free(comm *c);
/* Collective: the place among the ranks of this host, and their number. */
void comm_local(const comm *c, int *rank, int *size);

/* Collective: memory of `bytes` bytes for each rank of this host, zeros, that all of them see; rank k's (comm_local) is
 * at k*bytes. Where a host has no such memory each rank gets its own: *rank 0 of *size 1. comm_host_memory_free. */
void          *comm_host_memory(const comm *c, size_t bytes, int *rank, int *size);
void           comm_host_memory_free(void *p, size_t bytes, int size);
/* Ends the job with this exit code, from any thread, whatever the others wait for: NCCL's kernels are given up, MPI
 * aborts, and a process that is still there seconds later kills itself. */
_Noreturn void comm_abort(const comm *c, int code);

/* Collective, in place, host memory. Counts are elements and may exceed 2^31. */
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

/* Sum of a tensor over the ranks, in place, overlapped with whatever the caller does between start and wait: f32 in
 * host memory (MPI), f32 or bf16 on the GPU (NCCL). Every rank gets the same bits.
 *
 * On the GPU nothing waits on the host: the sum runs on STREAM_COMM behind what STREAM_COMPUTE had been given when it
 * was started, and after comm_wait STREAM_COMPUTE goes on behind the sum. */
typedef struct comm_request comm_request;
/* Collective; requests of a comm are waited for in the order they were started. */
comm_request               *comm_sum_start(const comm *c, const tensor *x);
/* The same where comm_owner(c, s) needs elements first[s] .. first[s+1]-1 only; the others of x are undefined
 * afterwards. The bits in host memory are those of the whole sum. Half of its traffic. */
comm_request               *comm_sum_slices_start(const comm *c, const tensor *x, const int64_t *first);
void                        comm_progress(const comm *c); /* gives running sums a push; never blocks, not collective */
void                        comm_wait(comm_request *r);   /* frees r */
/* Collective: each piece of memory goes from its owner to all ranks; pieces of one device. On the GPU in stream order,
 * as above, wait included. */
typedef struct {
    tensor x;
    int    owner;
} comm_piece;
void comm_share(const comm *c, const comm_piece *piece, int n);

/* Collective: how many nodes there are, and the least and the most ranks of one. A node is a host, or, with node_ranks
 * > 0, so many successive ranks (of the last one maybe fewer). */
typedef struct {
    int n, least, most;
} comm_nodes;
comm_nodes comm_nodes_of(const comm *c, int node_ranks);
/* Collective, before comm_device_open, where each node has as many ranks: the sums of f32 and bf16 above and
 * comm_share go by levels (comm_levels.h) from now on, first inside the nodes, then between ranks of the same place in
 * them. Numbers are added in another order than without; it is the same every time. */
void       comm_levels_open(comm *c, int node_ranks);
void       comm_levels_close(comm *c);
/* The rank that owns slice s of c->size, and which slice is this rank's: s = rank, but by levels. */
int        comm_owner(const comm *c, int slice);
int        comm_own_slice(const comm *c);

/* Collective, with this rank's GPU open (core/device.h), one per rank: sums of its memory become possible. Nothing to
 * do for one rank. A collective that is not through after timeout_s seconds ends the job with rank, host and step. */
void        comm_device_open(comm *c, double timeout_s);
void        comm_device_close(comm *c);
/* Behind every wait of the host for work that had sums in it: does not return if they were given up. */
void        comm_device_settled(const comm *c);
/* Stands in such a message. */
void        comm_device_step(const comm *c, int64_t step);
/* Of NCCL, "2.28.9"; "" in a build without. */
const char *comm_device_version(void);
