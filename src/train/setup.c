#include "train/setup.h"

#include <stdio.h>
#include <string.h>

ssvae_config ssvae_config_of(const options *o) {
    ssvae_config c = {.width = (int)o->vae.width,
                      .blocks_enc = (int)o->vae.blocks,
                      .blocks_dec = (int)o->vae.blocks,
                      .heads = (int)o->vae.heads,
                      .mlp_ratio = (int)o->vae.mlp_ratio,
                      .latent_channels = (int)o->vae.latent_channels,
                      .groups = (int)o->vae.groups,
                      .window = (int)o->vae.window,
                      .pool_add_one = o->vae.pool_add_one,
                      .up_gain = o->vae.up_gain,
                      .centre_gain = o->vae.centre_gain,
                      .blocks_start_zero = o->vae.blocks_start_zero,
                      .logvar_init = o->vae.logvar_init,
                      .factor = o->vae.factor,
                      .frame = (int)o->vae.frame};
    for (int i = 0; i < SSVAE_LEVELS; i++) {
        c.enc_width[i] = (int)o->vae.enc_widths.v[i];
        c.dec_width[i] = (int)o->vae.dec_widths.v[i];
    }
    return c;
}

ssdit_config ssdit_config_of(const options *o) {
    return (ssdit_config){
        .ssa = {.width = (int)o->dit.width,
                .heads = (int)o->dit.heads,
                .kv_heads = (int)o->dit.kv_heads,
                .m_cmp = (int)o->dit.m_cmp,
                .m_slc = (int)o->dit.m_slc,
                .m_win = (int)o->dit.m_win,
                .top_k = (int)o->dit.topk,
                .groups = (int)o->dit.groups,
                .pool_add_one = o->dit.pool_add_one,
                .compression = o->dit.compression == opt_dit_compression_v1 ? COMPRESSION_V1 : COMPRESSION_V2},
        .blocks = (int)o->dit.blocks,
        .mlp_ratio = (int)o->dit.mlp_ratio,
        .in_channels = (int)o->vae.latent_channels,
        .out_channels = (int)o->vae.latent_channels,
        .cond_width = (int)o->dit.cond_width,
        .sparse_cond = o->dit.sparse_cond,
        .share_mod = o->dit.share_mod,
        .cross_norm = o->dit.cross_norm,
        .shift = o->dit.use_shift ? SHIFT_ALTERNATE : SHIFT_ALWAYS,
        .resolution = (int)o->dit.resolution,
        .factor = o->dit.factor};
}

enum { TILE_ROOM = 16 << 10, TOKEN_ROOM = 1 << 10 }; /* tables and partial sums; tables of tiles and segments */

size_t ssvae_scratch_per_tile(const ssvae_config *c, dtype act) {
    size_t most = 0;
    for (int i = 0; i < SSVAE_LEVELS; i++) { /* up block i ends on cells of side 2^(i+1) */
        size_t numbers = ((size_t)8 << (3 * i)) * (size_t)c->dec_width[i];
        if (numbers > most) most = numbers;
    }
    return TILE_ROOM + most * dtype_size(act);
}

/* One op at a time, so the larger one counts: attention inside segments (backward by one kernel: dk and dv of parts of
 * the rows, 8 bytes a column or else it leaves them to other kernels; low bits of dq; what is begun for each segment),
 * or in chosen blocks (four lists of pairs and what sorting them takes; keys and values packed by 16, which also a
 * block of one token gets; sums of dk and dv of four times the keys). Where dq is kept in f32 it is in
 * place_scratch_bytes' base. */
size_t ssdit_scratch_per_tile(const ssdit_config *c) {
    size_t head = (size_t)(c->ssa.width / c->ssa.heads), packed = head <= 32 ? 32 : head <= 64 ? 64 : 128;
    size_t pairs = (size_t)(c->ssa.kv_heads * c->ssa.top_k), stat = (size_t)c->ssa.heads * 2 * sizeof(float);
    size_t segment = stat + (size_t)c->ssa.width * 10;
    size_t select = stat + pairs * 6 * sizeof(int32_t) +
                    (size_t)c->ssa.kv_heads * (packed * 17 * 2 * 2 + head * 4 * 2 * sizeof(float));
    return TOKEN_ROOM + (segment > select ? segment : select);
}

bool tile_order(arena *host, const uint16_t *coord, int64_t n, int m, int limit, const char *name, int32_t **order,
                status *st) {
    int32_t *c = arena_alloc(host, (size_t)n * 3 * sizeof *c), ends[2] = {0, (int32_t)n};
    *order = arena_alloc(host, (size_t)n * sizeof **order);
    for (int64_t i = 0; i < 3 * n; i++) {
        c[i] = coord[i];
        if (coord[i] >= limit)
            return status_set(st, ST_DATA, "%s: tile %lld lies at %d, outside the grid of %d: run `d3s2 check`", name,
                              (long long)(i / 3), (int)coord[i], limit);
    }
    blocks_sort(c, ends, 1, m, *order);
    for (int64_t i = 1; i < n; i++)
        if (memcmp(c + 3 * (int64_t)(*order)[i], c + 3 * (int64_t)(*order)[i - 1], 3 * sizeof *c) == 0)
            return status_set(st, ST_DATA, "%s: tile %d is there twice: run `d3s2 check`", name, (*order)[i]);
    return true;
}

const char *sample_name(const dataset *d, int64_t i) {
    static _Thread_local char text[400];
    const data_entry         *e = &d->entry[i];
    const shard              *s = &d->shards[e->shard];
    snprintf(text, sizeof text, "%.220s sample %lld (%.120s)", s->path, (long long)e->at, s->source[e->at]);
    return text;
}

rng_key item_key(const task *t, const dataset *d, rng_purpose purpose, batch_purpose why, const plan_item *item) {
    return (rng_key){.seed = t->seed,
                     .purpose = purpose,
                     .step = why.eval ? UINT32_MAX : (uint64_t)why.step,
                     .sample = plan_key(d->ids[item->index], item->copy)};
}
