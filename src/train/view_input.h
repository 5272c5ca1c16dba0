/* One condition view of a sample as encoder tokens: decode, augment (training), preprocess, tokens (R§2.8, R§5.4). The
 * `patches` encoder makes them from pixels; DINOv2's come from image_encoder.h, or were stored (data/tokens.h). */
#pragma once
#include "core/rng.h"
#include "data/condition.h"
#include "io/options.h"

typedef struct {
    image    rgb;  /* preprocessed; empty where tokens were read */
    uint8_t *mask; /* [size,size] */
    int64_t  n_tokens;
    float   *token; /* (n_tokens,width) of a network; NULL: made from rgb */
    int32_t *coord; /* (n_tokens,3), with it */
    int      width;
} view_input;

/* Tokens that the patches encoder gives of a view at most; whether the options fit the encoder they name (the width of
 * a network's tokens is known with its weights only). */
int64_t view_most_tokens(const options *o);
bool    view_check(const options *o, status *st);

/* n_tokens is that of the patches encoder. key: RNG_AUGMENT of the item; NULL: no augmentation, padding by half of
 * cond.pad_max. */
bool view_prepare(const options *o, const uint8_t *png, int64_t png_size, const char *name, const rng_key *key,
                  view_input *v, status *st);
/* token (n_tokens, cond_width), coord (n_tokens,3). */
void view_tokens(const options *o, const view_input *v, float *token, int32_t *coord);
void view_free(view_input *v);
