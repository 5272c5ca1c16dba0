/* Definition of the submanifold convolution (ops/conv3.h), row by row through the neighbour rows of the grid. Eight
 * rows read the same row of x where that is of the level above. */
#include "kernels/ref/act_math.h"

void conv3_fwd_ref(ctx *c, const conv3_args *a) {
    (void)c;
    int64_t      N = a->g->n_rows, I = a->x->dim[1], O = a->y->dim[1];
    const float *x = F32(a->x), *w = F32(a->w), *b = F32(a->b);
    int          up = a->up ? 3 : 0;
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < N; p++) {
        int32_t nb[27];
        grid_neighbors(a->g, p, 1, nb);
        for (int64_t o = 0; o < O; o++) {
            double sum = (double)b[o];
            for (int k = 0; k < 27; k++)
                for (int64_t i = 0; nb[k] >= 0 && i < I; i++)
                    sum += (double)x[(nb[k] >> up) * I + i] * (double)w[(k * I + i) * O + o];
            if (a->act != ACT_NONE) F32(a->pre)[p * O + o] = (float)sum;
            F32(a->y)[p * O + o] = (float)act_value(a->act, sum);
        }
    }
}

/* dpre[p,o] = dy[p,o] act'(pre[p,o]) */
static double conv3_dpre(const conv3_args *a, int64_t at) {
    double dy = (double)F32(a->dy)[at];
    return a->act == ACT_NONE ? dy : dy * act_slope(a->act, (double)F32(a->pre)[at]);
}

void conv3_bwd_ref(ctx *c, const conv3_args *a) {
    int64_t      N = a->g->n_rows, I = a->x->dim[1], O = a->dy->dim[1];
    const float *x = F32(a->x), *w = F32(a->w);
    int          up = a->up ? 3 : 0;
    int32_t     *nb = arena_alloc(&c->scratch, (size_t)N * 27 * sizeof *nb);
    grid_neighbors(a->g, 0, N, nb);
    /* p + d(k) = r  <=>  p = r + d(26-k) */
    if (tensor_given(a->dx))
#pragma omp parallel for schedule(static)
        for (int64_t row = 0; row < N >> up; row++)
            for (int64_t i = 0; i < I; i++) {
                double sum = 0;
                for (int64_t r = row << up; r < (row + 1) << up; r++)
                    for (int k = 0; k < 27; k++) {
                        int64_t p = nb[27 * r + 26 - k];
                        for (int64_t o = 0; p >= 0 && o < O; o++)
                            sum += conv3_dpre(a, p * O + o) * (double)w[(k * I + i) * O + o];
                    }
                F32(a->dx)[row * I + i] = (float)sum;
            }
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < 27 * I; j++)
        for (int64_t o = 0; o < O; o++) {
            double  sum = (double)F32(a->dw)[j * O + o];
            int64_t k = j / I, i = j % I;
            for (int64_t p = 0; p < N; p++)
                if (nb[27 * p + k] >= 0) sum += (double)x[(nb[27 * p + k] >> up) * I + i] * conv3_dpre(a, p * O + o);
            F32(a->dw)[j * O + o] = (float)sum;
        }
    for (int64_t o = 0; o < O; o++) {
        double sum = (double)F32(a->db)[o];
        for (int64_t p = 0; p < N; p++) sum += conv3_dpre(a, p * O + o);
        F32(a->db)[o] = (float)sum;
    }
}
