/* Files of DINOv2 weights for tests: of a golden case or random, under either set of names. */
#pragma once
#include "harness/h5.h"
#include "io/safetensors.h"

enum { DINO_TENSORS = 1024 };

typedef struct {
    int         n;
    safe_source t[DINO_TENSORS]; /* names and data malloc'ed; Hugging Face's names */
    char        heads[16];
} dino_weights;

/* Weights of /<group>/weights. */
void         dino_weights_golden(dino_weights *w, h5_file f, const char *group);
/* A random network: seed-th numbers of test data, scaled so that values stay near 1. */
void         dino_weights_random(dino_weights *w, int width, int heads, int blocks, int registers, int side, bool gated,
                                 uint32_t seed);
void         dino_weights_free(dino_weights *w);
/* The tensor of that name; fails the test when there is none. */
safe_source *dino_weights_find(dino_weights *w, const char *name);

/* With num_attention_heads in the metadata. hub: under the names of the hub, q, k and v in one matrix. */
void dino_weights_write(const dino_weights *w, bool hub, const char *path);
