#include "kernels/ref/ref.h"

enum { SDF_IN, SDF_EXT, SDF_SHARP };

static bool is_in(const sdf_loss_args *a, int64_t m) {
    return fabsf(F32(a->target)[m]) < 1;
}
static bool is_sharp(const sdf_loss_args *a, int64_t m) {
    return tensor_given(a->sharp) && (U8(a->sharp)[m / 8] >> (m % 8) & 1) && is_in(a, m);
}

void sdf_loss_fwd_ref(ctx *c, const sdf_loss_args *a) {
    double  sum[3] = {0, 0, 0};
    int64_t count[3] = {0, 0, 0};
    (void)c;
    for (int64_t m = 0; m < a->pred->dim[0]; m++) {
        double e = (double)F32(a->pred)[m] - F32(a->target)[m];
        int    k = is_in(a, m) ? SDF_IN : SDF_EXT;
        sum[k] += e * e;
        count[k]++;
        if (is_sharp(a, m)) {
            sum[SDF_SHARP] += e * e;
            count[SDF_SHARP]++;
        }
    }
    for (int k = 0; k < 3; k++) {
        ref_store_f64(a->sums, k, sum[k]);
        ref_store_f64(a->counts, k, (double)count[k]);
    }
}

void sdf_loss_bwd_ref(ctx *c, const sdf_loss_args *a) {
    (void)c;
    for (int64_t m = 0; m < a->pred->dim[0]; m++) {
        double e = (double)F32(a->pred)[m] - F32(a->target)[m];
        double scale = a->scale[is_in(a, m) ? SDF_IN : SDF_EXT];
        if (is_sharp(a, m)) scale += a->scale[SDF_SHARP];
        F32(a->dpred)[m] = (float)(2 * e * scale);
    }
}

void mse_rows_fwd_ref(ctx *c, const mse_rows_args *a) {
    int64_t C = a->pred->dim[1];
    (void)c;
    for (int64_t b = 0; b < a->sums->dim[0]; b++) {
        double sum = 0;
        for (int64_t i = I32(a->first)[b] * C; i < I32(a->first)[b + 1] * C; i++) {
            double e = (double)F32(a->pred)[i] - F32(a->target)[i];
            sum += e * e;
        }
        ref_store_f64(a->sums, b, sum);
    }
}

void mse_rows_bwd_ref(ctx *c, const mse_rows_args *a) {
    (void)c;
    for (int64_t i = 0, n = tensor_count(a->pred); i < n; i++)
        F32(a->dpred)[i] = (float)(2 * ((double)F32(a->pred)[i] - F32(a->target)[i]) * a->scale);
}

void flow_noise_fwd_ref(ctx *c, const flow_noise_args *a) {
    int64_t C = a->x0->dim[1];
    double  s = a->sigma_min;
    (void)c;
    for (int64_t b = 0; b + 1 < a->first->dim[0]; b++)
        for (int64_t i = I32(a->first)[b] * C; i < I32(a->first)[b + 1] * C; i++) {
            double t = F32(a->t)[b], x0 = F32(a->x0)[i], eps = F32(a->eps)[i];
            F32(a->x_t)[i] = (float)((1 - t) * x0 + (s + (1 - s) * t) * eps);
            F32(a->v)[i] = (float)((1 - s) * eps - x0);
        }
}
