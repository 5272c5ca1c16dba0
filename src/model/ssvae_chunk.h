/* Decoding in parts (R§3.8) with the tables of a part apart from the network's pass: they are made on the host and may
 * be moved to a GPU before. */
#pragma once
#include "model/ssvae.h"

typedef struct {
    int64_t n_tiles, n_kept;
    tensor  row;      /* (n_tiles) tile rows of the batch, context included */
    tensor  kept;     /* (n_kept) indices into row: the tiles whose prediction counts */
    tensor  kept_row; /* (n_kept) the same as tile rows of the batch; stays on the host */
    grid    dec[SSVAE_LEVELS + 1];
} ssvae_part;

/* The tiles of one box (2,3) for every sample of b, whose tables are in host memory; see ssvae_decode_part. */
ssvae_part ssvae_part_build(arena *host, const ssvae_batch *b, const int32_t *box, int padding);
/* For dry passes: some part of so many tiles, of which n_kept count. */
ssvae_part ssvae_part_of_size(arena *host, const ssvae_batch *b, int64_t n_tiles, int64_t n_kept);
/* Visits every tensor that ssvae_part_decode hands to ops, each once. */
void       ssvae_part_tensors(ssvae_part *p, tensor_visit f, void *user);
/* z (T,latent) of the whole batch -> (512 n_kept, 1). p outlives the records. */
var       *ssvae_part_decode(tape *t, ssvae *m, const ssvae_batch *b, const ssvae_part *p, var *z);

/* ssvae_decode_chunked on any device: `host` is b with its tables in host memory (on the CPU the same). */
void ssvae_decode_chunks(tape *t, ssvae *m, const ssvae_batch *b, const ssvae_batch *host, var *z, int chunk_edge,
                         int padding, float *out);
