#include "train/engine.h"

#include "kernels/backend.h"

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
    return status_set(st, ST_CONFIG,
                      "a micro-batch of %lld tiles in %lld samples needs %.0f MB with %d of %d segments recomputed, "
                      "%s %.0f: raise it, or lower train.micro_tokens or data.max_tiles%s",
                      (long long)b->n_tiles, (long long)b->n_samples, (double)need->bytes / 1e6, need->recomputed, n,
                      e->frozen ? "the memory taken for train.memory_mb is" : "train.memory_mb allows",
                      (double)e->bound / 1e6, e->rule == RECOMPUTE_OFF ? ", or set train.recompute=auto" : "");
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
    *a = arena_new_on(name, roomy, dev);
    return true;
}

bool engine_room(engine *e, size_t bytes, int64_t n_tiles) {
    size_t scratch = place_scratch_bytes(e->step.dev, n_tiles, e->gpu_per_tile);
    /* On a GPU the amount is real memory and bound by what is free. */
    return make_room(e, &e->step, "step", bytes, e->bound >= bytes ? e->bound : 0) &&
           make_room(e, &e->c.scratch, "scratch", scratch, e->step.dev == DEV_CUDA ? scratch : 0);
}

bool engine_prepare(engine *e, task *t, const micro_batch *b, engine_need *need, status *st) {
    if (!engine_measure(e, t, b, need, st)) return false;
    if (!engine_room(e, need->bytes, b->n_tiles))
        return status_set(st, ST_CONFIG,
                          "a micro-batch of %lld tiles is larger than any that was foreseen (%.0f MB of "
                          "scratch memory): set train.micro_tokens",
                          (long long)b->n_tiles, (double)e->c.scratch.size / 1e6);
    attach(e, &e->step, true, need->recomputed);
    return true;
}

bool engine_prepare_forward(engine *e, task *t, const micro_batch *b, status *st) {
    size_t bytes = engine_measure_forward(e, t, b);
    if (!engine_room(e, bytes, b->n_tiles))
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
