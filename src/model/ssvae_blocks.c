/* DownBlock and UpBlock of the SS-VAE as segments (R§3.2, R§3.4). */
#include "model/ssvae_parts.h"

#include <math.h>
#include <stdio.h>

/* Bound of a uniform distribution with standard deviation gain/sqrt(in). */
static void set_centre(affine conv, double gain) {
    conv.w->centre = gain * sqrt(3.0 / (double)conv.w->dim[1]);
}

down_rows down_rows_add(params *p, int layer, int64_t in, int64_t out, double centre, const char *prefix) {
    down_rows r = {.skip = {NULL, NULL}};
    char      name[96];
    snprintf(name, sizeof name, "%s.act_layers.0", prefix);
    r.norm_in = affine_norm(p, layer, in, name);
    snprintf(name, sizeof name, "%s.out_layers.0", prefix);
    r.conv_in = affine_conv(p, layer, 27, in, out, name);
    snprintf(name, sizeof name, "%s.out_layers.1", prefix);
    r.norm_out = affine_norm(p, layer, out, name);
    snprintf(name, sizeof name, "%s.out_layers.3", prefix);
    r.conv_out = affine_conv(p, layer, 27, out, out, name);
    snprintf(name, sizeof name, "%s.skip_connection", prefix);
    set_centre(r.conv_in, centre);
    set_centre(r.conv_out, centre);
    if (in != out) r.skip = affine_conv(p, layer, 1, in, out, name);
    return r;
}

up_rows up_rows_add(params *p, int layer, int64_t in, int64_t out, double gain, double centre, const char *prefix) {
    up_rows r;
    char    name[96];
    snprintf(name, sizeof name, "%s.act_layers.0", prefix);
    r.conv_in = affine_conv(p, layer, 27, in, out, name);
    snprintf(name, sizeof name, "%s.out_layers.0", prefix);
    r.conv_out = affine_conv(p, layer, 27, out, out, name);
    r.conv_in.w->arg *= gain;
    r.conv_out.w->arg *= gain;
    set_centre(r.conv_in, centre);
    set_centre(r.conv_out, centre);
    return r;
}

var *down_block(tape *t, const void *args, var *const *in) {
    const down_args *a = args;
    const down_rows *r = a->r;
    const tensor    *fine = &a->fine->sample_first, *coarse = &a->coarse->sample_first;
    var             *h, *skip;
    if (a->lift) {
        lift_params lift = {a->lift->w, a->lift->b, r->norm_in.w, r->norm_in.b};
        nn_lift_pool(t, in[0], &lift, fine, a->pool_first, coarse, a->groups, a->pool_add_one, &h, &skip);
    } else {
        h = nn_group_norm(t, in[0], r->norm_in.w, r->norm_in.b, fine, a->groups, ACT_SILU);
        h = nn_pool(t, h, a->pool_first, NULL, a->pool_add_one);
        skip = nn_pool(t, in[0], a->pool_first, NULL, a->pool_add_one);
    }
    h = nn_conv3(t, h, a->coarse, r->conv_in.w, r->conv_in.b, ACT_NONE);
    h = nn_group_norm(t, h, r->norm_out.w, r->norm_out.b, coarse, a->groups, ACT_SILU);
    h = nn_conv3(t, h, a->coarse, r->conv_out.w, r->conv_out.b, ACT_NONE);

    if (r->skip.w) skip = nn_conv1(t, skip, r->skip.w, r->skip.b);
    return nn_gate_residual(t, skip, h, NULL, NULL);
}

var *up_block(tape *t, const void *args, var *const *in) {
    const up_args *a = args;
    const up_rows *r = a->r;
    var           *x = nn_conv3(t, in[0], a->coarse, r->conv_in.w, r->conv_in.b, ACT_SILU);
    /* The finest level's activations are read once, where the prediction is made. */
    x = nn_conv3_up(t, x, a->fine, r->conv_out.w, r->conv_out.b, a->head ? ACT_NONE : ACT_SILU);
    return a->head ? nn_linear_of(t, x, ACT_SILU, a->head->w, a->head->b, ACT_TANH, DT_F32) : x;
}
