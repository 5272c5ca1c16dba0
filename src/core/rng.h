/* Counter-based random numbers: Philox4x32-10, keyed by what a number is for and whose it is, never by the order in
 * which it is drawn. So noise, time, condition drop, view choice and init are the same on any number of ranks, and
 * resume needs only the step number. The GPU uses the same counter function. */
#pragma once
#include "core/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    RNG_INIT = 1,  /* parameter init: sample = hash of the name */
    RNG_POSTERIOR, /* VAE noise */
    RNG_FLOW_NOISE,
    RNG_FLOW_TIME,
    RNG_COND_DROP,
    RNG_VIEW, /* which view of a sample */
    RNG_AUGMENT,
    RNG_ORDER,        /* epoch order: sample = epoch */
    RNG_SAMPLE_NOISE, /* start of sampling */
    RNG_EVAL,
    RNG_CHUNK, /* which part of a sample a VAE step decodes */
    RNG_TEST,
    RNG_STEP_ORDER, /* of steps of like sizes: sample = epoch, step = window */
    RNG_CLUSTER,    /* what happens on a simulated cluster */
    RNG_GROUP       /* which of several folders of data a step takes */
} rng_purpose;

typedef struct {
    uint64_t    seed;
    rng_purpose purpose;
    uint64_t    step, sample;
} rng_key;

/* Element i of the stream of `key`. */
uint32_t rng_u32(rng_key key, uint64_t i);
double   rng_uniform(rng_key key, uint64_t i); /* in (0,1), 32 bits */
double   rng_normal(rng_key key, uint64_t i);  /* Box-Muller on two words of one counter */

/* out[j] = the element first + j of the stream; first may start anywhere. */
void rng_fill_normal(rng_key key, uint64_t first, int64_t n, float *out);
void rng_fill_uniform(rng_key key, uint64_t first, int64_t n, float lo, float hi, float *out);

/* Random permutation of 0..n-1, a pure function of the key (Fisher-Yates). */
void rng_permutation(rng_key key, int64_t n, int64_t *out);

/* Stable 64-bit hash of text (xxHash), for ids. */
uint64_t hash_text(const char *text);
uint64_t hash_bytes(const void *data, size_t bytes, uint64_t seed);

#ifdef __cplusplus
}
#endif
