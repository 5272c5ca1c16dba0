/* The 512 cells of a tile as the auto-encoder's loader takes them: half values to masks and floats, tile by tile. */
#pragma once
#include "data/shard.h"

enum { TILE_WORDS = TILE_CELLS / 64 };

/* Bit c % 64 of word c / 64: |value| of cell c is below 1 (NaN is not). Returns how many are. */
int  cells_mask(const uint16_t *value, uint64_t mask[TILE_WORDS]);
/* How many of the mask are sharp. */
int  cells_sharp(const uint64_t mask[TILE_WORDS], const uint8_t *sharp);
/* All values. */
void cells_values(const uint16_t *value, float out[TILE_CELLS]);
/* Those of the mask, one after the other; exactly these are written. */
void cells_active(const uint16_t *value, const uint64_t mask[TILE_WORDS], float *out);
