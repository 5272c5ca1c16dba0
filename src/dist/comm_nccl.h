/* NCCL behind a comm; inside src/dist. Everything is enqueued on STREAM_COMM behind what STREAM_COMPUTE has so far. */
#pragma once
#include "dist/comm.h"

void nccl_sum(struct nccl *n, const tensor *x);
void nccl_sum_slices(struct nccl *n, const tensor *x, const int64_t *first);
void nccl_share(struct nccl *n, const comm_piece *piece, int n_pieces);
/* STREAM_COMPUTE goes on behind all of it. */
void nccl_join(struct nccl *n);
/* Frees the GPU of kernels that will never end, from any thread. The communicator is lost. */
void nccl_give_up(struct nccl *n);
