#include "gpu/hosted.h"

#include <string.h>

#include "core/device.h"
#include "core/half.h"
#include "harness/harness.h"

enum { GUARD = 256 };
static const size_t SCRATCH = (size_t)1 << 30, LEAST_ROOM = (size_t)64 << 20;

static struct {
    ctx    c; /* of the CUDA back end */
    size_t dirty;
    char  *gpu, *sent, *back; /* one image of all tensors of a call: on the GPU, what went there, what came back */
    size_t room;
    char  *fill; /* 0xFF on the GPU, as large as the room */
    bool   wide;
    size_t scratch; /* that a call has; 0: SCRATCH */
} h;

bool hosted_there(const char **why) {
    if (!backend_find("cuda")) {
        *why = "this build has no CUDA";
        return false;
    }
    return device_count(why) > 0;
}

static void open_gpu(void) {
    if (h.c.be) return;
    device_open(0);
    h.c = (ctx){.be = backend_find("cuda"),
                .scratch = arena_new_on("test scratch", SCRATCH, DEV_CUDA),
                .act = DT_F32,
                .deterministic = true};
    h.dirty = SCRATCH;
    h.c.be->open(&h.c);
}

ctx hosted_ctx(dtype act) {
    open_gpu();
    ctx c = h.c;
    c.act = act;
    return c;
}

void hosted_set_wide(bool wide) {
    h.wide = wide;
}
bool hosted_wide(void) {
    return h.wide;
}

size_t hosted_scratch_taken(void) {
    return h.c.scratch.peak;
}
void hosted_set_scratch(size_t bytes) {
    h.scratch = bytes;
}

static void make_room(size_t bytes) {
    if (bytes <= h.room) return;
    device_free(h.gpu);
    device_free(h.fill);
    device_host_free(h.sent);
    device_host_free(h.back);
    h.room = bytes > LEAST_ROOM ? bytes + bytes / 4 : LEAST_ROOM;
    h.gpu = device_alloc(h.room);
    h.fill = device_alloc(h.room);
    h.sent = device_host_alloc(h.room);
    h.back = device_host_alloc(h.room);
    memset(h.sent, 0xFF, h.room);
    device_copy(h.fill, h.sent, h.room, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE); /* the image is written next */
}

static void poison_scratch(void) {
    for (size_t at = 0; at < h.dirty; at += h.room) {
        size_t n = h.dirty - at < h.room ? h.dirty - at : h.room;
        device_copy(h.c.scratch.base + at, h.fill, n, STREAM_COMPUTE);
    }
}

/* ---- one call ------------------------------------------------------------------------------------------------- */

typedef struct {
    size_t      at, bytes; /* in the image */
    const void *host;
    dtype       host_dt;
} place;

/* Places of all tensors; returns the size of the image. The offset within 64 bytes, which arenas align to, is kept in
 * elements: a column block of a wider row stays as misaligned as it is. */
static size_t lay_out(const op_tensors *l, dtype act, place *p) {
    size_t at = GUARD;
    for (int i = 0; i < l->n; i++) {
        const op_tensor *e = &l->at[i];
        size_t           from = dtype_size(e->t->dt), to = dtype_size(op_tensor_dtype(e, act, h.wide));
        size_t           skew = (uintptr_t)e->t->data % 64 / from * to;
        p[i] = (place){.at = (at + GUARD - 1) / GUARD * GUARD + skew,
                       .bytes = (size_t)op_tensor_span(e) * to,
                       .host = e->t->data,
                       .host_dt = e->t->dt};
        at = p[i].at + p[i].bytes + GUARD;
    }
    return at;
}

/* Rows of a tensor as pieces without gaps. */
static int64_t n_pieces(const op_tensor *e, int64_t *elements) {
    int64_t n = tensor_count(e->t);
    bool    gaps = e->stride != 0 && n > 0;
    *elements = gaps ? n / e->t->dim[0] : n;
    return gaps ? e->t->dim[0] : 1;
}

static void send(const op_tensor *e, const place *p, dtype dt) {
    int64_t n, rows = n_pieces(e, &n);
    size_t  from = dtype_size(p->host_dt), to = dtype_size(dt);
    for (int64_t r = 0; r < rows; r++) {
        char       *dst = h.sent + p->at + (size_t)(r * e->stride) * to;
        const char *src = (const char *)p->host + (size_t)(r * e->stride) * from;
        if (e->role == ROLE_OUT)
            memset(dst, dt == DT_I32 ? 0x7F : 0xFF, (size_t)n * to);
        else if (dt == p->host_dt)
            memcpy(dst, src, (size_t)n * to);
        else
            for (int64_t i = 0; i < n; i++) ((uint16_t *)dst)[i] = f32_to_bf16(((const float *)src)[i]);
    }
}

/* Results to the host, and into `sent`, so that afterwards it must equal `back`. */
static void take(const op_tensor *e, const place *p, dtype dt) {
    int64_t n, rows = n_pieces(e, &n);
    size_t  from = dtype_size(dt), to = dtype_size(p->host_dt);
    if (e->role == ROLE_IN) return;
    for (int64_t r = 0; r < rows; r++) {
        const char *src = h.back + p->at + (size_t)(r * e->stride) * from;
        char       *dst = (char *)(uintptr_t)p->host + (size_t)(r * e->stride) * to;
        memcpy(h.sent + p->at + (size_t)(r * e->stride) * from, src, (size_t)n * from);
        if (dt == p->host_dt)
            memcpy(dst, src, (size_t)n * from);
        else
            for (int64_t i = 0; i < n; i++) ((float *)dst)[i] = bf16_to_f32(((const uint16_t *)src)[i]);
    }
}

static void check_image(const op_info *op, dtype act, const op_tensors *l, const place *p, size_t size) {
    if (memcmp(h.sent, h.back, size) == 0) return;
    size_t at = 0;
    while (h.sent[at] == h.back[at]) at++;
    for (int i = 0; i < l->n; i++) {
        if (at >= p[i].at + p[i].bytes + GUARD / 2 && i + 1 < l->n) continue;
        long long off = (long long)at - (long long)p[i].at;
        fail_msg("%s on gpu %s: wrote byte %lld of %s (%s, %zu bytes)", op->name, dtype_name(act), off, l->at[i].name,
                 off < 0 || off >= (long long)p[i].bytes ? "out of bounds"
                 : l->at[i].role == ROLE_IN              ? "an input"
                                                         : "a gap between rows",
                 p[i].bytes);
    }
}

/* The op may have taken scratch up to the peak; what follows is still the poison. */
static void check_scratch(const op_info *op) {
    arena *a = &h.c.scratch;
    size_t n = a->size - a->peak < 4096 ? a->size - a->peak : 4096;
    if (a->used != 0) fail_msg("%s on the gpu: scratch not reset", op->name);
    device_copy(h.back, a->base + a->peak, n, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)h.back[i] != 0xFF) fail_msg("%s on the gpu: wrote %zu bytes behind its scratch", op->name, i);
}

static void call(op_id op, void *args, dtype act) {
    op_tensors l;
    place      p[OP_TENSORS];
    open_gpu();
    op_list(op, args, &l);
    size_t size = lay_out(&l, act, p);
    make_room(size);
    poison_scratch();
    memset(h.sent, 0xFF, size);
    for (int i = 0; i < l.n; i++) {
        dtype dt = op_tensor_dtype(&l.at[i], act, h.wide);
        send(&l.at[i], &p[i], dt);
        l.at[i].t->data = h.gpu + p[i].at;
        l.at[i].t->dt = dt;
        l.at[i].t->dev = DEV_CUDA;
    }
    device_copy(h.gpu, h.sent, size, STREAM_COMPUTE);
    h.c.act = act;
    h.c.scratch.peak = 0;
    h.c.scratch.size = h.scratch ? h.scratch : SCRATCH;
    op_table[op].front(&h.c, args);
    h.c.scratch.size = SCRATCH;
    device_copy(h.back, h.gpu, size, STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    h.dirty = h.c.scratch.peak;
    for (int i = 0; i < l.n; i++) take(&l.at[i], &p[i], l.at[i].t->dt);
    check_image(&op_table[op], act, &l, p, size);
    check_scratch(&op_table[op]);
}

#define X(name, type)                                                                                                  \
    static void name##_gpu32(ctx *c, const type *a) {                                                                  \
        type args = *a;                                                                                                \
        (void)c;                                                                                                       \
        call(OP_##name, &args, DT_F32);                                                                                \
    }                                                                                                                  \
    static void name##_gpu16(ctx *c, const type *a) {                                                                  \
        type args = *a;                                                                                                \
        (void)c;                                                                                                       \
        call(OP_##name, &args, DT_BF16);                                                                               \
    }
BACKEND_OPS(X)
#undef X

const backend *hosted_backend(dtype act) {
    static const backend f32 = {.name = "gpu f32",
                                .dev = DEV_CPU,
#define X(name, type) .name = name##_gpu32,
                                BACKEND_OPS(X)
#undef X
    };
    static const backend bf16 = {.name = "gpu bf16",
                                 .dev = DEV_CPU,
#define X(name, type) .name = name##_gpu16,
                                 BACKEND_OPS(X)
#undef X
    };
    open_gpu();
    return act == DT_BF16 ? &bf16 : &f32;
}

const backend *hosted_find(const char *name) {
    if (strncmp(name, "gpu ", 4) == 0) return hosted_backend(hosted_act(name));
    const backend *be = backend_find(name);
    CHECK(be, "no back end %s", name);
    return be;
}

dtype hosted_act(const char *name) {
    return strcmp(name, "gpu bf16") == 0 ? DT_BF16 : DT_F32;
}

const char *const *hosted_names(int argc, char **argv) {
    static const char *const cpu[] = {"ref", "cpu"}, *const gpu[] = {"gpu f32", "gpu bf16"};
    const char *why = "";
    if (argc < 2 || strcmp(argv[1], "gpu") != 0) return cpu;
    if (hosted_there(&why)) return gpu;
    note_skip("%s", why);
    return NULL;
}
