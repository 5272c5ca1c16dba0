/* Samples of like size into the same step. With one or two samples a rank nothing inside a step can even out the
 * ranks; a step whose samples are all alike is even by itself.
 *
 *   epoch:   | head | batch batch ... batch | batch ... batch | tail |     head, tail: parts of batches that lie in
 *                   '------ window -------' '---- window ----'             two epochs
 *
 * Inside a window (the first one with the head, the last one with the tail) samples are sorted by tokens. The head and
 * the tail take those in the middle; of the rest each batch takes the next in order; then the batches of the window
 * change places at random. Samples of one size keep their drawn order. */
#pragma once
#include "core/rng.h"

/* order[n] (a permutation of the data set) of epoch `epoch`, in place: a pure function of its arguments. */
void plan_alike(uint64_t seed, int64_t epoch, int64_t n, int64_t batch, int64_t window_steps, const int64_t *tokens,
                int64_t *order);
