/* comm_nccl.h in a build without CUDA: nobody has memory of a GPU. */
#include "dist/comm_nccl.h"

void nccl_sum(struct nccl *n, const tensor *x) {
    (void)n;
    FATAL("a sum of %lld %s of a GPU in a build without CUDA", (long long)tensor_count(x), dtype_name(x->dt));
}
void nccl_sum_slices(struct nccl *n, const tensor *x, const int64_t *first) {
    (void)first;
    nccl_sum(n, x);
}
void nccl_share(struct nccl *n, const comm_piece *piece, int n_pieces) {
    (void)n;
    FATAL("%d pieces of %s of a GPU in a build without CUDA", n_pieces, dtype_name(piece->x.dt));
}
void nccl_join(struct nccl *n) {
    (void)n;
}
void comm_device_open(comm *c, double timeout_s) {
    CHECK(c->size == 1, "%d ranks and GPUs (time-out %g s) in a build without CUDA", c->size, timeout_s);
}
void comm_device_close(comm *c) {
    (void)c;
}
void comm_device_settled(const comm *c) {
    (void)c;
}
void comm_device_step(const comm *c, int64_t step) {
    (void)c;
    (void)step;
}
const char *comm_device_version(void) {
    return "";
}

void nccl_give_up(struct nccl *n) {
    (void)n;
}
