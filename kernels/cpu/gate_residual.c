#include "kernels/backend.h"
#include "kernels/cpu/rows.h"

void gate_residual_fwd_cpu(ctx *c, const gate_residual_args *a) {
    int64_t N = a->x->dim[0], C = a->x->dim[1];
    bool    gated = tensor_given(a->gate);
    (void)c;
#pragma omp parallel if (N * C > SMALL_LOOP)
    {
        int64_t lo, hi, b = 0;
        rows_part(N, 1, omp_get_thread_num(), omp_get_num_threads(), &lo, &hi);
        for (int64_t n = lo; n < hi; n++) {
            const float *x = F32(a->x) + n * C, *h = F32(a->h) + n * C;
            float       *y = F32(a->y) + n * C;
            if (gated) {
                while (n >= I32(a->first)[b + 1]) b++;
                const float *gate = F32(a->gate) + b * C;
                for (int64_t i = 0; i < C; i++) y[i] = x[i] + gate[i] * h[i];
            } else {
                for (int64_t i = 0; i < C; i++) y[i] = x[i] + h[i];
            }
        }
    }
}

void gate_residual_bwd_cpu(ctx *c, const gate_residual_args *a) {
    int64_t C = a->dy->dim[1];
    bool    want = tensor_given(a->dgate);
    if (!tensor_given(a->gate)) {
        copy_fwd_cpu(c, &(xy_args){.x = a->dy, .y = a->dh});
        return;
    }
    row_sums sums = row_sums_new(&c->scratch, want ? C : 0);
    for (int64_t b = 0; b < a->gate->dim[0]; b++) {
        int64_t      r0 = I32(a->first)[b], rows = I32(a->first)[b + 1] - r0;
        const float *gate = F32(a->gate) + b * C;
        int          n_threads = 1;
#pragma omp        parallel if (rows * C > SMALL_LOOP)
        {
                   int64_t lo, hi;
                   double *restrict mine = row_sums_mine(&sums);
                   rows_part(rows, 1, omp_get_thread_num(), omp_get_num_threads(), &lo, &hi);
#pragma omp single nowait
            n_threads = omp_get_num_threads();
            for (int64_t n = r0 + lo; n < r0 + hi; n++) {
                       const float *dy = F32(a->dy) + n * C;
                       float       *dh = F32(a->dh) + n * C;
                       if (want) {
                           const float *h = F32(a->h) + n * C;
                           for (int64_t i = 0; i < C; i++) mine[i] += (double)dy[i] * h[i];
                }
                       for (int64_t i = 0; i < C; i++) dh[i] = gate[i] * dy[i];
            }
        }
        for (int64_t i = 0; want && i < C; i++) F32(a->dgate)[b * C + i] = (float)row_sums_total(&sums, i, n_threads);
    }
}
