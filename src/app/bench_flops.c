#include "app/bench_flops.h"
#include "app/bench_shell.h"

#include "model/ssa.h"

/* The backward of a product is two products of its size; that of attention five for two. */
static const double LINEAR_STEP = 3, ATTENTION_STEP = 3.5;

static double window_pairs(const window_tables *w) {
    double pairs = 0;
    for (int64_t i = 0; i < w->n_windows; i++) {
        double n = I32(&w->first)[i + 1] - I32(&w->first)[i];
        pairs += n * n;
    }
    return pairs;
}

double dit_flops(const ssdit_config *cfg, const tensor *coord, int64_t n_cond) {
    const ssa_config *a = &cfg->ssa;
    double            n = (double)coord->dim[0], l = (double)n_cond, c = a->width, d = ssa_head_dim(a);
    double            q = a->heads * d, kv = a->kv_heads * d, cond = cfg->sparse_cond ? c : cfg->cond_width;
    int32_t           ends[2] = {0, (int32_t)n};
    tensor            first = tensor_wrap(ends, DT_I32, DIMS(2));
    bool              v2 = a->compression == COMPRESSION_V2;
    arena             tables = arena_new("tables", ((size_t)16 << 20) + (size_t)n * 1024);
    block_tables      b = blocks_build(&tables, coord, &first, a->m_cmp, a->m_slc, v2);
    window_tables     w[2];
    for (int i = 0; i < 2; i++)
        w[i] = windows_build(&tables, coord, &first, a->m_win, i * a->m_win / 2, true, a->m_slc);
    double blocks = (double)b.n_slc, chosen = a->top_k < blocks ? a->top_k : blocks, compressed = (double)b.n_cmp;
    double compress = v2 ? 2 * 2 * 2 * level_pairs(&b.cmp_grid) * kv * kv : 2 * 2 * n * kv * kv;
    double linear = 2 * n * (c * q + 2 * c * kv + 3 * c + q * c + 2 * c * c + 2 * c * c * cfg->mlp_ratio) +
                    2 * l * cond * 2 * c + (cfg->share_mod ? 0 : 2 * c * 6 * c) + compress;
    double step = 0;
    for (int i = 0; i < cfg->blocks; i++) {
        bool   shifted = cfg->shift == SHIFT_ALWAYS || (cfg->shift == SHIFT_ALTERNATE && i % 2);
        double pairs = n * compressed + n * chosen * n / blocks + window_pairs(&w[shifted]);
        step += LINEAR_STEP * linear + ATTENTION_STEP * 4 * (pairs * q + n * l * c) + 2 * n * compressed * q;
    }
    step += LINEAR_STEP * 2 *
            (n * c * (cfg->in_channels + cfg->out_channels) + (cfg->sparse_cond ? l * cfg->cond_width * c : 0));
    arena_free(&tables);
    return step;
}

double vae_flops(const ssvae_config *cfg, const ssvae_batch *b) {
    double n = (double)b->n_tiles, width[2] = {cfg->width, cfg->width_dec ? cfg->width_dec : cfg->width}, step = 0;
    int    blocks[2] = {cfg->blocks_enc, cfg->blocks_dec};
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < blocks[side]; i++) {
            double c = width[side];
            step += LINEAR_STEP * 2 * n * (4 * c * c + 2 * c * c * cfg->mlp_ratio) +
                    ATTENTION_STEP * 4 * window_pairs(&b->window[i % 2]) * c;
        }
    step += LINEAR_STEP * 2 * n * (width[0] * (width[0] + 2 * cfg->latent_channels) + cfg->latent_channels * width[1]);
    step += LINEAR_STEP * 2 * (double)b->enc[0].n_rows * cfg->enc_width[0];
    for (int i = 0; i < SSVAE_LEVELS; i++) { /* down: two convolutions on the coarse level, the shortcut there */
        double in = cfg->enc_width[i], out = i + 1 < SSVAE_LEVELS ? cfg->enc_width[i + 1] : cfg->width;
        double shortcut = in == out ? 0 : (double)b->enc[i + 1].n_rows * in * out;
        step += LINEAR_STEP * 2 * (level_pairs(&b->enc[i + 1]) * (in * out + out * out) + shortcut);
    }
    for (int i = 0; i < SSVAE_LEVELS; i++) { /* up: one convolution on each side of the subdivision */
        double in = i ? cfg->dec_width[i - 1] : width[1], out = cfg->dec_width[i];
        step += LINEAR_STEP * 2 * (level_pairs(&b->dec[i]) * in * out + level_pairs(&b->dec[i + 1]) * out * out);
    }
    return step + LINEAR_STEP * 2 * n * 512 * cfg->dec_width[SSVAE_LEVELS - 1];
}
