#include "io/config_check.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void fault(config_faults *f, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void fault(config_faults *f, const char *fmt, ...) {
    va_list ap;
    if (f->n == CONFIG_FAULTS) return;
    va_start(ap, fmt);
    vsnprintf(f->text[f->n++], sizeof f->text[0], fmt, ap);
    va_end(ap);
}

/* Says "a = x is not a multiple of b = y", where b "" is the plain number y. */
static void multiple(config_faults *f, const char *a, int64_t x, const char *b, int64_t y) {
    if (y <= 0 || x % y) fault(f, "%s = %" PRId64 " is not a multiple of %s%s%" PRId64, a, x, b, *b ? " = " : "", y);
}

static void check_vae(const options *o, config_faults *f) {
    multiple(f, "vae.width", o->vae.width, "vae.heads", o->vae.heads);
    if (o->vae.enc_widths.n != 3) fault(f, "vae.enc_widths has %d entries, 3 are needed", o->vae.enc_widths.n);
    if (o->vae.dec_widths.n != 3) fault(f, "vae.dec_widths has %d entries, 3 are needed", o->vae.dec_widths.n);
    for (int i = 0; i < o->vae.enc_widths.n && i < 3; i++)
        multiple(f, "an entry of vae.enc_widths", o->vae.enc_widths.v[i], "vae.groups", o->vae.groups);
    multiple(f, "vae.width", o->vae.width, "vae.groups", o->vae.groups);
    multiple(f, "vae.window", o->vae.window, "", 2);
    if (o->vae.crop_tiles && o->vae.chunk_tiles)
        fault(f, "vae.crop_tiles and vae.chunk_tiles are both set: a step takes part of a sample one way or the other");
    if (o->vae.in_weight + o->vae.ext_weight + o->vae.sharp_weight <= 0)
        fault(f, "vae.in_weight, vae.ext_weight and vae.sharp_weight are all 0: nothing is learned");
}

static void check_dit(const options *o, config_faults *f) {
    multiple(f, "dit.width", o->dit.width, "dit.heads", o->dit.heads);
    multiple(f, "dit.heads", o->dit.heads, "dit.kv_heads", o->dit.kv_heads);
    if (o->dit.compression == opt_dit_compression_v2)
        multiple(f, "the key width dit.kv_heads * dit.width / dit.heads",
                 o->dit.kv_heads * (o->dit.width / o->dit.heads), "dit.groups", o->dit.groups);
    multiple(f, "dit.m_slc", o->dit.m_slc, "dit.m_cmp", o->dit.m_cmp);
    multiple(f, "dit.resolution", o->dit.resolution, "dit.m_slc", o->dit.m_slc);
    multiple(f, "dit.m_win", o->dit.m_win, "", 2);
    if (o->dit.cross_norm && !o->dit.sparse_cond) fault(f, "dit.cross_norm needs dit.sparse_cond = true");
}

static void check_rest(const options *o, config_faults *f) {
    multiple(f, "prep.resolution", o->prep.resolution, "", 8);
    multiple(f, "data.resolution", o->data.resolution, "", 8);
    if (o->prep.min_tiles > o->prep.max_tiles)
        fault(f, "prep.min_tiles = %" PRId64 " is above prep.max_tiles = %" PRId64, o->prep.min_tiles,
              o->prep.max_tiles);
    multiple(f, "cond.size", o->cond.size, "", 14);
    if (2 * o->cond.pad_max >= o->cond.size)
        fault(f, "cond.pad_max = %" PRId64 " leaves nothing of cond.size = %" PRId64, o->cond.pad_max, o->cond.size);
    if (o->train.model == opt_train_model_dit && o->data.resolution && o->data.resolution > 8 * o->dit.resolution)
        fault(f, "data.resolution = %" PRId64 " needs dit.resolution = %" PRId64 " or more, it is %" PRId64,
              o->data.resolution, o->data.resolution / 8, o->dit.resolution);
    if (o->train.batch_tokens && o->train.micro_tokens > o->train.batch_tokens)
        fault(f, "train.micro_tokens = %" PRId64 " is above train.batch_tokens = %" PRId64, o->train.micro_tokens,
              o->train.batch_tokens);
    if (o->train.balance == opt_train_balance_steps && o->train.batch_tokens)
        fault(f, "train.balance = steps groups steps of train.batch_samples samples: set train.batch_tokens to 0");
    if (o->train.recompute == opt_train_recompute_off && o->train.memory_mb)
        fault(f, "train.recompute = off and train.memory_mb contradict: a bound needs auto or on");
    if (*o->data.train && !strcmp(o->data.train, o->data.heldout))
        fault(f, "data.train and data.heldout are the same folder");
    if (*o->data.train && o->train.model == opt_train_model_dit && o->cond.encoder == opt_cond_encoder_dinov2 &&
        !*o->data.tokens)
        fault(f, "cond.encoder = dinov2 trains on stored tokens: set data.tokens (made by `d3s2 tokens`)");
    if (*o->data.train && *o->prep.output && o->data.resolution && o->prep.resolutions.n == 0 &&
        o->data.resolution != o->prep.resolution)
        fault(f, "prep.resolution = %" PRId64 ", but training takes data.resolution = %" PRId64, o->prep.resolution,
              o->data.resolution);
    if (*o->data.latents && !strcmp(o->data.latents, o->data.latents_heldout))
        fault(f, "data.latents and data.latents_heldout are the same folder");
    if (o->eval.f1_thresholds.n < 1) fault(f, "eval.f1_thresholds is empty");
}

bool config_check(const options *o, config_faults *all, status *st) {
    config_faults own, *f = all ? all : &own;
    f->n = 0;
    check_vae(o, f);
    check_dit(o, f);
    check_rest(o, f);
    if (f->n == 0) return true;
    char line[sizeof st->text] = "";
    for (int i = 0, at = 0; i < f->n && at < (int)sizeof line; i++)
        at += snprintf(line + at, sizeof line - (size_t)at, "%s%s", i ? "; " : "", f->text[i]);
    return status_set(st, ST_CONFIG, "%d contradiction%s in the configuration: %s", f->n, f->n > 1 ? "s" : "", line);
}
