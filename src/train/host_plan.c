#include "train/host_plan.h"

#include "core/host_memory.h"

/* Of the scratch arena's address space the CPU's kernels touch this much of vae_1024: 71 MB at 2,388 tiles, 35 at 520
 * (docs/perf/encoding-and-data.md). The reference kernels touch all. */
static const size_t TOUCHED_BASE = (size_t)32 << 20, TOUCHED_PER_TILE = (size_t)24 << 10;
static const size_t RESERVE = (size_t)256 << 20;

size_t host_plan_left(const comm *c) {
    int rank, ranks;
    comm_local(c, &rank, &ranks);
    return host_memory_left() / (size_t)ranks;
}

static size_t cached(const dataset *d, const options *o) {
    size_t all = (size_t)d->total_tiles * (TILE_CELLS * sizeof(uint16_t) + TILE_SHARP_BYTES + 3 * sizeof(uint16_t));
    size_t most = (size_t)o->data.cache_mb << 20;
    return all < most ? all : most;
}

host_plan host_plan_of(const stepper *w, const options *o, int64_t tiles, size_t batch_bytes, size_t slabs) {
    bool      ref = o->train.device == opt_train_device_ref;
    host_plan h = {.planned = true, .left = host_plan_left(w->c), .slabs = slabs, .reserve = RESERVE};
    int64_t   ahead = o->data.read_ahead > 1 ? o->data.read_ahead : 1;
    h.scratch = ref ? place_scratch_bytes(DEV_CPU, tiles, 0) : TOUCHED_BASE + (size_t)tiles * TOUCHED_PER_TILE;
    h.batches = (size_t)(ahead + 2) * batch_bytes; /* as the loader keeps them */
    h.checkpoint = saver_room(w->c, w->t, &w->x, &w->s, o);
    h.cache = cached(w->d, o);
    return h;
}

size_t host_plan_room(const host_plan *h) {
    size_t taken = h->slabs + h->scratch + h->batches + h->checkpoint + h->cache + h->reserve;
    return h->left > taken ? h->left - taken : 1;
}

void host_plan_print(const host_plan *h, size_t activations) {
    char slabs[64] = "";
    if (h->slabs > 0) snprintf(slabs, sizeof slabs, "%.0f weights and optimiser, ", (double)h->slabs / 1e6);
    log_info("memory of the host: %.0f MB for activations, %s%.0f scratch, %.0f batches, %.0f copy of a checkpoint, "
             "%.0f data (data.cache_mb), %.0f reserve; this rank's share of what is left is %.0f",
             (double)activations / 1e6, slabs, (double)h->scratch / 1e6, (double)h->batches / 1e6,
             (double)h->checkpoint / 1e6, (double)h->cache / 1e6, (double)h->reserve / 1e6, (double)h->left / 1e6);
}

bool host_plan_slabs(const comm *c, size_t bytes, status *st) {
    size_t left = host_plan_left(c);
    return bytes <= left ||
           status_set(st, ST_MEMORY,
                      "%s: needs %.0f MB for weights, gradients and optimiser, its share of the host's memory is %.0f: "
                      "start fewer ranks on a host%s",
                      place_who(), (double)bytes / 1e6, (double)left / 1e6,
                      c->size > 1 ? ", or set train.sharded_optimizer=true" : "");
}
