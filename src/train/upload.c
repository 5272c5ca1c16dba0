#include "train/upload.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

void upload_room(uploads *u, device_kind dev, size_t bytes) {
    u->dev = dev;
    if (dev == DEV_CPU || u->place[0].size >= bytes) return;
    for (int i = 0; i < UPLOAD_PLACES; i++) {
        CHECK(!u->in[i], "a batch is under way");
        if (u->place[i].base) arena_free(&u->place[i]);
        u->place[i] = arena_new_on("batch on the GPU", bytes, dev);
        if (!u->released[i]) u->released[i] = device_event_new();
    }
}

void upload_free(uploads *u) {
    for (int i = 0; i < UPLOAD_PLACES; i++) {
        if (u->place[i].base) arena_free(&u->place[i]);
        device_event_free(u->released[i]);
    }
    *u = (uploads){0};
}

static void move_to(const task *t, micro_batch *b, char *to, device_kind dev) {
    t->tensors(t, b, tensor_move, &(memory_move){b->base, b->host->used, to, dev});
    b->base = to;
}

/* An address that is not NULL. */
static char *nowhere(void) {
    return (char *)(uintptr_t)4096;
}

void upload_pretend(device_kind dev, const task *t, micro_batch *b) {
    if (dev != DEV_CPU) move_to(t, b, nowhere(), dev);
}

static int place_of(const uploads *u, const micro_batch *b) {
    int i = 0;
    while (i < UPLOAD_PLACES && u->in[i] != b) i++;
    return i;
}

void upload_start(uploads *u, const task *t, micro_batch *b) {
    if (u->dev == DEV_CPU || place_of(u, b) < UPLOAD_PLACES) return;
    int at = u->turn; /* or, if the next batch of training waits there, the other one */
    for (int i = 1; i < UPLOAD_PLACES && u->in[at]; i++) at = (at + 1) % UPLOAD_PLACES;
    CHECK(!u->in[at], "%d batches are under way already", (int)UPLOAD_PLACES);
    CHECK(b->host->used <= u->place[at].size, "a batch of %.1f MB, there is room for %.1f MB",
          (double)b->host->used / 1e6, (double)u->place[at].size / 1e6);
    device_event_wait(u->released[at], STREAM_COPY);
    device_copy(u->place[at].base, b->host->base, b->host->used, STREAM_COPY);
    device_event_record(b->uploaded, STREAM_COPY);
    move_to(t, b, u->place[at].base, u->dev);
    u->in[at] = b;
    u->turn = (at + 1) % UPLOAD_PLACES;
}

void upload_use(uploads *u, const task *t, micro_batch *b) {
    if (u->dev == DEV_CPU) return;
    upload_start(u, t, b);
    device_event_wait(b->uploaded, STREAM_COMPUTE);
}

void upload_done(uploads *u, const micro_batch *b) {
    if (u->dev == DEV_CPU) return;
    int at = place_of(u, b);
    CHECK(at < UPLOAD_PLACES, "a batch that was not started");
    device_event_record(u->released[at], STREAM_COMPUTE);
    u->in[at] = NULL;
}

void upload_forget(uploads *u) {
    for (int i = 0; i < UPLOAD_PLACES; i++) u->in[i] = NULL; /* copies into a place follow each other in their stream */
}

void upload_wait(const micro_batch *b) {
    const struct timespec pause = {.tv_nsec = 50000};
    while (b->uploaded && !device_event_done(b->uploaded)) nanosleep(&pause, NULL);
}

/* Of the copy: later samples may have a little more. */
static size_t copy_bytes(size_t used) {
    return used + used / 8;
}

memory_move upload_once_pretend(device_kind dev, const arena *host, size_t *bytes) {
    *bytes = dev == DEV_CPU ? host->used : copy_bytes(host->used);
    return (memory_move){host->base, host->used, nowhere(), dev};
}

memory_move upload_once(device_kind dev, const arena *host, arena *copy) {
    if (copy->size < host->used || !copy->base) {
        if (copy->base) arena_free(copy);
        *copy = arena_new_on("batch on the GPU", copy_bytes(host->used), dev);
    }
    device_copy(copy->base, host->base, host->used, STREAM_COMPUTE);
    return (memory_move){host->base, host->used, copy->base, dev};
}

const float *download_f32(const tensor *x, arena *host) {
    CHECK(x->dt == DT_F32, "a result in %s", dtype_name(x->dt));
    if (x->dev == DEV_CPU) return F32(x);
    float *out = arena_alloc(host, tensor_bytes(x));
    device_copy(out, x->data, tensor_bytes(x), STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    return out;
}

void values_init(loss_values *v, device_kind dev, int64_t most) {
    size_t bytes = (size_t)most * sizeof *v->value;
    *v = (loss_values){.dev = dev, .most = most};
    v->value = dev == DEV_CPU ? malloc(bytes) : device_host_alloc(bytes);
    v->into = malloc((size_t)most * sizeof *v->into);
    CHECK(v->value && v->into, "no memory for %lld losses", (long long)most);
}

void values_free(loss_values *v) {
    if (v->dev == DEV_CPU)
        free(v->value);
    else
        device_host_free(v->value);
    free(v->into);
    *v = (loss_values){0};
}

static void take(loss_values *v, const tensor *x) {
    int64_t n = tensor_count(x);
    CHECK(x->dt == DT_F64 && v->n + n <= v->most, "%lld more losses beside %lld, foreseen are %lld", (long long)n,
          (long long)v->n, (long long)v->most);
    if (x->dev == DEV_CPU)
        memcpy(v->value + v->n, x->data, (size_t)n * sizeof *v->value);
    else
        device_copy(v->value + v->n, x->data, (size_t)n * sizeof *v->value, STREAM_COMPUTE);
    v->n += n;
}

void values_take(loss_values *v, const micro_batch *b, const tensor *value, int n) {
    int64_t first = v->n;
    for (int i = 0; i < n; i++) take(v, &value[i]);
    CHECK(v->n - first == b->n_values, "forward left %lld losses, the batch says %lld", (long long)(v->n - first),
          (long long)b->n_values);
    memcpy(v->into[first], b->into, (size_t)b->n_values * sizeof *v->into);
}

int64_t values_take_plain(loss_values *v, const tensor *x) {
    int64_t first = v->n;
    take(v, x);
    memset(v->into[first], NO_SUM, (size_t)(v->n - first) * sizeof *v->into);
    return first;
}

void values_add(loss_values *v, double sum[TASK_SUMS]) {
    for (int64_t i = 0; i < v->n; i++)
        for (int k = 0; k < 2; k++)
            if (v->into[i][k] != NO_SUM) sum[v->into[i][k]] += v->value[i];
    v->n = 0;
}
