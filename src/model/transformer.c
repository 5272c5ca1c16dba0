#include "model/transformer.h"

#include <math.h>
#include <stdio.h>

affine affine_linear(params *p, int layer, int64_t out, int64_t in, const char *name) {
    return (affine){params_add(p, layer, INIT_XAVIER, 0, DIMS(out, in), "%s.weight", name),
                    params_add(p, layer, INIT_ZERO, 0, DIMS(out), "%s.bias", name)};
}

affine affine_norm(params *p, int layer, int64_t width, const char *name) {
    return (affine){params_add(p, layer, INIT_ONE, 0, DIMS(width), "%s.weight", name),
                    params_add(p, layer, INIT_ZERO, 0, DIMS(width), "%s.bias", name)};
}

affine affine_conv(params *p, int layer, int volume, int64_t in, int64_t out, const char *name) {
    const int64_t dims[3] = {volume, in, out};
    bool          point = volume == 1;
    double        bound = 1 / sqrt((double)in * volume);
    return (affine){
        params_add(p, layer, INIT_UNIFORM, bound, point ? dims + 1 : dims, point ? 2 : 3, "%s.conv.kernel", name),
        params_add(p, layer, INIT_UNIFORM, bound, DIMS(out), "%s.conv.bias", name)};
}

window_block_rows window_block_add(params *p, int layer, int64_t width, int64_t mlp_width, const char *prefix) {
    window_block_rows r;
    char              name[96];
    snprintf(name, sizeof name, "%s.attn.to_qkv", prefix);
    r.qkv = affine_linear(p, layer, 3 * width, width, name);
    snprintf(name, sizeof name, "%s.attn.to_out", prefix);
    r.out = affine_linear(p, layer, width, width, name);
    snprintf(name, sizeof name, "%s.mlp.mlp.0", prefix);
    r.mlp_in = affine_linear(p, layer, mlp_width, width, name);
    snprintf(name, sizeof name, "%s.mlp.mlp.2", prefix);
    r.mlp_out = affine_linear(p, layer, width, mlp_width, name);
    return r;
}

var *window_block(tape *t, const void *args, var *const *in) {
    const window_block_args *a = args;
    const window_block_rows *r = a->r;
    const tensor            *order = tensor_given(&a->window->order) ? &a->window->order : NULL;
    var                     *x = in[0];

    var *h = nn_layer_norm(t, x, NULL, NULL, 1e-6);
    h = nn_linear(t, h, r->qkv.w, r->qkv.b, ACT_NONE);
    h = nn_attn_qkv(t, h, a->heads, &a->window->first, order);
    h = nn_linear(t, h, r->out.w, r->out.b, ACT_NONE);
    h = nn_residual_layer_norm(t, &x, h, NULL, NULL, NULL, NULL, 1e-6);
    h = nn_mlp(t, h, r->mlp_in.w, r->mlp_in.b, ACT_GELU_TANH, r->mlp_out.w, r->mlp_out.b);
    return nn_gate_residual(t, x, h, NULL, NULL);
}
