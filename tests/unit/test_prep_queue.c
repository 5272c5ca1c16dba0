/* The work queue over ranks: every item once, a stop reaches everybody, one failure becomes everybody's. */
#include "data_prep/queue.h"
#include "harness/harness.h"

#include <mpi.h>
#include <string.h>

static int rank, size;

static void test_each_once(void **state) {
    (void)state;
    enum { N = 200 };
    int64_t     taken[N] = {0}, i;
    work_queue *q = queue_open(N, rank, size);
    while ((i = queue_next(q)) >= 0) taken[i]++;
    queue_sum(taken, N, size);
    queue_close(q);
    for (i = 0; i < N; i++) assert_int_equal(taken[i], 1);
}

static void test_stop(void **state) {
    (void)state;
    int64_t     n = 0;
    work_queue *q = queue_open(1000000, rank, size);
    if (rank == size - 1) queue_stop(q);
    queue_sum(&n, 1, size);
    assert_int_equal(queue_next(q), -1);
    queue_close(q);
}

static void test_agree(void **state) {
    (void)state;
    status st = {0};
    queue_agree(&st, rank, size);
    assert_true(status_ok(&st));
    if (rank == size - 1) status_set(&st, ST_IO, "the disk of rank %d is full", rank);
    queue_agree(&st, rank, size);
    assert_int_equal(st.code, ST_IO);
    assert_non_null(strstr(st.text, "is full"));
    char text[16] = "";
    if (rank == 0) strcpy(text, "from rank 0");
    queue_broadcast(text, sizeof text, size);
    assert_string_equal(text, "from rank 0");
}

int main(int argc, char **argv) {
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_once), cmocka_unit_test(test_stop),
                                       cmocka_unit_test(test_agree)};
    int                     failed = cmocka_run_group_tests_name("prep_queue", tests, NULL, NULL);
    MPI_Finalize();
    return failed;
}
