/* The memory of one rank's micro-batches and the choice of what is recomputed. A dry pass over a micro-batch (counting
 * arenas, no arithmetic) says exactly what its activations need; the step arena is made for that, and segments are
 * recomputed in backward, the first ones first, until it stays within the bound.
 *
 * Where the host does not give so much (CPU), more is recomputed and it is tried again, three times: bits stay the
 * same. On a GPU memory is taken once: after engine_freeze the arenas stay as they are, and their size is the bound. */
#pragma once
#include "train/place.h"
#include "train/task.h"

typedef enum { RECOMPUTE_AUTO, RECOMPUTE_OFF, RECOMPUTE_ON } recompute_rule;

typedef struct {
    ctx            c;
    tape           t;
    arena          step, book;
    size_t         bound;      /* bytes of the step arena; 0: none */
    bool           host_bound; /* it is what the host leaves (host_plan.h), not train.memory_mb */
    recompute_rule rule;
    size_t         gpu_per_tile; /* for place_scratch_bytes; set by the owner, before there is room */
    bool           frozen;
} engine;

typedef struct {
    size_t bytes;
    int    recomputed, n_segments;
} engine_need;

void engine_init(engine *e, const place *p, size_t bound, recompute_rule rule);
void engine_free(engine *e);

/* What forward and backward of b take under the rule and the bound; false when nothing fits. b's tensors are on the
 * engine's device (upload.h), or pretend to be. */
bool   engine_measure(engine *e, task *t, const micro_batch *b, engine_need *need, status *st);
size_t engine_measure_forward(engine *e, task *t, const micro_batch *b);
/* Measures and makes room; then forward (recording) and backward may run. ST_MEMORY: the host has not got it. */
bool   engine_prepare(engine *e, task *t, const micro_batch *b, engine_need *need, status *st);
/* Room for a forward pass without recording. */
bool   engine_prepare_forward(engine *e, task *t, const micro_batch *b, status *st);
/* Makes the step arena at least `bytes` and the scratch arena fit for n_tiles; false when both are frozen and too
 * small.
 */
bool   engine_room(engine *e, size_t bytes, int64_t n_tiles);
void   engine_freeze(engine *e);
