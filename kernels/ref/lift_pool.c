/* Definition of the lift, norm and pooling of voxels (ops/lift_pool.h). */
#include "kernels/ref/act_math.h"

static double lifted(const lift_pool_args *a, int64_t n, int64_t i) {
    return (double)F32(a->v)[n] * F32(a->w)[i] + F32(a->b)[i];
}

/* Of sample b and the group that channel i is in. */
static void group_moments(const lift_pool_args *a, int64_t b, int64_t i, double *mean, double *rstd) {
    int64_t W = a->w->dim[0] / a->groups, lo = I32(a->first)[b], hi = I32(a->first)[b + 1], i0 = i / W * W;
    double  count = (double)((hi - lo) * W), sum = 0, var = 0;
    for (int64_t n = lo; n < hi; n++)
        for (int64_t j = i0; j < i0 + W; j++) sum += lifted(a, n, j);
    *mean = sum / count;
    for (int64_t n = lo; n < hi; n++)
        for (int64_t j = i0; j < i0 + W; j++) var += (lifted(a, n, j) - *mean) * (lifted(a, n, j) - *mean);
    *rstd = 1 / sqrt(var / count + a->eps);
}

static double pool_share(const lift_pool_args *a, int64_t p) {
    double n = I32(a->pool_first)[p + 1] - I32(a->pool_first)[p];
    return n == 0 ? 0 : 1 / (a->add_one ? n + 1 : n);
}

void lift_pool_fwd_ref(ctx *c, const lift_pool_args *a) {
    int64_t C = a->w->dim[0], B = a->first->dim[0] - 1;
    (void)c;
    for (int64_t b = 0; b < B; b++) {
        double mean = 0, var = 0, n = I32(a->first)[b + 1] - I32(a->first)[b];
        for (int64_t k = I32(a->first)[b]; k < I32(a->first)[b + 1]; k++) mean += F32(a->v)[k] / n;
        for (int64_t k = I32(a->first)[b]; k < I32(a->first)[b + 1]; k++)
            var += (F32(a->v)[k] - mean) * (F32(a->v)[k] - mean) / n;
        ref_store_f64(a->moments, 2 * b, mean);
        ref_store_f64(a->moments, 2 * b + 1, var);
        for (int64_t i = 0; i < C; i++) {
            double m, rstd;
            group_moments(a, b, i, &m, &rstd);
            for (int64_t p = I32(a->pool_sample)[b]; p < I32(a->pool_sample)[b + 1]; p++) {
                double y = 0, skip = 0;
                for (int64_t k = I32(a->pool_first)[p]; k < I32(a->pool_first)[p + 1]; k++) {
                    double u = lifted(a, k, i);
                    y += act_value(ACT_SILU, (u - m) * rstd * F32(a->gamma)[i] + F32(a->beta)[i]);
                    skip += u;
                }
                F32(a->y)[p * C + i] = (float)(y * pool_share(a, p));
                F32(a->skip)[p * C + i] = (float)(skip * pool_share(a, p));
            }
        }
    }
}

/* Of channel i at member k of parent p: xhat, and the gradient of GN's output before gamma. */
static double norm_gradient(const lift_pool_args *a, int64_t p, int64_t k, int64_t i, double mean, double rstd,
                            double *xhat) {
    *xhat = (lifted(a, k, i) - mean) * rstd;
    return F32(a->dy)[p * a->w->dim[0] + i] * pool_share(a, p) *
           act_slope(ACT_SILU, *xhat * F32(a->gamma)[i] + F32(a->beta)[i]);
}

/* The means over a group of gamma dz and of gamma dz xhat. */
static void gradient_means(const lift_pool_args *a, int64_t b, int64_t i, double mean, double rstd, double *m0,
                           double *m1) {
    int64_t W = a->w->dim[0] / a->groups, i0 = i / W * W;
    double  count = (double)((I32(a->first)[b + 1] - I32(a->first)[b]) * W), s0 = 0, s1 = 0, xhat;
    for (int64_t p = I32(a->pool_sample)[b]; p < I32(a->pool_sample)[b + 1]; p++)
        for (int64_t k = I32(a->pool_first)[p]; k < I32(a->pool_first)[p + 1]; k++)
            for (int64_t j = i0; j < i0 + W; j++) {
                double d = norm_gradient(a, p, k, j, mean, rstd, &xhat) * F32(a->gamma)[j];
                s0 += d;
                s1 += d * xhat;
            }
    *m0 = s0 / count;
    *m1 = s1 / count;
}

void lift_pool_bwd_ref(ctx *c, const lift_pool_args *a) {
    int64_t C = a->w->dim[0], B = a->first->dim[0] - 1, V = a->v->dim[0];
    double *dv = arena_zeros(&c->scratch, (size_t)(V + 1) * sizeof *dv);
    for (int64_t i = 0; i < C; i++) {
        double dw = 0, db = 0, dgamma = 0, dbeta = 0;
        for (int64_t b = 0; b < B; b++) {
            double mean, rstd, m0, m1, xhat;
            group_moments(a, b, i, &mean, &rstd);
            gradient_means(a, b, i, mean, rstd, &m0, &m1);
            for (int64_t p = I32(a->pool_sample)[b]; p < I32(a->pool_sample)[b + 1]; p++)
                for (int64_t k = I32(a->pool_first)[p]; k < I32(a->pool_first)[p + 1]; k++) {
                    double dz = norm_gradient(a, p, k, i, mean, rstd, &xhat);
                    double du =
                        rstd * (dz * F32(a->gamma)[i] - m0 - xhat * m1) + F32(a->dskip)[p * C + i] * pool_share(a, p);
                    dgamma += dz * xhat;
                    dbeta += dz;
                    dw += du * F32(a->v)[k];
                    db += du;
                    dv[k] += du * F32(a->w)[i];
                }
        }
        if (!tensor_given(a->dw)) continue;
        F32(a->dw)[i] = (float)(F32(a->dw)[i] + dw);
        F32(a->db)[i] = (float)(F32(a->db)[i] + db);
        F32(a->dgamma)[i] = (float)(F32(a->dgamma)[i] + dgamma);
        F32(a->dbeta)[i] = (float)(F32(a->dbeta)[i] + dbeta);
    }
    for (int64_t k = 0; tensor_given(a->dv) && k < V; k++) F32(a->dv)[k] = (float)dv[k];
}
