/* The memory of one rank's micro-batches and the choice of what is recomputed. A dry pass over a micro-batch (counting
 * arenas, no arithmetic) says exactly what its activations need; the step arena is made for that, and segments are
 * recomputed in backward, the first ones first, until it stays within the bound. */
#pragma once
#include "train/task.h"

typedef enum { RECOMPUTE_AUTO, RECOMPUTE_OFF, RECOMPUTE_ON } recompute_rule;

typedef struct {
    ctx            c;
    tape           t;
    arena          step, book;
    size_t         bound; /* bytes of the step arena; 0: none */
    recompute_rule rule;
} engine;

typedef struct {
    size_t bytes;
    int    recomputed, n_segments;
} engine_need;

void engine_init(engine *e, const struct backend *be, size_t bound, recompute_rule rule);
void engine_free(engine *e);

/* What forward and backward of b take under the rule and the bound; false when nothing fits. */
bool engine_measure(engine *e, task *t, const micro_batch *b, engine_need *need, status *st);
/* Measures and makes room; then forward (recording) and backward may run. */
bool engine_prepare(engine *e, task *t, const micro_batch *b, engine_need *need, status *st);
/* Room for a forward pass without recording. */
void engine_prepare_forward(engine *e, task *t, const micro_batch *b);
/* Makes the step arena at least `bytes` and the scratch arena fit for n_tiles. */
void engine_room(engine *e, size_t bytes, int64_t n_tiles);
