/* Index tables of one ragged batch of tiles. */
#include "model/ssvae_parts.h"

#include <math.h>

enum { TILE_CELLS = 512, TILE_WORDS = TILE_CELLS / 64 };

void ssvae_dense_levels(arena *host, const tensor *nb, const tensor *sample_first, grid dec[4]) {
    for (int i = 0; i <= SSVAE_LEVELS; i++) dec[i] = grid_dense(host, 1 << i, nb, sample_first);
}

/* Bit c of a tile's mask: |value| of cell c is below 1. NaN is not active. */
static tensor active_mask(arena *host, const float *value, int64_t n_tiles) {
    tensor    mask = arena_tensor(host, DT_U64, DIMS(n_tiles, TILE_WORDS));
    uint64_t *word = U64(&mask);
    for (int64_t w = 0; w < n_tiles * TILE_WORDS; w++) {
        word[w] = 0;
        for (int c = 0; c < 64; c++) word[w] |= (uint64_t)(fabsf(value[64 * w + c]) < 1.0f) << c;
    }
    return mask;
}

static void active_values(const float *value, const grid *g, float *out) {
    const uint64_t *word = U64(&g->mask);
    for (int64_t w = 0; w < g->n_tiles * TILE_WORDS; w++)
        for (uint64_t m = word[w]; m; m &= m - 1) *out++ = value[64 * w + __builtin_ctzll(m)];
}

void ssvae_batch_tensors(ssvae_batch *b, tensor_visit f, void *user) {
    tensor *all[] = {&b->coord, &b->sample_first, &b->nb, &b->sdf};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) tensor_visit_given(all[i], f, user);
    for (int i = 0; i < 2; i++) window_tensors(&b->window[i], f, user);
    for (int i = 0; i <= SSVAE_LEVELS; i++) {
        grid_tensors(&b->enc[i], f, user);
        grid_tensors(&b->dec[i], f, user);
    }
    for (int i = 0; i < SSVAE_LEVELS; i++) tensor_visit_given(&b->pool_first[i], f, user);
}

double ssvae_factor(const ssvae_config *cfg, int resolution) {
    return cfg->frame > 0 && resolution > 0 ? cfg->factor * cfg->frame / resolution : cfg->factor;
}

ssvae_batch ssvae_batch_of_mask(arena *host, const ssvae_config *cfg, int resolution, const tensor *coord,
                                const tensor *sample_first, const tensor *mask) {
    ssvae_batch b = {.n_samples = (int)sample_first->dim[0] - 1,
                     .n_tiles = coord->dim[0],
                     .factor = ssvae_factor(cfg, resolution),
                     .coord = *coord,
                     .sample_first = *sample_first};
    b.nb = tiles_neighbors(host, coord, sample_first);
    for (int i = 0; i < 2; i++)
        b.window[i] = windows_build(host, coord, sample_first, cfg->window, i * (cfg->window / 2), true, cfg->window);
    ssvae_dense_levels(host, &b.nb, sample_first, b.dec);
    if (mask) {
        grid_pyramid(host, mask, &b.nb, sample_first, b.enc, b.pool_first);
        b.n_active = b.enc[0].n_rows;
        b.sdf = arena_tensor(host, DT_F32, DIMS(b.n_active, 1));
    }
    return b;
}

ssvae_batch ssvae_batch_build(arena *host, const ssvae_config *cfg, int resolution, const tensor *coord,
                              const tensor *sample_first, const float *value) {
    if (!value) return ssvae_batch_of_mask(host, cfg, resolution, coord, sample_first, NULL);
    tensor      mask = active_mask(host, value, coord->dim[0]);
    ssvae_batch b = ssvae_batch_of_mask(host, cfg, resolution, coord, sample_first, &mask);
    active_values(value, &b.enc[0], F32(&b.sdf));
    return b;
}
