#include "nn/rig.h"

#include <string.h>

#include "core/device.h"
#include "core/half.h"
#include "gpu/hosted.h"
#include "gpu/sim16.h"
#include "kernels/backend.h"

static bool on_gpu(const rig *r) {
    return r->c.be->dev == DEV_CUDA;
}

void rig_open(rig *r, const char *backend_name, size_t mb) {
    size_t      bytes = mb << 20;
    bool        gpu = strncmp(backend_name, "gpu ", 4) == 0, sim = strcmp(backend_name, "sim bf16") == 0;
    device_kind dev = gpu ? DEV_CUDA : DEV_CPU;
    *r = (rig){0};
    if (gpu)
        r->c = hosted_ctx(hosted_act(backend_name));
    else
        r->c = (ctx){.be = sim ? sim16_backend() : hosted_find(backend_name),
                     .scratch = arena_new("scratch", bytes),
                     .deterministic = true};
    r->bf16 = sim || r->c.act == DT_BF16;
    r->step = arena_new_on("step", bytes, dev);
    r->weights = arena_new_on("weights", bytes, dev);
    r->book = arena_new("book", bytes);
    r->host = arena_new("host", bytes);
    if (gpu) r->sent = arena_new_on("sent", bytes, dev);
    r->t = (tape){.c = &r->c, .step = &r->step, .book = &r->book, .recording = true};
}

void rig_close(rig *r) {
    arena *all[] = {&r->step, &r->book, &r->host, &r->weights};
    for (int i = 0; i < 4; i++) arena_free(all[i]);
    if (on_gpu(r))
        arena_free(&r->sent);
    else
        arena_free(&r->c.scratch);
}

tensor rig_send(rig *r, tensor t) {
    if (!on_gpu(r) || !t.data) return t;
    tensor s = arena_tensor(&r->sent, t.dt, t.dim, t.n_dims);
    device_copy(s.data, t.data, tensor_bytes(&t), STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    return s;
}

void rig_send_visit(void *user, tensor *t) {
    *t = rig_send(user, *t);
}

tensor rig_see(rig *r, const tensor *t) {
    tensor s = *t;
    if (t->dev != DEV_CPU) {
        s = arena_tensor(&r->host, t->dt, t->dim, t->n_dims);
        device_copy(s.data, t->data, tensor_bytes(t), STREAM_COMPUTE);
        device_sync(STREAM_COMPUTE);
    }
    if (s.dt != DT_BF16) return s;
    tensor f = arena_tensor(&r->host, DT_F32, t->dim, t->n_dims);
    for (int64_t i = 0, n = tensor_count(&f); i < n; i++) F32(&f)[i] = bf16_to_f32(BF16(&s)[i]);
    return f;
}

const float *rig_f32(rig *r, const tensor *t) {
    tensor s = rig_see(r, t);
    return F32(&s);
}

void rig_params(rig *r, params *p) {
    p->act = r->c.act;
    params_alloc(p, &r->weights, true, false);
}

void rig_set_weight(params *p, const param *row, const float *w) {
    slab_write(p->dev, p->w, row->offset, row->count, w);
}

void rig_weights_done(rig *r, params *p) {
    params_refresh16(&r->c, p);
}

/* ---- a selection from outside --------------------------------------------------------------------------------- */

enum { MOST_CALLS = 64 };
static struct {
    backend be;
    tensor  block[MOST_CALLS];
    int     n, next;
} fixed;

static void topk_fixed(ctx *c, const topk_blocks_args *a) {
    (void)c;
    CHECK(fixed.next < fixed.n, "more than %d selections", fixed.n);
    const tensor *block = &fixed.block[fixed.next++];
    CHECK(tensor_bytes(a->block) == tensor_bytes(block), "a selection of another shape");
    if (block->dev == DEV_CPU)
        memcpy(a->block->data, block->data, tensor_bytes(block));
    else
        device_copy(a->block->data, block->data, tensor_bytes(block), STREAM_COMPUTE);
}

void rig_fix_selection(rig *r, const tensor *block, int n) {
    CHECK(n <= MOST_CALLS, "%d selections", n);
    fixed.be = *r->c.be;
    fixed.be.topk_blocks_fwd = topk_fixed;
    fixed.n = n;
    fixed.next = 0;
    for (int i = 0; i < n; i++) fixed.block[i] = rig_send(r, block[i]);
    r->c.be = &fixed.be;
}
