/* Training of the sparse SDF auto-encoder (R§3.9):
 *   L = w_in L_in + w_ext L_ext + w_sharp L_sharp + w_kl L_kl, each a mean over the global batch; an empty set gives 0.
 * With vae.crop_tiles a step sees a part of each sample; with vae.chunk_tiles it decodes one box per sample (R§3.8);
 * the counts are then those of the boxes. */
#include "train/task_vae.h"
#include "train/setup.h"

#include <stdlib.h>
#include <string.h>

static void counts(const task *t, const dataset *d, const plan_step *s, double count[TASK_SUMS]) {
    const vae_task *v = (const vae_task *)t;
    for (int64_t i = 0; i < s->n_items; i++) {
        const data_entry *e = &d->entry[s->item[i].index];
        count[SUM_IN] += (double)e->n_in;
        count[SUM_EXT] += (double)(e->tiles * TILE_CELLS - e->n_in);
        count[SUM_SHARP] += (double)e->n_sharp;
        count[SUM_KL] += (double)(e->tiles * v->m.cfg.latent_channels);
    }
}

static void tensors(const task *t, micro_batch *b, tensor_visit f, void *user) {
    vae_body *body = b->body;
    (void)t;
    tensor_visit_given(&body->target, f, user);
    tensor_visit_given(&body->sharp, f, user);
    tensor_visit_given(&body->eps, f, user);
    ssvae_batch_tensors(&body->b, f, user);
    if (body->box) ssvae_part_tensors(&body->part, f, user);
}

static int forward(task *t, tape *tp, const micro_batch *b, const double count[TASK_SUMS], tensor value[TASK_TENSORS]) {
    vae_task *v = (vae_task *)t;
    vae_body *body = b->body;
    double    scale[SUMS];
    for (int i = 0; i < SUMS; i++) scale[i] = count[i] > 0 ? v->weight[i] / count[i] : 0.0;
    var *moments = ssvae_encode(tp, &v->m, &body->b);
    var *z = nn_vae_sample(tp, moments, body->mean ? NULL : &body->eps, scale[SUM_KL], &value[1]);
    var *pred =
        body->box ? ssvae_part_decode(tp, &v->m, &body->b, &body->part, z) : ssvae_decode(tp, &v->m, &body->b, z);
    nn_sdf_loss(tp, pred, &body->target, &body->sharp, scale, &value[0]);
    return 2;
}

static double loss(const task *t, const double mean[TASK_SUMS]) {
    const vae_task *v = (const vae_task *)t;
    double          l = 0;
    for (int i = 0; i < SUMS; i++) l += v->weight[i] * mean[i];
    return l;
}

static size_t scratch_per_tile(const task *t) {
    return ssvae_scratch_per_tile(&((const vae_task *)t)->m.cfg, t->p->act);
}

static void task_free(task *t) {
    vae_task *v = (vae_task *)t;
    ssvae_free(&v->m);
    vae_reading_free(v->reading);
    free(t);
}

task *task_vae_new(const options *o, const dataset *d, status *st) {
    vae_task *v = calloc(1, sizeof *v);
    CHECK(v, "no memory for the task");
    if (d->resolution % 8 != 0) {
        status_set(st, ST_DATA, "%s: resolution %d is not a multiple of 8", d->shards[0].path, d->resolution);
        free(v);
        return NULL;
    }
    for (int f = 0; f < d->n_folders; f++)
        if (d->folder[f].resolution != d->resolution && o->vae.frame == 0) {
            status_set(st, ST_CONFIG,
                       "data.train has resolutions %d and %d: set vae.frame, the grid in whose coordinates positions "
                       "count (512 for the published 256, 384 and 512)",
                       d->folder[f].resolution, d->resolution);
            free(v);
            return NULL;
        }
    ssvae_config cfg = ssvae_config_of(o);
    ssvae_init(&v->m, &cfg);
    v->reading = vae_reading_new();
    v->crop = o->vae.crop_tiles;
    v->chunk = (int)o->vae.chunk_tiles;
    v->augment = o->vae.augment;
    v->padding = (int)o->vae.chunk_padding;
    v->grid = d->resolution / 8;
    memcpy(v->weight, (double[SUMS]){o->vae.in_weight, o->vae.ext_weight, o->vae.sharp_weight, o->vae.kl_weight},
           sizeof v->weight);
    v->base = (task){.name = "vae",
                     .p = &v->m.p,
                     .n_layers = ssvae_n_layers(&cfg),
                     .n_sums = SUMS,
                     .sum_name = {"loss_in", "loss_ext", "loss_sharp", "kl"},
                     .count_batches = v->chunk > 0 || v->crop > 0,
                     .seed = (uint64_t)o->train.seed,
                     .host_bytes = vae_host_bytes,
                     .load = vae_load,
                     .counts = counts,
                     .forward = forward,
                     .scratch_per_tile = scratch_per_tile,
                     .tensors = tensors,
                     .loss = loss,
                     .free = task_free};
    return &v->base;
}
