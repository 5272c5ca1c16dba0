/* The SDF loss runs over all decoded voxels (10^5 to 10^7), so it gets threads; the other losses are small. */
#include "kernels/backend.h"
#include "kernels/cpu/rows.h"

enum { PARTS = 6 }; /* three sums, three counts */

void sdf_loss_fwd_cpu(ctx *c, const sdf_loss_args *a) {
    int64_t        M = a->pred->dim[0];
    const uint8_t *sharp = tensor_given(a->sharp) ? U8(a->sharp) : NULL;
    row_sums       sums = row_sums_new(&c->scratch, PARTS);
    int            n_threads = 1;
#pragma omp        parallel if (M > SMALL_LOOP)
    {
               int64_t lo, hi;
               double *mine = row_sums_mine(&sums), ext = 0, in = 0, edge = 0;
               int64_t n_in = 0, n_edge = 0;
               rows_part(M, 64, omp_get_thread_num(), omp_get_num_threads(), &lo, &hi);
#pragma omp single nowait
        n_threads = omp_get_num_threads();
        for (int64_t m = lo; m < hi; m++) {
                   double e = (double)F32(a->pred)[m] - F32(a->target)[m], e2 = e * e;
                   bool   is_in = fabsf(F32(a->target)[m]) < 1;
                   bool   is_edge = is_in && sharp && (sharp[m / 8] >> (m % 8) & 1);
                   ext += is_in ? 0 : e2;
                   in += is_in ? e2 : 0;
                   edge += is_edge ? e2 : 0;
                   n_in += is_in;
                   n_edge += is_edge;
        }
        mine[0] = in;
        mine[1] = ext;
        mine[2] = edge;
        mine[3] = (double)n_in;
        mine[4] = (double)(hi - lo - n_in);
        mine[5] = (double)n_edge;
    }
    for (int k = 0; k < 3; k++) {
        F64(a->sums)[k] = row_sums_total(&sums, k, n_threads);
        F64(a->counts)[k] = row_sums_total(&sums, 3 + k, n_threads);
    }
}

void sdf_loss_bwd_cpu(ctx *c, const sdf_loss_args *a) {
    int64_t        M = a->pred->dim[0];
    const uint8_t *sharp = tensor_given(a->sharp) ? U8(a->sharp) : NULL;
    const float   *pred = F32(a->pred), *target = F32(a->target);
    float         *dpred = F32(a->dpred);
    double         in = 2 * a->scale[0], ext = 2 * a->scale[1], edge = 2 * (a->scale[0] + a->scale[2]);
    (void)c;
#pragma omp parallel if (M > SMALL_LOOP)
    {
        int64_t lo, hi;
        rows_part(M, 64, omp_get_thread_num(), omp_get_num_threads(), &lo, &hi);
        for (int64_t m = lo; m < hi; m++)
            dpred[m] = (float)(((double)pred[m] - target[m]) * (fabsf(target[m]) < 1 ? in : ext));
        for (int64_t m = lo; sharp && m < hi; m++)
            if ((sharp[m / 8] >> (m % 8) & 1) && fabsf(target[m]) < 1)
                dpred[m] = (float)(((double)pred[m] - target[m]) * edge);
    }
}
