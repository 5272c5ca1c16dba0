#include "train/engine.h"

/* Address space, not memory: pages that are not touched cost nothing. The records of a tape and the scratch of one op
 * are small beside the activations; the reference kernels take most (neighbour rows of every voxel). */
static const size_t BOOK_BYTES = (size_t)256 << 20, SCRATCH_BASE = (size_t)256 << 20,
                    SCRATCH_PER_TILE = (size_t)96 << 10;

void engine_init(engine *e, const struct backend *be, size_t bound, recompute_rule rule) {
    *e = (engine){.bound = bound, .rule = rule, .book = arena_new("book", BOOK_BYTES), .step = arena_new("step", 0)};
    e->c = (ctx){.be = be, .deterministic = true, .scratch = arena_new("scratch", SCRATCH_BASE)};
}

void engine_free(engine *e) {
    arena_free(&e->step);
    arena_free(&e->book);
    arena_free(&e->c.scratch);
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
    arena  counting = arena_counting("step");
    double count[TASK_SUMS] = {0}, sum[TASK_SUMS] = {0};
    attach(e, &counting, recording, recompute);
    tape dry = e->t;
    dry.on_layer_done = NULL;
    e->c.dry = true;
    tape_begin(&dry);
    t->forward(t, &dry, b, count, sum);
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
                      "train.memory_mb allows %.0f: raise it, or lower train.micro_tokens or data.max_tiles%s",
                      (long long)b->n_tiles, (long long)b->n_samples, (double)need->bytes / 1e6, need->recomputed, n,
                      (double)e->bound / 1e6, e->rule == RECOMPUTE_OFF ? ", or set train.recompute=auto" : "");
}

static void make_room(arena *a, const char *name, size_t bytes, size_t most) {
    if (a->size >= bytes) return;
    size_t roomy = bytes + bytes / 8;
    if (most > 0 && roomy > most) roomy = most;
    arena_free(a);
    *a = arena_new(name, roomy);
}

void engine_room(engine *e, size_t bytes, int64_t n_tiles) {
    make_room(&e->step, "step", bytes, e->bound > bytes ? e->bound : 0);
    make_room(&e->c.scratch, "scratch", SCRATCH_BASE + (size_t)n_tiles * SCRATCH_PER_TILE, 0);
}

bool engine_prepare(engine *e, task *t, const micro_batch *b, engine_need *need, status *st) {
    if (!engine_measure(e, t, b, need, st)) return false;
    engine_room(e, need->bytes, b->n_tiles);
    attach(e, &e->step, true, need->recomputed);
    return true;
}

void engine_prepare_forward(engine *e, task *t, const micro_batch *b) {
    int n;
    engine_room(e, dry_pass(e, t, b, false, 0, &n), b->n_tiles);
    attach(e, &e->step, false, 0);
}
