/* Sums between GPUs, one rank each: integers whose sums are exact, equal bits on all ranks, stream order, slices; and a
 * rank that does not take part (`test_nccl hang`): the others end with a sentence that names the step. Exit code 77:
 * not enough GPUs here. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/device.h"
#include "core/half.h"
#include "core/rng.h"
#include "dist/comm.h"
#include "harness/harness.h"

static comm world;

static const int64_t lengths[] = {0, 1, 3, 64, 1000, 100003, 5000011};
enum { N_LENGTHS = sizeof lengths / sizeof lengths[0] };

static int64_t value(int rank, int64_t i) {
    return (i * 7 + rank * 13) % 41 - 20; /* sums over few ranks are exact in bf16, too */
}

static tensor on_gpu(void *p, dtype dt, int64_t n) {
    tensor t = tensor_wrap(p, dt, DIMS(n));
    t.dev = DEV_CUDA;
    return t;
}

static void put_number(void *p, dtype dt, int64_t i, double x) {
    if (dt == DT_F32)
        ((float *)p)[i] = (float)x;
    else
        ((uint16_t *)p)[i] = f32_to_bf16((float)x);
}

static double number(const void *p, dtype dt, int64_t i) {
    return dt == DT_F32 ? ((const float *)p)[i] : bf16_to_f32(((const uint16_t *)p)[i]);
}

/* The upload, the sum and the way back are given without a wait between them. Guards stay. */
static void sum_of(dtype dt, int64_t n) {
    size_t width = dtype_size(dt), bytes = (size_t)(n + 1) * width;
    char  *host = device_host_alloc(bytes), *gpu = device_alloc(bytes);
    for (int64_t i = 0; i <= n; i++) put_number(host, dt, i, (double)value(world.rank, i));
    device_copy(gpu, host, bytes, STREAM_COMPUTE);
    tensor t = on_gpu(gpu, dt, n);
    comm_wait(comm_sum_start(&world, &t));
    device_copy(host, gpu, bytes, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    for (int64_t i = 0; i < n; i++) {
        int64_t want = 0;
        for (int r = 0; r < world.size; r++) want += value(r, i);
        if (number(host, dt, i) != (double)want)
            fail_msg("%s %lld of %lld: %g, not %lld", dtype_name(dt), (long long)i, (long long)n, number(host, dt, i),
                     (long long)want);
    }
    assert_true(number(host, dt, n) == (double)value(world.rank, n));
    device_host_free(host);
    device_free(gpu);
}

static void test_sums(void **state) {
    (void)state;
    for (int k = 0; k < N_LENGTHS; k++) {
        sum_of(DT_F32, lengths[k]);
        sum_of(DT_BF16, lengths[k]);
    }
}

/* Several sums under way, over random numbers: the same bits on every rank, and again in a second round. */
static void test_same_bits(void **state) {
    (void)state;
    enum { PARTS = 7, N = 1 << 20 };
    float   *host = device_host_alloc(N * sizeof *host), *gpu = device_alloc(N * sizeof *gpu);
    uint64_t first_hash = 0;
    for (int round = 0; round < 2; round++) {
        comm_request *r[PARTS];
        rng_fill_normal((rng_key){.seed = 5, .purpose = RNG_TEST, .sample = (uint64_t)world.rank}, 0, N, host);
        device_copy(gpu, host, N * sizeof *host, STREAM_COMPUTE);
        for (int64_t i = 0; i < PARTS; i++) {
            int64_t at = i * N / PARTS;
            tensor  t = on_gpu(gpu + at, DT_F32, (i + 1) * N / PARTS - at);
            r[i] = comm_sum_start(&world, &t);
        }
        for (int i = 0; i < PARTS; i++) comm_wait(r[i]);
        device_copy(host, gpu, N * sizeof *host, STREAM_COMPUTE);
        device_sync(STREAM_COMPUTE);
        uint64_t h = hash_bytes(host, N * sizeof *host, 0), other = h;
        comm_bcast(&world, &other, sizeof other, 0);
        assert_true(h == other);
        assert_true(round == 0 || h == first_hash);
        first_hash = h;
    }
    device_host_free(host);
    device_free(gpu);
}

static void test_slices(void **state) {
    (void)state;
    int64_t first[64] = {0};
    for (int r = 0; r < world.size; r++) first[r + 1] = first[r] + (r == 1 ? 0 : 100003 + r);
    int64_t n = first[world.size];
    float  *host = device_host_alloc((size_t)n * sizeof *host), *gpu = device_alloc((size_t)n * sizeof *gpu);
    memset(host, 0xff, (size_t)n * sizeof *host);
    for (int64_t i = first[world.rank]; i < first[world.rank + 1]; i++) host[i] = (float)(i % 100003);
    device_copy(gpu, host, (size_t)n * sizeof *host, STREAM_COMPUTE);
    tensor     t = on_gpu(gpu, DT_F32, n);
    comm_piece piece[64];
    for (int r = 0; r < world.size; r++) piece[r] = (comm_piece){tensor_rows(&t, first[r], first[r + 1] - first[r]), r};
    comm_share(&world, piece, world.size);
    device_copy(host, gpu, (size_t)n * sizeof *host, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    for (int64_t i = 0; i < n; i++) assert_true(host[i] == (float)(i % 100003));
    /* Now all hold the same: of the sum each rank gets its slice. */
    comm_wait(comm_sum_slices_start(&world, &t, first));
    device_copy(host, gpu, (size_t)n * sizeof *host, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    for (int64_t i = first[world.rank]; i < first[world.rank + 1]; i++)
        assert_true(host[i] == (float)(world.size * (i % 100003)));
    double *own = device_host_alloc((size_t)world.size * sizeof *own),
           *sums = device_alloc((size_t)world.size * sizeof *own);
    for (int r = 0; r < world.size; r++) own[r] = r == world.rank ? 1 + r / 3.0 : 0;
    device_copy(sums, own, (size_t)world.size * sizeof *own, STREAM_COMPUTE);
    tensor all = tensor_wrap(sums, DT_F64, DIMS(world.size));
    all.dev = DEV_CUDA;
    comm_wait(comm_sum_start(&world, &all));
    device_copy(own, sums, (size_t)world.size * sizeof *own, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    for (int r = 0; r < world.size; r++) assert_true(own[r] == 1 + r / 3.0);
    device_host_free(own);
    device_free(sums);
    device_host_free(host);
    device_free(gpu);
}

/* Bus bandwidth of a sum of 256 MB, as nccl-tests counts it. */
static void test_speed(void **state) {
    (void)state;
    enum { ROUNDS = 10 };
    int64_t       n = (int64_t)64 << 20;
    float        *gpu = device_alloc((size_t)n * sizeof *gpu);
    device_event *e[2] = {device_event_new(), device_event_new()};
    tensor        t = on_gpu(gpu, DT_F32, n);
    device_zero(gpu, (size_t)n * sizeof *gpu, STREAM_COMPUTE);
    for (int i = 0; i < ROUNDS + 2; i++) {
        if (i == 2) device_event_record(e[0], STREAM_COMPUTE);
        comm_wait(comm_sum_start(&world, &t));
    }
    device_event_record(e[1], STREAM_COMPUTE);
    device_event_sync(e[1]);
    double s = device_event_seconds(e[0], e[1]) / ROUNDS;
    if (world.rank == 0)
        print_message("sum of %lld MB over %d GPUs: %.3f ms, bus %.0f GB/s\n", (long long)(n * 4 >> 20), world.size,
                      1e3 * s, 2.0 * (world.size - 1) / world.size * (double)n * 4 / s / 1e9);
    device_event_free(e[0]);
    device_event_free(e[1]);
    device_free(gpu);
}

/* Rank 1 stays away. The hook lets the test end without MPI_Abort's noise; ctest looks for the sentence. */
static void say_and_leave(const char *message) {
    printf("%s\n", message);
    fflush(stdout);
    _exit(0);
}

static void hang(void) {
    if (world.rank == 1) {
        sleep(12);
        _exit(0);
    }
    fatal_set_hook(say_and_leave);
    comm_device_step(&world, 7);
    float *gpu = device_alloc(4096);
    tensor t = on_gpu(gpu, DT_F32, 1024);
    device_zero(gpu, 4096, STREAM_COMPUTE);
    comm_wait(comm_sum_start(&world, &t));
    device_sync(STREAM_COMPUTE);
    comm_device_settled(&world);
    printf("the sum came without rank 1\n");
    _exit(1);
}

int main(int argc, char **argv) {
    bool        hangs = argc > 1 && strcmp(argv[1], "hang") == 0;
    const char *why;
    int         rank, size, failed;
    comm_start(&world, &argc, &argv);
    comm_local(&world, &rank, &size);
    int n = device_count(&why);
    if (n < size) {
        if (rank == 0) printf("skipped: %d ranks here, %d GPUs: %s\n", size, n, why);
        comm_finish(&world);
        return 77;
    }
    device_open(rank);
    comm_device_open(&world, hangs ? 3 : 60);
    if (hangs) hang();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sums), cmocka_unit_test(test_same_bits),
                                       cmocka_unit_test(test_slices), cmocka_unit_test(test_speed)};
    failed = cmocka_run_group_tests_name("nccl", tests, NULL, NULL);
    comm_device_close(&world);
    comm_finish(&world);
    return failed;
}
