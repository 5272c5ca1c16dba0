/* Figures of one shape, as fields of its JSON object. */
#pragma once
#include "app/shapes.h"

/* Reconstruction of sample i by the auto-encoder; meshes go to FOLDER/NAME-truth.glb and NAME-vae.glb, the picture of
 * one of the first eval.pictures to NAME.png ("picture", and in "files"). */
bool eval_vae_shape(network *vae, const options *o, const dataset *d, int64_t i, const shape *s, const char *folder,
                    json_t *out, status *st);

/* Of the transformer: flow_right@T, flow_wrong@T, right_lower@T for T in 0.1 .. 0.9 and right_view_lower (only with
 * another shape's view), and with `generate` {generated,zero,noise}_{sign_accuracy,band_error_tau}. */
bool eval_dit_shape(network *vae, network *dit, const options *o, const shape *s, const view_input *view,
                    const view_input *other, bool generate, json_t *out, status *st);
