#include "kernels/ref/act_math.h"

void act_fwd_ref(ctx *c, const act_args *a) {
    (void)c;
    for (int64_t i = 0, n = tensor_count(a->x); i < n; i++) F32(a->y)[i] = (float)act_value(a->act, F32(a->x)[i]);
}

void act_bwd_ref(ctx *c, const act_args *a) {
    (void)c;
    for (int64_t i = 0, n = tensor_count(a->x); i < n; i++)
        F32(a->dx)[i] = (float)(F32(a->dy)[i] * act_slope(a->act, F32(a->x)[i]));
}
