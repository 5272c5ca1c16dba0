/* The lift, norm and pooling of voxels (ops/lift_pool.h). With x = v - centre, centre the sample's mean as a float (the
 * mean of x is `rest`),
 *
 *     xhat = rstd (w x + off),   off = w centre + b - mean(u) of the group,   z = scale x + shift
 *
 * so that the statistics of u are those of v, and backward needs, besides the moments, four sums a channel: of dz and
 * dz x, and of the skip's gradient and that times x. */
#include "kernels/cpu/act_array.h"
#include "kernels/cpu/rows.h"

/* Of one sample; the pointers: of each channel. */
typedef struct {
    double *rstd, *off;
    float  *scale, *shift, centre;
    double  count, rest, var;
} columns;

static columns columns_new(ctx *c, int64_t C) {
    columns k = {.rstd = arena_alloc(&c->scratch, (size_t)(2 * C) * sizeof(double)),
                 .scale = arena_alloc(&c->scratch, (size_t)(2 * C) * sizeof(float))};
    k.off = k.rstd + C;
    k.shift = k.scale + C;
    return k;
}

static void columns_of(const lift_pool_args *a, int64_t b, columns *k) {
    int64_t      C = a->w->dim[0], W = C / a->groups;
    const float *w = F32(a->w), *bias = F32(a->b);
    double       mean = F64(a->moments)[2 * b];
    k->centre = (float)mean;
    k->rest = mean - k->centre;
    k->var = F64(a->moments)[2 * b + 1];
    k->count = (double)(I32(a->first)[b + 1] - I32(a->first)[b]);
    for (int64_t i0 = 0; i0 < C; i0 += W) {
        double u = 0, var = 0;
        for (int64_t i = i0; i < i0 + W; i++) u += (w[i] * mean + bias[i]) / (double)W;
        for (int64_t i = i0; i < i0 + W; i++) {
            k->off[i] = w[i] * mean + bias[i] - u;
            var += ((double)w[i] * w[i] * k->var + k->off[i] * k->off[i]) / (double)W;
        }
        for (int64_t i = i0; i < i0 + W; i++) {
            k->off[i] -= w[i] * k->rest;
            k->rstd[i] = 1 / sqrt(var + a->eps);
            k->scale[i] = (float)(w[i] * k->rstd[i] * F32(a->gamma)[i]);
            k->shift[i] = (float)(k->off[i] * k->rstd[i] * F32(a->gamma)[i] + F32(a->beta)[i]);
        }
    }
}

static double pool_share(const lift_pool_args *a, int64_t p) {
    int n = I32(a->pool_first)[p + 1] - I32(a->pool_first)[p];
    return n == 0 ? 0 : 1.0 / (a->add_one ? n + 1 : n);
}

/* Sums of v - v0 and its square, v0 the sample's first: the shift keeps the digits of the variance. */
static void sample_moments(const lift_pool_args *a, int64_t b, const row_sums *sums) {
    int64_t      lo = I32(a->first)[b], rows = I32(a->first)[b + 1] - lo;
    const float *v = F32(a->v) + lo;
    double      *out = F64(a->moments) + 2 * b;
    int          n_threads = 1;
    out[0] = out[1] = 0;
    if (rows == 0) return;
#pragma omp        parallel if (rows > SMALL_LOOP)
    {
               int64_t begin, end;
               double *mine = row_sums_mine(sums), s = 0, q = 0;
               rows_part(rows, 1, omp_get_thread_num(), omp_get_num_threads(), &begin, &end);
#pragma omp single nowait
        n_threads = omp_get_num_threads();
        for (int64_t n = begin; n < end; n++) {
                   double d = (double)v[n] - v[0];
                   s += d;
                   q += d * d;
        }
        mine[0] = s;
        mine[1] = q;
    }
    double s = row_sums_total(sums, 0, n_threads), q = row_sums_total(sums, 1, n_threads);
    double var = (q - s * s / (double)rows) / (double)rows;
    out[0] = v[0] + s / (double)rows;
    out[1] = var < 0 ? 0 : var; /* not fmax: it would turn a NaN into 0 */
}

void lift_pool_fwd_cpu(ctx *c, const lift_pool_args *a) {
    int64_t      C = a->w->dim[0], B = a->first->dim[0] - 1;
    columns      k = columns_new(c, C);
    row_sums     sums = row_sums_new(&c->scratch, 2);
    float       *room = arena_alloc(&c->scratch, (size_t)(C * omp_get_max_threads()) * sizeof *room);
    double      *sums_y = arena_alloc(&c->scratch, (size_t)(C * omp_get_max_threads()) * sizeof *sums_y);
    const float *v = F32(a->v), *w = F32(a->w), *bias = F32(a->b);
    for (int64_t b = 0; b < B; b++) {
        sample_moments(a, b, &sums);
        columns_of(a, b, &k);
        int64_t p0 = I32(a->pool_sample)[b], p1 = I32(a->pool_sample)[b + 1];
#pragma omp parallel for schedule(static) if (k.count * (double)C > SMALL_LOOP)
        for (int64_t p = p0; p < p1; p++) {
            int    lo = I32(a->pool_first)[p], hi = I32(a->pool_first)[p + 1];
            float *z = room + C * omp_get_thread_num(), *y = F32(a->y) + p * C, *skip = F32(a->skip) + p * C;
            double share = pool_share(a, p), sum = 0, *all = sums_y + C * omp_get_thread_num();
            memset(all, 0, (size_t)C * sizeof *all);
            for (int n = lo; n < hi; n++) {
                float x = v[n] - k.centre;
                sum += v[n];
                for (int64_t i = 0; i < C; i++) z[i] = k.scale[i] * x + k.shift[i];
                act_array_fwd(ACT_SILU, z, NULL, NULL, z, C);
                for (int64_t i = 0; i < C; i++) all[i] += z[i];
            }
            for (int64_t i = 0; i < C; i++) {
                y[i] = (float)(all[i] * share);
                skip[i] = (float)((sum * w[i] + (double)(hi - lo) * bias[i]) * share);
            }
        }
    }
}

/* The sums of one sample, four rows of C, to s; mine: a thread's. */
static void gradient_sums(const lift_pool_args *a, int64_t b, const columns *k, const row_sums *sums, float *room,
                          double *s) {
    int64_t      C = a->w->dim[0], p0 = I32(a->pool_sample)[b], rows = I32(a->pool_sample)[b + 1] - p0;
    const float *v = F32(a->v);
    int          n_threads = 1;
#pragma omp        parallel if (k->count * (double)C > SMALL_LOOP)
    {
               int64_t begin, end;
               double *mine = row_sums_mine(sums);
               float  *z = room + 4 * C * omp_get_thread_num(), *d = z + C, *dz = d + C, *dzx = dz + C;
               rows_part(rows, 1, omp_get_thread_num(), omp_get_num_threads(), &begin, &end);
#pragma omp single nowait
        n_threads = omp_get_num_threads();
        for (int64_t p = p0 + begin; p < p0 + end; p++) {
                   int          lo = I32(a->pool_first)[p], hi = I32(a->pool_first)[p + 1];
                   const float *dy = F32(a->dy) + p * C, *dskip = F32(a->dskip) + p * C;
                   double       share = pool_share(a, p), sum = 0;
                   memset(dz, 0, (size_t)(2 * C) * sizeof *dz);
                   for (int n = lo; n < hi; n++) {
                       float x = v[n] - k->centre;
                       sum += x;
                       for (int64_t i = 0; i < C; i++) z[i] = k->scale[i] * x + k->shift[i];
                act_array_bwd(ACT_SILU, z, dy, d, C);
                       for (int64_t i = 0; i < C; i++) {
                           dz[i] += d[i];
                           dzx[i] += d[i] * x;
                }
            }
                   for (int64_t i = 0; i < C; i++) {
                       mine[i] += share * dz[i];
                       mine[C + i] += share * dzx[i];
                       mine[2 * C + i] += share * (hi - lo) * dskip[i];
                       mine[3 * C + i] += share * sum * dskip[i];
            }
        }
    }
    for (int64_t i = 0; i < 4 * C; i++) s[i] = row_sums_total(sums, i, n_threads);
}

/* Adds a sample's part of the gradients (C each: dw, db, dgamma, dbeta) to total; m0, m1: the group's means of gamma dz
 * and gamma dz xhat. */
static void add_gradients(const lift_pool_args *a, const columns *k, const double *s, double *total, double *m0,
                          double *m1) {
    int64_t C = a->w->dim[0], W = C / a->groups;
    double  squares = k->var + k->rest * k->rest;
    for (int64_t i0 = 0; i0 < C; i0 += W) {
        double s0 = 0, s1 = 0;
        for (int64_t i = i0; i < i0 + W; i++) {
            double gamma = F32(a->gamma)[i], dz_xhat = k->rstd[i] * (F32(a->w)[i] * s[C + i] + k->off[i] * s[i]);
            total[2 * C + i] += dz_xhat;
            total[3 * C + i] += s[i];
            s0 += gamma * s[i];
            s1 += gamma * dz_xhat;
        }
        for (int64_t i = i0; i < i0 + W; i++) {
            double gamma = F32(a->gamma)[i], rstd = k->rstd[i];
            m0[i] = s0 / (k->count * (double)W);
            m1[i] = s1 / (k->count * (double)W);
            double xhat = rstd * (F32(a->w)[i] * k->rest + k->off[i]); /* means of xhat and xhat x */
            double xhat_x = rstd * (F32(a->w)[i] * squares + k->off[i] * k->rest);
            double du = rstd * (gamma * s[i] - k->count * (m0[i] + m1[i] * xhat)) + s[2 * C + i];
            double du_x = rstd * (gamma * s[C + i] - k->count * (m0[i] * k->rest + m1[i] * xhat_x)) + s[3 * C + i];
            total[i] += du_x + k->centre * du;
            total[C + i] += du;
        }
    }
}

/* dv = sum over channels of w du. */
static void value_gradient(const lift_pool_args *a, int64_t b, const columns *k, const double *m0, const double *m1) {
    int64_t C = a->w->dim[0], p0 = I32(a->pool_sample)[b], p1 = I32(a->pool_sample)[b + 1];
#pragma omp parallel for schedule(static) if (k->count * (double)C > SMALL_LOOP)
    for (int64_t p = p0; p < p1; p++) {
        double share = pool_share(a, p);
        for (int n = I32(a->pool_first)[p]; n < I32(a->pool_first)[p + 1]; n++) {
            float  x = F32(a->v)[n] - k->centre;
            double sum = 0;
            for (int64_t i = 0; i < C; i++) {
                double w = F32(a->w)[i], xhat = k->rstd[i] * (w * x + k->off[i]);
                double dz = share * F32(a->dy)[p * C + i] * act_slope(ACT_SILU, k->scale[i] * x + k->shift[i]);
                sum += w *
                       (k->rstd[i] * (dz * F32(a->gamma)[i] - m0[i] - xhat * m1[i]) + share * F32(a->dskip)[p * C + i]);
            }
            F32(a->dv)[n] = (float)sum;
        }
    }
}

void lift_pool_bwd_cpu(ctx *c, const lift_pool_args *a) {
    int64_t  C = a->w->dim[0], B = a->first->dim[0] - 1;
    columns  k = columns_new(c, C);
    row_sums sums = row_sums_new(&c->scratch, 4 * C);
    float   *room = arena_alloc(&c->scratch, (size_t)(4 * C * omp_get_max_threads()) * sizeof *room);
    double  *total = arena_zeros(&c->scratch, (size_t)(10 * C) * sizeof *total);
    double  *s = total + 4 * C, *m0 = s + 4 * C, *m1 = m0 + C;
    for (int64_t b = 0; b < B; b++) {
        columns_of(a, b, &k);
        if (k.count == 0) continue;
        gradient_sums(a, b, &k, &sums, room, s);
        add_gradients(a, &k, s, total, m0, m1);
        if (tensor_given(a->dv)) value_gradient(a, b, &k, m0, m1);
    }
    const tensor *grad[4] = {a->dw, a->db, a->dgamma, a->dbeta};
    for (int g = 0; g < 4 && tensor_given(a->dw); g++)
        for (int64_t i = 0; i < C; i++) F32(grad[g])[i] = (float)(F32(grad[g])[i] + total[g * C + i]);
}
