#include "model/sampler.h"

#include <stdlib.h>
#include <string.h>

#include "core/device.h"
#include "ops/elementwise.h"

static void start_noise(int n_samples, const int32_t *first, int64_t channels, const uint64_t *sample_id, uint64_t seed,
                        float *x) {
    for (int s = 0; s < n_samples; s++)
        rng_fill_normal((rng_key){.seed = seed, .purpose = RNG_SAMPLE_NOISE, .sample = sample_id[s]}, 0,
                        (first[s + 1] - first[s]) * channels, x + first[s] * channels);
}

static void put(const tensor *x, const float *host) {
    if (x->dev == DEV_CPU)
        memcpy(x->data, host, tensor_bytes(x));
    else
        device_copy(x->data, host, tensor_bytes(x), STREAM_COMPUTE);
}

/* The values of x, on a GPU through `room`; the caller waits. */
static const float *get(const tensor *x, float *room) {
    if (x->dev == DEV_CPU) return F32(x);
    device_copy(room, x->data, tensor_bytes(x), STREAM_COMPUTE);
    return room;
}

static const var *velocity(tape *t, ssdit *m, const ssdit_batch *b, const tensor *x, const tensor *time,
                           const tensor *cond) {
    return ssdit_forward(t, m, b, tape_leaf(t, *x, false), time, tape_leaf(t, *cond, false));
}

/* What the host keeps of a run: the state, and room for times and what comes back from a GPU. */
typedef struct {
    float *latents, *time, *v_cond, *v_zero;
} sampler_state;

/* One step from sigma to sigma_next, on a fresh tape. */
static void step(tape *t, ssdit *m, const ssdit_batch *b, const tensor *cond, double guidance, double sigma,
                 double sigma_next, sampler_state *s) {
    tape_begin(t);
    tensor    *x = tape_keep(t, arena_tensor(t->step, DT_F32, DIMS(b->n_tokens, m->cfg.in_channels)));
    tensor    *time = tape_keep(t, arena_tensor(t->step, DT_F32, DIMS(b->n_samples)));
    const var *v_cond, *v_zero = NULL;
    if (!t->c->dry) {
        for (int k = 0; k < b->n_samples; k++) s->time[k] = (float)(1000.0 * sigma);
        put(x, s->latents);
        put(time, s->time);
    }
    v_cond = velocity(t, m, b, x, time, cond);
    if (guidance > 0) {
        tensor zero = arena_tensor(t->step, DT_F32, cond->dim, cond->n_dims);
        zero_fwd(t->c, &(xy_args){.y = &zero});
        v_zero = velocity(t, m, b, x, time, &zero);
    }
    if (t->c->dry) return;
    const float *with = get(&v_cond->v, s->v_cond), *without = v_zero ? get(&v_zero->v, s->v_zero) : NULL;
    if (x->dev != DEV_CPU) device_sync(STREAM_COMPUTE);
    flow_euler_step(s->latents, with, without, tensor_count(x), guidance, sigma, sigma_next);
}

static float *room(int64_t n) {
    float *p = malloc((size_t)n * sizeof *p + 1);
    CHECK(p, "no memory for %lld numbers", (long long)n);
    return p;
}

void sampler_run(tape *t, ssdit *m, const ssdit_batch *b, const tensor *cond, const uint64_t *sample_id,
                 const int32_t *first_row, const sampler_config *cfg, float *latents) {
    CHECK(m->cfg.in_channels == m->cfg.out_channels, "sampling with %d channels in, %d out", m->cfg.in_channels,
          m->cfg.out_channels);
    CHECK(cfg->steps > 0, "sampling in %d steps", cfg->steps);
    double       *sigma = malloc(((size_t)cfg->steps + 1) * sizeof *sigma);
    int64_t       n = t->step->dev == DEV_CPU ? 0 : b->n_tokens * m->cfg.in_channels;
    sampler_state s = {latents, room(b->n_samples), room(n), room(n)};
    bool          recording = t->recording;
    CHECK(sigma, "no memory for %d steps", cfg->steps);
    (cfg->schedule == SCHEDULE_TRELLIS ? flow_sigmas_trellis : flow_sigmas)(cfg->steps, cfg->shift, sigma);
    t->recording = false;
    if (!t->c->dry) start_noise(b->n_samples, first_row, m->cfg.in_channels, sample_id, cfg->seed, latents);
    for (int i = 0; i < (t->c->dry ? 1 : cfg->steps); i++) {
        step(t, m, b, cond, cfg->guidance, sigma[i], sigma[i + 1], &s);
        if (cfg->on_step) cfg->on_step(cfg->user, i + 1, cfg->steps);
    }
    t->recording = recording;
    free(sigma);
    free(s.time);
    free(s.v_cond);
    free(s.v_zero);
}
