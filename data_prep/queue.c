#include "data_prep/queue.h"

#include <mpi.h>
#include <stdlib.h>
#include <string.h>

struct work_queue {
    int64_t  n, local;
    int      size;
    MPI_Win  window;
    int64_t *counter; /* rank 0's memory of the window */
};

static void check(int rc, const char *what) {
    CHECK(rc == MPI_SUCCESS, "%s failed with code %d", what, rc);
}

work_queue *queue_open(int64_t n, int rank, int size) {
    work_queue *q = calloc(1, sizeof *q);
    CHECK(q, "no memory for the work queue");
    q->n = n;
    q->size = size;
    if (size == 1) return q;
    check(MPI_Win_allocate(rank == 0 ? (MPI_Aint)sizeof(int64_t) : 0, sizeof(int64_t), MPI_INFO_NULL, MPI_COMM_WORLD,
                           &q->counter, &q->window),
          "MPI_Win_allocate");
    check(MPI_Win_lock_all(0, q->window), "MPI_Win_lock_all");
    if (rank == 0) {
        *q->counter = 0;
        check(MPI_Win_sync(q->window), "MPI_Win_sync");
    }
    check(MPI_Barrier(MPI_COMM_WORLD), "MPI_Barrier");
    return q;
}

void queue_close(work_queue *q) {
    if (!q) return;
    if (q->size > 1) {
        check(MPI_Win_unlock_all(q->window), "MPI_Win_unlock_all");
        check(MPI_Win_free(&q->window), "MPI_Win_free");
    }
    free(q);
}

static int64_t fetch_add(work_queue *q, int64_t add) {
    int64_t before = q->local;
    if (q->size == 1) {
        q->local += add;
        return before;
    }
    check(MPI_Fetch_and_op(&add, &before, MPI_INT64_T, 0, 0, MPI_SUM, q->window), "MPI_Fetch_and_op");
    check(MPI_Win_flush(0, q->window), "MPI_Win_flush");
    return before;
}

int64_t queue_next(work_queue *q) {
    int64_t i = fetch_add(q, 1);
    return i < q->n ? i : -1;
}

void queue_stop(work_queue *q) {
    fetch_add(q, q->n);
}

void queue_broadcast(void *data, int64_t bytes, int size) {
    char *p = data;
    while (size > 1 && bytes > 0) {
        int n = bytes < 1 << 30 ? (int)bytes : 1 << 30;
        check(MPI_Bcast(p, n, MPI_BYTE, 0, MPI_COMM_WORLD), "MPI_Bcast");
        p += n;
        bytes -= n;
    }
}

void queue_sum(int64_t *values, int n, int size) {
    if (size > 1) check(MPI_Allreduce(MPI_IN_PLACE, values, n, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD), "MPI_Allreduce");
}

void queue_agree(status *st, int rank, int size) {
    if (size == 1) return;
    int first = status_ok(st) ? size : rank;
    check(MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD), "MPI_Allreduce");
    if (first < size) check(MPI_Bcast(st, (int)sizeof *st, MPI_BYTE, first, MPI_COMM_WORLD), "MPI_Bcast");
}
