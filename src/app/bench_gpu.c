#include "app/bench_gpu.h"

#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "core/half.h"

enum { WARM_UP = 3, LEAST_RUNS = 10, MOST_RUNS = 500 };
static const double LEAST_SECONDS = 0.1;
static const size_t FLUSH = (size_t)256 << 20, SCRATCH = (size_t)6 << 30, PIECE = (size_t)64 << 20 /* elements */;

static struct {
    ctx           c;
    arena         memory;
    void         *flush;
    device_event *event[2 * MOST_RUNS];
} gpu;

/* ---- tensors on the GPU ----------------------------------------------------------------------------------------- */

static tensor piece_of(void *data, dtype dt, size_t at, int64_t n) {
    tensor t = tensor_wrap((char *)data + at * dtype_size(dt), dt, DIMS(n));
    t.dev = DEV_CUDA;
    return t;
}

/* n elements from host memory, f32 to bf16 where the GPU has that. */
static void upload(void *to, dtype to_dt, const void *from, dtype from_dt, size_t n) {
    if (to_dt == from_dt) {
        device_copy(to, from, n * dtype_size(from_dt), STREAM_COMPUTE);
        return;
    }
    size_t mark = arena_mark(&gpu.memory), most = n < PIECE ? n : PIECE;
    void  *wide = arena_alloc(&gpu.memory, most * sizeof(float));
    for (size_t at = 0; at < n; at += most) {
        size_t k = n - at < most ? n - at : most;
        tensor x = piece_of(wide, DT_F32, 0, (int64_t)k), y = piece_of(to, to_dt, at, (int64_t)k);
        device_copy(wide, (const float *)from + at, k * sizeof(float), STREAM_COMPUTE);
        copy_fwd(&gpu.c, &(xy_args){.x = &x, .y = &y});
    }
    arena_reset(&gpu.memory, mark);
}

static void download(void *to, dtype to_dt, const void *from, dtype from_dt, size_t n) {
    if (to_dt == from_dt) {
        device_copy(to, from, n * dtype_size(to_dt), STREAM_COMPUTE);
        return;
    }
    size_t mark = arena_mark(&gpu.memory), most = n < PIECE ? n : PIECE;
    void  *wide = arena_alloc(&gpu.memory, most * sizeof(float));
    for (size_t at = 0; at < n; at += most) {
        size_t k = n - at < most ? n - at : most;
        tensor x = piece_of((void *)(uintptr_t)from, from_dt, at, (int64_t)k),
               y = piece_of(wide, DT_F32, 0, (int64_t)k);
        copy_fwd(&gpu.c, &(xy_args){.x = &x, .y = &y});
        device_copy((float *)to + at, wide, k * sizeof(float), STREAM_COMPUTE);
    }
    arena_reset(&gpu.memory, mark);
}

/* Places the tensors of a call on the GPU. `sums`: accumulated outputs start with their values, else at zero. */
static void place(op_tensors *l, const void *host[OP_TENSORS], bool sums) {
    for (int i = 0; i < l->n; i++) {
        op_tensor *e = &l->at[i];
        dtype      from = e->t->dt, to = op_tensor_dtype(e, gpu.c.act, false);
        size_t     n = (size_t)op_tensor_span(e);
        host[i] = e->t->data;
        e->t->data = arena_alloc(&gpu.memory, n * dtype_size(to));
        e->t->dt = to;
        e->t->dev = DEV_CUDA;
        if (e->role == ROLE_IN || (e->role == ROLE_ACC && sums))
            upload(e->t->data, to, host[i], from, n);
        else
            device_zero(e->t->data, n * dtype_size(to), STREAM_COMPUTE);
    }
}

static void call(op_id op, void *args) {
    op_tensors  l;
    const void *host[OP_TENSORS];
    size_t      mark = arena_mark(&gpu.memory);
    op_list(op, args, &l);
    place(&l, host, true);
    op_table[op].front(&gpu.c, args);
    for (int i = 0; i < l.n; i++) {
        const op_tensor *e = &l.at[i];
        if (e->role != ROLE_IN)
            download((void *)(uintptr_t)host[i], e->as == AS_FIXED ? e->t->dt : DT_F32, e->t->data, e->t->dt,
                     (size_t)op_tensor_span(e));
    }
    device_sync(STREAM_COMPUTE);
    arena_reset(&gpu.memory, mark);
}

#define X(name, type)                                                                                                  \
    static void name##_on_gpu(ctx *c, const type *a) {                                                                 \
        type args = *a;                                                                                                \
        (void)c;                                                                                                       \
        call(OP_##name, &args);                                                                                        \
    }
BACKEND_OPS(X)
#undef X

const backend *bench_gpu_backend(void) {
    static const backend be = {.name = "cuda",
                               .dev = DEV_CPU,
#define X(name, type) .name = name##_on_gpu,
                               BACKEND_OPS(X)
#undef X
    };
    return &be;
}

void bench_gpu_round(op_id op, const void *args) {
    char       copy[OP_ARGS_BYTES];
    op_tensors l;
    memcpy(copy, args, op_table[op].args_bytes);
    op_list(op, copy, &l);
    for (int i = 0; i < l.n; i++) {
        const op_tensor *e = &l.at[i];
        if (e->role == ROLE_OUT || e->t->dt != DT_F32 || op_tensor_dtype(e, gpu.c.act, false) != DT_BF16) continue;
        float *x = F32(e->t);
        for (int64_t k = 0, n = op_tensor_span(e); k < n; k++) x[k] = bf16_to_f32(f32_to_bf16(x[k]));
    }
}

/* ---- time ---------------------------------------------------------------------------------------------------------
 */

/* Median and 95th percentile in microseconds of at least LEAST_SECONDS of calls; returns the number of calls. */
static int measure(op_id op, const void *args, bool cold, double *median, double *p95) {
    static double t[MOST_RUNS];
    op_front      fn = op_table[op].front;
    for (int i = 0; i < WARM_UP; i++) fn(&gpu.c, args);
    device_event_record(gpu.event[0], STREAM_COMPUTE);
    fn(&gpu.c, args);
    device_event_record(gpu.event[1], STREAM_COMPUTE);
    device_event_sync(gpu.event[1]);
    double one = device_event_seconds(gpu.event[0], gpu.event[1]), wanted = one > 0 ? LEAST_SECONDS / one : MOST_RUNS;
    int    n = wanted > MOST_RUNS ? MOST_RUNS : wanted < LEAST_RUNS ? LEAST_RUNS : (int)wanted;
    for (int i = 0; i < n; i++) {
        if (cold) device_zero(gpu.flush, FLUSH, STREAM_COMPUTE);
        device_event_record(gpu.event[2 * i], STREAM_COMPUTE);
        fn(&gpu.c, args);
        device_event_record(gpu.event[2 * i + 1], STREAM_COMPUTE);
    }
    device_event_sync(gpu.event[2 * n - 1]);
    for (int i = 0; i < n; i++) t[i] = device_event_seconds(gpu.event[2 * i], gpu.event[2 * i + 1]) * 1e6;
    qsort(t, (size_t)n, sizeof *t, ascending_f64);
    *median = t[n / 2];
    *p95 = t[(int)(0.95 * (n - 1))];
    return n;
}

bench_times bench_gpu_time(op_id op, const void *args) {
    char        copy[OP_ARGS_BYTES];
    op_tensors  l;
    const void *host[OP_TENSORS];
    bench_times r = {0};
    size_t      mark = arena_mark(&gpu.memory);
    memcpy(copy, args, op_table[op].args_bytes);
    op_list(op, copy, &l);
    place(&l, host, false);
    r.runs = measure(op, copy, false, &r.warm, &r.warm_p95);
    r.runs += measure(op, copy, true, &r.cold, &r.cold_p95);
    r.bytes = op_list_bytes(&l);
    arena_reset(&gpu.memory, mark);
    return r;
}

/* ---- opening --------------------------------------------------------------------------------------------------------
 */

bool bench_gpu_open(bench_gpu *g, dtype act, const char **why) {
    device_info d;
    size_t      free_bytes, all;
    *g = (bench_gpu){0};
    *why = "this build has no CUDA";
    if (!backend_find("cuda") || device_count(why) == 0) return false;
    device_open(0);
    if (device_describe(0, &d)) memcpy(g->name, d.name, sizeof g->name);
    gpu.c = (ctx){.be = backend_find("cuda"),
                  .scratch = arena_new_on("scratch", SCRATCH, DEV_CUDA),
                  .act = act,
                  .deterministic = true};
    gpu.c.be->open(&gpu.c);
    gpu.flush = device_alloc(FLUSH);
    g->peak = bench_peak(&gpu.c, DEV_CUDA, act == DT_BF16 ? 8192 : 4096, (size_t)1 << 30);
    device_memory(&free_bytes, &all);
    gpu.memory = arena_new_on("bench", free_bytes - free_bytes / 8, DEV_CUDA);
    for (int i = 0; i < 2 * MOST_RUNS; i++) gpu.event[i] = device_event_new();
    return true;
}

void bench_gpu_close(void) {
    for (int i = 0; i < 2 * MOST_RUNS; i++) device_event_free(gpu.event[i]);
    device_free(gpu.flush);
    arena_free(&gpu.memory);
    arena_free(&gpu.c.scratch);
    gpu.c.be->close(&gpu.c);
}
