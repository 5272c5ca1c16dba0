#include "app/bench_peak.h"

#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "core/half.h"
#include "core/rng.h"
#include "kernels/backend.h"

enum { WARM_UP = 3, RUNS = 15, PIECES = 16 };
static const size_t SCRATCH = (size_t)512 << 20;

/* Normal numbers, in f32 or bf16, to either memory; the same sixteenth again and again from another start. */
static void fill_random(const tensor *t, uint64_t seed) {
    int64_t n = tensor_count(t), part = n / PIECES;
    float  *x = malloc((size_t)n * sizeof *x);
    CHECK(x, "no memory for %lld numbers", (long long)n);
    rng_fill_normal((rng_key){.seed = seed, .purpose = RNG_TEST}, 0, part, x);
    for (int64_t i = part; i < n; i++) x[i] = x[i - part];
    if (t->dt == DT_BF16)
        for (int64_t i = 0; i < n; i++) ((uint16_t *)x)[i] = f32_to_bf16(x[i]); /* behind what is read */
    if (t->dev == DEV_CPU) {
        memcpy(t->data, x, tensor_bytes(t));
    } else {
        device_copy(t->data, x, tensor_bytes(t), STREAM_COMPUTE);
        device_sync(STREAM_COMPUTE);
    }
    free(x);
}

typedef struct {
    ctx               *c;
    const linear_args *product; /* NULL: a copy */
    void              *to, *from;
    size_t             bytes;
    device_kind        dev;
} work;

static void run_once(const work *w) {
    if (w->product)
        linear_fwd(w->c, w->product);
    else if (w->dev == DEV_CPU)
        memcpy(w->to, w->from, w->bytes);
    else
        device_copy(w->to, w->from, w->bytes, STREAM_COMPUTE);
}

/* Median seconds. */
static double time_of(const work *w) {
    double        t[RUNS];
    device_event *e[2] = {NULL, NULL};
    bool          gpu = w->dev != DEV_CPU;
    for (int i = 0; i < 2 && gpu; i++) e[i] = device_event_new();
    for (int i = -WARM_UP; i < RUNS; i++) {
        double t0 = now_seconds();
        if (gpu) device_event_record(e[0], STREAM_COMPUTE);
        run_once(w);
        if (gpu) {
            device_event_record(e[1], STREAM_COMPUTE);
            device_event_sync(e[1]);
        }
        if (i >= 0) t[i] = gpu ? device_event_seconds(e[0], e[1]) : now_seconds() - t0;
    }
    for (int i = 0; i < 2 && gpu; i++) device_event_free(e[i]);
    qsort(t, RUNS, sizeof *t, ascending_f64);
    return t[RUNS / 2];
}

bench_peaks bench_peak(ctx *c, device_kind dev, int64_t n, size_t copy_bytes) {
    bench_peaks p = {0};
    bool        own_scratch = !c->scratch.base;
    arena       a = arena_new_on("peak", 3 * (size_t)(n * n) * dtype_size(c->act) + 2 * copy_bytes + 4096, dev);
    if (own_scratch) c->scratch = arena_new_on("scratch", SCRATCH, dev);
    tensor x = arena_tensor(&a, c->act, DIMS(n, n)), w = arena_tensor(&a, c->act, DIMS(n, n)),
           y = arena_tensor(&a, c->act, DIMS(n, n));
    fill_random(&x, 1);
    fill_random(&w, 2);
    linear_args product = {.x = &x, .w = &w, .y = &y};
    p.gemm = 2.0 * (double)n * (double)n * (double)n / time_of(&(work){.c = c, .product = &product, .dev = dev});
    if (copy_bytes > 0) {
        work k = {.dev = dev, .bytes = copy_bytes};
        k.from = arena_zeros(&a, copy_bytes);
        k.to = arena_zeros(&a, copy_bytes);
        p.copy = 2 * (double)copy_bytes / time_of(&k);
    }
    arena_free(&a);
    if (own_scratch) arena_free(&c->scratch);
    return p;
}
