/* Sums between GPUs, one rank each: integers whose sums are exact, equal bits on all ranks, stream order, slices; and a
 * rank that does not take part (`test_nccl hang`): the others end with a sentence that names the step. `test_nccl
 * levels N` or `hang N`: by levels, each N ranks a node. Exit code 77: not enough GPUs here. Built a second time with
 * pretend_nccl. */
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

#ifdef PRETEND
enum { SPEED_FLOATS = 1 << 16 };
#else
enum { SPEED_FLOATS = 64 << 20 };
#endif

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

/* Slices of x as pieces with their owners. */
static void pieces_of(const tensor *x, const int64_t *first, comm_piece *piece) {
    for (int s = 0; s < world.size; s++)
        piece[s] = (comm_piece){tensor_rows(x, first[s], first[s + 1] - first[s]), comm_owner(&world, s)};
}

static void test_slices(void **state) {
    (void)state;
    int64_t first[64] = {0}, own = comm_own_slice(&world);
    for (int r = 0; r < world.size; r++) first[r + 1] = first[r] + (r == 1 ? 0 : 100003 + r);
    int64_t n = first[world.size];
    float  *host = device_host_alloc((size_t)n * sizeof *host), *gpu = device_alloc((size_t)n * sizeof *gpu);
    memset(host, 0xff, (size_t)n * sizeof *host);
    for (int64_t i = first[own]; i < first[own + 1]; i++) host[i] = (float)(i % 100003);
    device_copy(gpu, host, (size_t)n * sizeof *host, STREAM_COMPUTE);
    tensor     t = on_gpu(gpu, DT_F32, n);
    comm_piece piece[64];
    pieces_of(&t, first, piece);
    comm_share(&world, piece, world.size);
    device_copy(host, gpu, (size_t)n * sizeof *host, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    for (int64_t i = 0; i < n; i++) assert_true(host[i] == (float)(i % 100003));
    /* Now all hold the same: of the sum each rank gets its slice. */
    comm_wait(comm_sum_slices_start(&world, &t, first));
    device_copy(host, gpu, (size_t)n * sizeof *host, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    for (int64_t i = first[own]; i < first[own + 1]; i++) assert_true(host[i] == (float)(world.size * (i % 100003)));
    double *one = device_host_alloc((size_t)world.size * sizeof *one),
           *sums = device_alloc((size_t)world.size * sizeof *one);
    for (int r = 0; r < world.size; r++) one[r] = r == world.rank ? 1 + r / 3.0 : 0;
    device_copy(sums, one, (size_t)world.size * sizeof *one, STREAM_COMPUTE);
    tensor all = tensor_wrap(sums, DT_F64, DIMS(world.size));
    all.dev = DEV_CUDA;
    comm_wait(comm_sum_start(&world, &all));
    device_copy(one, sums, (size_t)world.size * sizeof *one, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    for (int r = 0; r < world.size; r++) assert_true(one[r] == 1 + r / 3.0);
    device_host_free(one);
    device_free(sums);
    device_host_free(host);
    device_free(gpu);
}

/* As after an update: slices of one length, the rest behind them, and small pieces of another type, one of them of the
 * first slice's owner again. */
static void test_share(void **state) {
    enum { SMALL = 5, EVEN = 1000, REST = 7 };
    (void)state;
    int64_t    n = EVEN * world.size + REST, first[64] = {0};
    uint16_t  *host = device_host_alloc((size_t)n * sizeof *host), *gpu = device_alloc((size_t)n * sizeof *gpu);
    float     *host_small = device_host_alloc(SMALL * sizeof *host_small), *small = device_alloc(SMALL * sizeof *small);
    tensor     t = on_gpu(gpu, DT_BF16, n), few = on_gpu(small, DT_F32, SMALL);
    comm_piece piece[64 + 1 + SMALL];
    int        n_pieces = world.size;
    for (int s = 0; s <= world.size; s++) first[s] = (int64_t)EVEN * s;
    pieces_of(&t, first, piece);
    piece[n_pieces++] = (comm_piece){tensor_rows(&t, n - REST, REST), comm_owner(&world, world.size - 1)};
    for (int i = 0; i < SMALL; i++)
        piece[n_pieces++] = (comm_piece){tensor_rows(&few, i, 1), comm_owner(&world, i / 2 % world.size)};
    for (int i = 0; i < n; i++) {
        int s = i / EVEN < world.size ? i / EVEN : world.size - 1;
        host[i] = comm_owner(&world, s) == world.rank ? (uint16_t)(i % 30000) : 0xffff;
    }
    for (int i = 0; i < SMALL; i++)
        host_small[i] = comm_owner(&world, i / 2 % world.size) == world.rank ? (float)i : -1;
    device_copy(gpu, host, (size_t)n * sizeof *host, STREAM_COMPUTE);
    device_copy(small, host_small, SMALL * sizeof *small, STREAM_COMPUTE);
    comm_share(&world, piece, n_pieces);
    device_copy(host, gpu, (size_t)n * sizeof *host, STREAM_COMPUTE);
    device_copy(host_small, small, SMALL * sizeof *small, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    for (int i = 0; i < n; i++) assert_int_equal(host[i], i % 30000);
    for (int i = 0; i < SMALL; i++) assert_true(host_small[i] == (float)i);
    device_host_free(host);
    device_host_free(host_small);
    device_free(gpu);
    device_free(small);
}

/* Bus bandwidth of a sum of 256 MB, as nccl-tests counts it. */
static void test_speed(void **state) {
    (void)state;
    enum { ROUNDS = 10 };
    int64_t       n = SPEED_FLOATS;
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
    int         node_ranks = argc > 2 ? atoi(argv[2]) : 0;
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
    if (node_ranks > 0) comm_levels_open(&world, node_ranks);
    comm_device_open(&world, hangs ? 3 : 60);
    if (hangs) hang();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sums), cmocka_unit_test(test_same_bits),
                                       cmocka_unit_test(test_slices), cmocka_unit_test(test_share),
                                       cmocka_unit_test(test_speed)};
    failed = cmocka_run_group_tests_name("nccl", tests, NULL, NULL);
    comm_device_close(&world);
    comm_levels_close(&world);
    comm_finish(&world);
    return failed;
}
