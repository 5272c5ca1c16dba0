#include "train/engine.h"

#include <stdio.h>

#include "core/fault.h"
#include "core/host_memory.h"
#include "kernels/backend.h"

enum { TRIES = 3 };

/* Address space, not memory: the records of a tape are small beside the activations. */
static const size_t BOOK_BYTES = (size_t)256 << 20;

void engine_init(engine *e, const place *p, size_t bound, recompute_rule rule) {
    *e = (engine){.bound = bound,
                  .rule = rule,
                  .book = arena_new("book", BOOK_BYTES),
                  .step = arena_new_on("step", 0, p->dev),
                  .c = place_ctx(p)};
    e->c.scratch = arena_new_on("scratch", p->dev == DEV_CPU ? place_scratch_bytes(p->dev, 0, 0) : 0, p->dev);
}

void engine_free(engine *e) {
    arena_free(&e->step);
    arena_free(&e->book);
    place_ctx_free(&e->c);
    *e = (engine){0};
}

static void attach(engine *e, arena *step, bool recording, int recompute) {
    void (*hook)(void *, int) = e->t.on_layer_done;
    void *user = e->t.user;
    e->t = (tape){.c = &e->c,
                  .step = step,
                  .book = &e->book,
                  .recording = recording,
                  .recompute_first = recompute,
                  .on_layer_done = hook,
                  .user = user};
}

static size_t dry_pass(engine *e, task *t, const micro_batch *b, bool recording, int recompute, int *n_segments) {
    arena  counting = arena_counting_on("step", e->step.dev);
    double count[TASK_SUMS] = {0};
    tensor value[TASK_TENSORS];
    attach(e, &counting, recording, recompute);
    tape dry = e->t;
    dry.on_layer_done = NULL;
    e->c.dry = true;
    tape_begin(&dry);
    t->forward(t, &dry, b, count, value);
    *n_segments = dry.n_segments;
    if (recording) tape_backward(&dry);
    e->c.dry = false;
    attach(e, &e->step, recording, recompute);
    return counting.peak;
}

bool engine_measure(engine *e, task *t, const micro_batch *b, engine_need *need, status *st) {
    int n = 0, all = 1 << 20; /* segments */
    *need = (engine_need){0};
    need->bytes = dry_pass(e, t, b, true, e->rule == RECOMPUTE_ON ? all : 0, &n);
    need->n_segments = n;
    need->recomputed = e->rule == RECOMPUTE_ON ? n : 0;
    if (e->bound == 0 || need->bytes <= e->bound) return true;
    if (e->rule == RECOMPUTE_AUTO) { /* the fewest that fit */
        int low = 0, high = n;
        while (high - low > 1) {
            int    middle = (low + high) / 2, ignored;
            size_t bytes = dry_pass(e, t, b, true, middle, &ignored);
            if (bytes <= e->bound)
                high = middle;
            else
                low = middle;
        }
        int ignored;
        need->bytes = dry_pass(e, t, b, true, high, &ignored);
        need->recomputed = high;
        if (need->bytes <= e->bound) return true;
    }
    char rank[128] = "";
    if (e->host_bound) snprintf(rank, sizeof rank, "%s: ", place_who());
    return status_set(st, e->host_bound ? ST_MEMORY : ST_CONFIG,
                      "%sa micro-batch of %lld tiles in %lld samples needs %.0f MB with %d of %d segments recomputed, "
                      "%s %.0f: %s, or "
                      "lower train.micro_tokens or data.max_tiles%s",
                      rank, (long long)b->n_tiles, (long long)b->n_samples, (double)need->bytes / 1e6, need->recomputed,
                      n,
                      e->host_bound ? "its share of the host's memory leaves"
                      : e->frozen   ? "the memory taken for train.memory_mb is"
                                    : "train.memory_mb allows",
                      (double)e->bound / 1e6, e->host_bound ? "start fewer ranks on a host" : "raise it",
                      e->rule == RECOMPUTE_OFF ? ", or set train.recompute=auto" : "");
}

size_t engine_measure_forward(engine *e, task *t, const micro_batch *b) {
    int n;
    return dry_pass(e, t, b, false, 0, &n);
}

static bool make_room(engine *e, arena *a, const char *name, size_t bytes, size_t most) {
    if (a->size >= bytes) return true;
    if (e->frozen) return false;
    device_kind dev = a->dev;
    size_t      roomy = bytes + bytes / 8;
    if (most > 0 && roomy > most) roomy = most;
    arena_free(a);
    if (dev == DEV_CPU) return !fault_at("engine.room") && (arena_try(a, name, roomy) || arena_try(a, name, bytes));
    *a = arena_new_on(name, roomy, dev);
    return true;
}

bool engine_room(engine *e, size_t bytes, int64_t n_tiles) {
    size_t scratch = place_scratch_bytes(e->step.dev, n_tiles, e->gpu_per_tile);
    /* On a GPU the amount is real memory and bound by what is free. */
    return make_room(e, &e->step, "step", bytes, e->bound >= bytes ? e->bound : 0) &&
           make_room(e, &e->c.scratch, "scratch", scratch, e->step.dev == DEV_CUDA ? scratch : 0);
}

static bool no_memory(const engine *e, const micro_batch *b, size_t bytes, status *st) {
    return status_set(
        st, ST_MEMORY,
        "%s: no memory for %.0f MB of activations of a micro-batch of %lld tiles, %.0f MB are left: lower "
        "train.micro_tokens or data.cache_mb, or start fewer ranks on a host%s",
        place_who(), (double)bytes / 1e6, (long long)b->n_tiles, (double)host_memory_left() / 1e6,
        e->rule == RECOMPUTE_OFF ? ", or set train.recompute=auto" : "");
}

bool engine_prepare(engine *e, task *t, const micro_batch *b, engine_need *need, status *st) {
    for (int tries = 1; engine_measure(e, t, b, need, st); tries++) {
        if (engine_room(e, need->bytes, b->n_tiles)) {
            attach(e, &e->step, true, need->recomputed);
            return true;
        }
        if (e->frozen)
            return status_set(st, ST_CONFIG,
                              "a micro-batch of %lld tiles is larger than any that was foreseen (%.0f MB of "
                              "scratch memory): set train.micro_tokens",
                              (long long)b->n_tiles, (double)e->c.scratch.size / 1e6);
        int    ignored;
        size_t least = e->rule == RECOMPUTE_AUTO ? dry_pass(e, t, b, true, 1 << 20, &ignored) : need->bytes;
        if (tries == TRIES || need->bytes <= least) return no_memory(e, b, need->bytes, st);
        log_warn("no memory on this host for %.1f MB of activations: more is recomputed (%d of %d)",
                 (double)need->bytes / 1e6, tries, (int)TRIES - 1);
        e->bound = tries == TRIES - 1 ? least : (need->bytes + least) / 2;
        e->host_bound = true;
    }
    return false;
}

bool engine_prepare_forward(engine *e, task *t, const micro_batch *b, status *st) {
    size_t bytes = engine_measure_forward(e, t, b);
    bool   room = engine_room(e, bytes, b->n_tiles);
    if (!room && !e->frozen) return no_memory(e, b, bytes, st);
    if (!room)
        return status_set(st, ST_CONFIG,
                          "a held-out sample of %lld tiles needs %.0f MB, %.0f were taken for training: lower "
                          "data.max_tiles or raise train.memory_mb",
                          (long long)b->n_tiles, (double)bytes / 1e6, (double)e->step.size / 1e6);
    attach(e, &e->step, false, 0);
    return true;
}

void engine_freeze(engine *e) {
    e->frozen = true;
    e->bound = e->step.size;
}
