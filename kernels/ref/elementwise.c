#include "kernels/ref/ref.h"

void add_fwd_ref(ctx *c, const xy_args *a) {
    (void)c;
    for (int64_t i = 0, n = tensor_count(a->y); i < n; i++) F32(a->y)[i] += F32(a->x)[i];
}

void zero_fwd_ref(ctx *c, const xy_args *a) {
    (void)c;
    memset(a->y->data, 0, tensor_bytes(a->y));
}

void copy_fwd_ref(ctx *c, const xy_args *a) {
    (void)c;
    for (int64_t i = 0, n = tensor_count(a->y); i < n; i++) ref_store(a->y, i, ref_load(a->x, i));
}

void split_cols_fwd_ref(ctx *c, const split_cols_args *a) {
    int64_t N = a->x->dim[0], C = a->x->dim[1];
    (void)c;
    for (int64_t n = 0; n < N; n++) {
        const float *x = F32(a->x) + n * C;
        for (int p = 0; p < a->n_parts; p++)
            for (int64_t i = 0, w = a->part[p]->dim[1]; i < w; i++) F32(a->part[p])[n * w + i] = *x++;
    }
}

void merge_cols_fwd_ref(ctx *c, const merge_cols_args *a) {
    int64_t N = a->x->dim[0], C = a->x->dim[1];
    (void)c;
    for (int64_t n = 0; n < N; n++) {
        float *x = F32(a->x) + n * C;
        for (int p = 0; p < a->n_parts; p++)
            for (int64_t i = 0, w = a->part[p]->dim[1]; i < w; i++) *x++ = F32(a->part[p])[n * w + i];
    }
}

/* R§3.5: per axis F = C div 6 sines, then F cosines of p 10000^(-i/F). */
void embed_ape_fwd_ref(ctx *c, const embed_ape_args *a) {
    int64_t N = a->x->dim[0], C = a->x->dim[1], F = C / 6;
    (void)c;
    for (int64_t n = 0; n < N; n++)
        for (int64_t i = 0; i < C; i++) {
            double add = 0;
            if (i < 6 * F) {
                int64_t j = i % (2 * F);
                double  p = (double)I32(a->coord)[n * 3 + i / (2 * F)] * a->factor;
                double  angle = p * pow(10000, -(double)(j % F) / (double)F);
                add = j < F ? sin(angle) : cos(angle);
            }
            F32(a->y)[n * C + i] = (float)(F32(a->x)[n * C + i] + add);
        }
}

void embed_time_fwd_ref(ctx *c, const embed_time_args *a) {
    int64_t B = a->y->dim[0], D = a->y->dim[1], half = D / 2;
    (void)c;
    for (int64_t b = 0; b < B; b++)
        for (int64_t i = 0; i < D; i++) {
            double angle = F32(a->t)[b] * pow(10000, -(double)(i % half) / (double)half);
            F32(a->y)[b * D + i] = (float)(i < half ? cos(angle) : sin(angle));
        }
}

void add_table_fwd_ref(ctx *c, const add_table_args *a) {
    int64_t N = a->x->dim[0], C = a->x->dim[1];
    (void)c;
    for (int64_t n = 0; n < N; n++)
        for (int64_t i = 0; i < C; i++)
            F32(a->y)[n * C + i] = F32(a->x)[n * C + i] + F32(a->table)[I32(a->index)[n] * C + i];
}

void add_table_bwd_ref(ctx *c, const add_table_args *a) {
    int64_t K = a->dtable->dim[0], C = a->dy->dim[1];
    (void)c;
    for (int64_t k = 0; k < K; k++)
        for (int64_t i = 0; i < C; i++) {
            double sum = F32(a->dtable)[k * C + i];
            for (int32_t j = I32(a->first)[k]; j < I32(a->first)[k + 1]; j++)
                sum += F32(a->dy)[I32(a->order)[j] * C + i];
            F32(a->dtable)[k * C + i] = (float)sum;
        }
}

void gather_rows_fwd_ref(ctx *c, const gather_rows_args *a) {
    int64_t N = a->y->dim[0], C = a->y->dim[1];
    (void)c;
    for (int64_t n = 0; n < N; n++)
        for (int64_t i = 0; i < C; i++) F32(a->y)[n * C + i] = F32(a->x)[I32(a->index)[n] * C + i];
}

void gather_rows_bwd_ref(ctx *c, const gather_rows_args *a) {
    int64_t N = a->dy->dim[0], K = a->dx->dim[0], C = a->dx->dim[1];
    (void)c;
    for (int64_t i = 0; i < K * C; i++) F32(a->dx)[i] = 0;
    for (int64_t n = 0; n < N; n++)
        for (int64_t i = 0; i < C; i++) F32(a->dx)[I32(a->index)[n] * C + i] = F32(a->dy)[n * C + i];
}
