/* core/device.h, and what stands on it: arenas, parameter slabs and the bf16 copy in the memory of a GPU. Without one
 * there is a reason, and the rest is skipped. */
#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "core/half.h"
#include "harness/harness.h"
#include "kernels/backend.h"
#include "nn/params.h"

enum { MB = 1 << 20 };

static void open_far(void *arg) {
    device_open(*(int *)arg);
}

static void test_count(void **state) {
    const char *why = NULL;
    device_info d;
    int         n = device_count(&why), far = 1 << 20;
    (void)state;
    assert_non_null(why);
    assert_true(n > 0 || *why);
    assert_false(device_describe(far, &d));
    if (!device_is_open()) assert_non_null(expect_fatal(open_far, &far));
    device_range_push("a range");
    device_range_pop();
    for (int i = 0; i < n; i++) {
        assert_true(device_describe(i, &d));
        assert_true(d.major >= 8 && d.multiprocessors > 0 && d.memory > MB && d.runtime > 12000 && d.name[0]);
        assert_int_equal(strlen(d.uuid), 40);
    }
}

/* Opens GPU 0 once for all tests. */
static void need_gpu(void) {
    const char *why;
    if (device_count(&why) == 0) skip_because("%s", why);
    device_open(0);
    device_open(0);
    assert_true(device_is_open());
}

static void open_other(void *arg) {
    (void)arg;
    device_open(1);
}

static void test_copies(void **state) {
    (void)state;
    need_gpu();
    assert_non_null(expect_fatal(open_other, NULL));
    enum { N = 100003 };
    device_counts before = device_counted();
    uint32_t     *from = device_host_alloc(N * sizeof *from), *to = device_host_alloc(N * sizeof *to);
    uint32_t     *a = device_alloc(N * sizeof *a), *b = device_alloc(N * sizeof *b), *plain = malloc(N * sizeof *plain);
    assert_true((uintptr_t)a % 256 == 0 && (uintptr_t)b % 256 == 0 && plain);
    for (uint32_t i = 0; i < N; i++) from[i] = i * 2654435761u;
    device_copy(a, from, N * sizeof *a, STREAM_COPY); /* up on one stream, on to b on another, down on a third */
    device_event *up = device_event_new(), *on = device_event_new();
    device_event_record(up, STREAM_COPY);
    device_event_wait(up, STREAM_COMPUTE);
    device_copy(b, a, N * sizeof *a, STREAM_COMPUTE);
    device_zero(b + 5, 10 * sizeof *b, STREAM_COMPUTE);
    device_event_record(on, STREAM_COMPUTE);
    device_event_wait(on, STREAM_COMM);
    device_copy(to, b, N * sizeof *a, STREAM_COMM);
    device_sync(STREAM_COMM);
    assert_true(device_event_done(up) && device_event_done(on));
    device_event_sync(on);
    assert_true(device_event_seconds(up, on) >= 0);
    for (uint32_t i = 0; i < N; i++) assert_true(to[i] == (i >= 5 && i < 15 ? 0 : from[i]));
    device_copy(plain, a, N * sizeof *a, STREAM_COMPUTE); /* memory that is not pinned works, too */
    device_copy(plain, a, 0, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    assert_memory_equal(plain, from, N * sizeof *a);
    device_counts after = device_counted();
    assert_int_equal(after.allocations - before.allocations, 4);
    assert_int_equal(after.uploads - before.uploads, 1);
    assert_int_equal(after.downloads - before.downloads, 2);
    assert_int_equal(after.upload_bytes - before.upload_bytes, N * sizeof *a);
    assert_int_equal(after.download_bytes - before.download_bytes, 2 * N * sizeof *a);
    assert_int_equal(after.syncs - before.syncs, 3);
    size_t free_bytes, total;
    device_memory(&free_bytes, &total);
    assert_true(free_bytes > 0 && free_bytes < total);
    device_event_free(up);
    device_event_free(on);
    device_free(a);
    device_free(b);
    device_free(NULL);
    device_host_free(from);
    device_host_free(to);
    free(plain);
}

static void fill_up(void *arg) {
    arena_alloc(arg, 2 * MB);
}

static void test_arena(void **state) {
    (void)state;
    need_gpu();
    arena a = arena_new_on("gpu", MB, DEV_CUDA), host = arena_new_on("host", MB, DEV_CPU),
          pin = arena_new_pinned("pin", MB);
    assert_true(a.dev == DEV_CUDA && host.dev == DEV_CPU && pin.dev == DEV_CPU && pin.pinned && !host.pinned);
    assert_true((uintptr_t)a.base % 256 == 0);
    tensor t = arena_tensor(&a, DT_BF16, DIMS(3, 5)), u = arena_tensor(&a, DT_F32, DIMS(7));
    assert_true(t.dev == DEV_CUDA && (char *)u.data == (char *)t.data + 64);
    size_t mark = arena_mark(&a);
    float *zero = arena_zeros(&a, 1000), *down = arena_zeros(&pin, 1000);
    down[3] = 1;
    device_copy(down, zero, 1000, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    for (int i = 0; i < 250; i++) assert_true(down[i] == 0);
    arena_reset(&a, mark);
    const char *text = expect_fatal(fill_up, &a);
    assert_true(text && strstr(text, "arena gpu is full"));
    arena_free(&a);
    arena_free(&host);
    arena_free(&pin);
    arena_free(&a);
}

static void add_rows(params *p) {
    params_init(p);
    params_add(p, 0, INIT_XAVIER, 0, DIMS(300, 70), "matrix");
    params_add(p, 0, INIT_NORMAL, 0.02, DIMS(33), "bias");
    params_add(p, 0, INIT_UNIFORM, 0.3, DIMS(27, 5, 3), "kernel");
    params_add(p, 0, INIT_ONE, 0, DIMS(4, 5), "gamma");
}

static void test_params(void **state) {
    (void)state;
    need_gpu();
    params p[2];
    arena  weights[2] = {arena_new("weights", MB), arena_new_on("weights", MB, DEV_CUDA)};
    for (int i = 0; i < 2; i++) {
        add_rows(&p[i]);
        p[i].act = DT_BF16;
        params_alloc(&p[i], &weights[i], true, true);
        params_randomize(&p[i], 5);
    }
    size_t bytes = (size_t)p[0].total * sizeof(float);
    float *down = malloc(bytes);
    assert_non_null(down);
    assert_true(p[1].dev == DEV_CUDA && params_fingerprint(&p[0]) == params_fingerprint(&p[1]));
    float *const slab[2][2] = {{p[0].w, p[0].ema}, {p[1].w, p[1].ema}};
    for (int i = 0; i < 2; i++) {
        slab_read(DEV_CUDA, slab[1][i], 0, p[1].total, down);
        assert_memory_equal(down, slab[0][i], bytes);
    }
    slab_write(DEV_CUDA, p[1].g, 16, 100, p[0].w);
    slab_read(DEV_CUDA, p[1].g, 0, p[1].total, down);
    assert_memory_equal(down + 16, p[0].w, 100 * sizeof *down);
    for (int i = 0; i < p[1].total; i++) assert_true((i >= 16 && i < 116) || down[i] == 0);
    for (int i = 0; i < 4; i++) {
        const param *r = p[1].row[i];
        assert_true(r->w.dev == DEV_CUDA && r->master.dev == DEV_CUDA && r->g.dev == DEV_CUDA);
    }
    const backend *be = backend_find("cuda");
    assert_non_null(be);
    ctx c = {.be = be, .act = DT_BF16, .scratch = arena_new_on("scratch", MB, DEV_CUDA)};
    be->open(&c);
    assert_true(c.stream == device_stream(STREAM_COMPUTE) && c.cuda);
    params_refresh16(&c, &p[1]);
    uint16_t *half = malloc(bytes);
    assert_non_null(half);
    device_copy(half, p[1].w16, bytes / 2, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    for (int64_t i = 0; i < p[0].total; i++) assert_int_equal(half[i], f32_to_bf16(p[0].w[i]));
    be->close(&c);
    assert_true(!c.stream && !c.cuda);
    arena_free(&c.scratch);
    for (int i = 0; i < 2; i++) {
        params_free(&p[i]);
        arena_free(&weights[i]);
    }
    free(down);
    free(half);
}

static void test_reopen(void **state) {
    (void)state;
    need_gpu();
    void *kept = device_alloc(100);
    device_close();
    assert_false(device_is_open());
    device_free(kept);
    device_open(0);
    device_free(device_alloc(100));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_count), cmocka_unit_test(test_copies),
                                       cmocka_unit_test(test_arena), cmocka_unit_test(test_params),
                                       cmocka_unit_test(test_reopen)};
    return test_exit(cmocka_run_group_tests(tests, NULL, NULL));
}
