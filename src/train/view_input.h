/* One condition view of a sample as encoder tokens: decode, augment (training), preprocess, tokens (R§2.8, R§5.4). */
#pragma once
#include "core/rng.h"
#include "data/condition.h"
#include "io/options.h"

typedef struct {
    image    rgb;  /* preprocessed */
    uint8_t *mask; /* [size,size] */
    int64_t  n_tokens;
} view_input;

/* Tokens a view gives at most, and whether options name an encoder that this program has. */
int64_t view_most_tokens(const options *o);
bool    view_check(const options *o, status *st);

/* key: RNG_AUGMENT of the item; NULL: no augmentation, padding by half of cond.pad_max. */
bool view_prepare(const options *o, const uint8_t *png, int64_t png_size, const char *name, const rng_key *key,
                  view_input *v, status *st);
/* token (n_tokens, cond_width), coord (n_tokens,3). */
void view_tokens(const options *o, const view_input *v, float *token, int32_t *coord);
void view_free(view_input *v);
