#include "kernels/ref/act_math.h"
#include "ops/linear_pre.h"

/* Element (o,i) of W whichever way it is stored. */
static int64_t weight_at(const linear_args *a, int64_t o, int64_t i) {
    return o * (a->w_in_out ? 1 : a->w->dim[1]) + i * (a->w_in_out ? a->w->dim[1] : 1);
}

/* Element of x, after its activation where it is given before. */
static double input_at(const linear_args *a, int64_t at) {
    double x = F32(a->x)[at];
    return linear_x_is_pre(a) ? act_value(a->in_act, x) : x;
}

void linear_fwd_ref(ctx *c, const linear_args *a) {
    int64_t N = a->x->dim[0], I = a->x->dim[1], O = a->y->dim[1];
    (void)c;
    for (int64_t n = 0; n < N; n++)
        for (int64_t o = 0; o < O; o++) {
            double sum = tensor_given(a->b) ? F32(a->b)[o] : 0;
            for (int64_t i = 0; i < I; i++) sum += input_at(a, n * I + i) * F32(a->w)[weight_at(a, o, i)];
            if (a->act != ACT_NONE) F32(a->pre)[n * O + o] = (float)sum;
            F32(a->y)[n * O + o] = (float)act_value(a->act, sum);
        }
}

/* d(x W^T + b) of one element. */
static double dpre(const linear_args *a, int64_t at) {
    return a->act == ACT_NONE ? F32(a->dy)[at] : F32(a->dy)[at] * act_slope(a->act, F32(a->pre)[at]);
}

void linear_bwd_ref(ctx *c, const linear_args *a) {
    int64_t N = a->x->dim[0], I = a->x->dim[1], O = a->dy->dim[1];
    (void)c;
    if (tensor_given(a->dx))
        for (int64_t n = 0; n < N; n++)
            for (int64_t i = 0; i < I; i++) {
                double sum = a->dx_add ? F32(a->dx)[n * I + i] : 0;
                for (int64_t o = 0; o < O; o++) sum += dpre(a, n * O + o) * F32(a->w)[weight_at(a, o, i)];
                if (a->in_act != ACT_NONE) sum *= act_slope(a->in_act, F32(a->in_pre)[n * I + i]);
                F32(a->dx)[n * I + i] = (float)sum;
            }
    for (int64_t o = 0; o < O; o++) {
        if (tensor_given(a->dw))
            for (int64_t i = 0; i < I; i++) {
                double sum = F32(a->dw)[weight_at(a, o, i)];
                for (int64_t n = 0; n < N; n++) sum += dpre(a, n * O + o) * input_at(a, n * I + i);
                F32(a->dw)[weight_at(a, o, i)] = (float)sum;
            }
        if (tensor_given(a->db)) {
            double sum = F32(a->db)[o];
            for (int64_t n = 0; n < N; n++) sum += dpre(a, n * O + o);
            F32(a->db)[o] = (float)sum;
        }
    }
}
