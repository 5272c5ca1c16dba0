#include "model/sampler.h"

#include <stdlib.h>
#include <string.h>

static void start_noise(const ssdit_batch *b, int64_t channels, const uint64_t *sample_id, uint64_t seed, float *x) {
    const int32_t *first = I32(&b->sample_first);
    for (int s = 0; s < b->n_samples; s++)
        rng_fill_normal((rng_key){.seed = seed, .purpose = RNG_SAMPLE_NOISE, .sample = sample_id[s]}, 0,
                        (first[s + 1] - first[s]) * channels, x + first[s] * channels);
}

static const var *velocity(tape *t, ssdit *m, const ssdit_batch *b, const tensor *x, const tensor *time,
                           const tensor *cond) {
    return ssdit_forward(t, m, b, tape_leaf(t, *x, false), time, tape_leaf(t, *cond, false));
}

/* One step from sigma to sigma_next, on a fresh tape. */
static void step(tape *t, ssdit *m, const ssdit_batch *b, const tensor *cond, double guidance, double sigma,
                 double sigma_next, float *latents) {
    tape_begin(t);
    tensor    *x = tape_keep(t, arena_tensor(t->step, DT_F32, DIMS(b->n_tokens, m->cfg.in_channels)));
    tensor    *time = tape_keep(t, arena_tensor(t->step, DT_F32, DIMS(b->n_samples)));
    const var *v_cond, *v_zero = NULL;
    if (!t->c->dry) {
        memcpy(x->data, latents, tensor_bytes(x));
        for (int s = 0; s < b->n_samples; s++) F32(time)[s] = (float)(1000.0 * sigma);
    }
    v_cond = velocity(t, m, b, x, time, cond);
    if (guidance > 0) {
        tensor zero = arena_tensor(t->step, DT_F32, cond->dim, cond->n_dims);
        if (!t->c->dry) memset(zero.data, 0, tensor_bytes(&zero));
        v_zero = velocity(t, m, b, x, time, &zero);
    }
    if (!t->c->dry)
        flow_euler_step(latents, F32(&v_cond->v), v_zero ? F32(&v_zero->v) : NULL, tensor_count(x), guidance, sigma,
                        sigma_next);
}

void sampler_run(tape *t, ssdit *m, const ssdit_batch *b, const tensor *cond, const uint64_t *sample_id,
                 const sampler_config *cfg, float *latents) {
    CHECK(m->cfg.in_channels == m->cfg.out_channels, "sampling with %d channels in, %d out", m->cfg.in_channels,
          m->cfg.out_channels);
    CHECK(cfg->steps > 0, "sampling in %d steps", cfg->steps);
    CHECK(t->step->dev == DEV_CPU, "the sampler works in CPU memory");
    double *sigma = malloc(((size_t)cfg->steps + 1) * sizeof *sigma);
    bool    recording = t->recording;
    CHECK(sigma, "no memory for %d steps", cfg->steps);
    (cfg->schedule == SCHEDULE_TRELLIS ? flow_sigmas_trellis : flow_sigmas)(cfg->steps, cfg->shift, sigma);
    t->recording = false;
    if (!t->c->dry) start_noise(b, m->cfg.in_channels, sample_id, cfg->seed, latents);
    for (int i = 0; i < (t->c->dry ? 1 : cfg->steps); i++) {
        step(t, m, b, cond, cfg->guidance, sigma[i], sigma[i + 1], latents);
        if (cfg->on_step) cfg->on_step(cfg->user, i + 1, cfg->steps);
    }
    t->recording = recording;
    free(sigma);
}
