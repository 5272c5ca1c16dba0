#include "kernels/backend.h"
#include "kernels/cpu/rows.h"

void add_fwd_cpu(ctx *c, const xy_args *a) {
    int64_t      n = tensor_count(a->y);
    const float *x = F32(a->x);
    float       *y = F32(a->y);
    (void)c;
#pragma omp parallel for simd schedule(static) if (n > 4 * SMALL_LOOP)
    for (int64_t i = 0; i < n; i++) y[i] += x[i];
}

void zero_fwd_cpu(ctx *c, const xy_args *a) {
    (void)c;
    memset(a->y->data, 0, tensor_bytes(a->y));
}

void copy_fwd_cpu(ctx *c, const xy_args *a) {
    if (a->x->dt != a->y->dt) {
        copy_fwd_ref(c, a);
        return;
    }
    memmove(a->y->data, a->x->data, tensor_bytes(a->x));
}

void split_cols_fwd_cpu(ctx *c, const split_cols_args *a) {
    int64_t N = a->x->dim[0], C = a->x->dim[1];
    (void)c;
#pragma omp parallel for schedule(static) if (N * C > SMALL_LOOP)
    for (int64_t n = 0; n < N; n++) {
        const float *x = F32(a->x) + n * C;
        for (int p = 0; p < a->n_parts; p++) {
            int64_t w = a->part[p]->dim[1];
            memcpy(F32(a->part[p]) + n * w, x, (size_t)w * sizeof *x);
            x += w;
        }
    }
}

void merge_cols_fwd_cpu(ctx *c, const merge_cols_args *a) {
    int64_t N = a->x->dim[0], C = a->x->dim[1];
    (void)c;
#pragma omp parallel for schedule(static) if (N * C > SMALL_LOOP)
    for (int64_t n = 0; n < N; n++) {
        float *x = F32(a->x) + n * C;
        for (int p = 0; p < a->n_parts; p++) {
            int64_t w = a->part[p]->dim[1];
            memcpy(x, F32(a->part[p]) + n * w, (size_t)w * sizeof *x);
            x += w;
        }
    }
}

enum { APE_MAX_RANGE = 2048 };

/* Coordinates are small integers: one table of sines and cosines per distinct value, made in double, serves all rows
 * and the three axes. A wide range (or few rows) goes to the reference. */
void embed_ape_fwd_cpu(ctx *c, const embed_ape_args *a) {
    int64_t        N = a->x->dim[0], C = a->x->dim[1], F = C / 6;
    const int32_t *coord = I32(a->coord);
    int64_t        min = N ? coord[0] : 0, max = min;
    for (int64_t i = 0; i < 3 * N; i++) {
        if (coord[i] < min) min = coord[i];
        if (coord[i] > max) max = coord[i];
    }
    int64_t range = max - min + 1;
    if (F == 0 || range > APE_MAX_RANGE || range > 3 * N) {
        embed_ape_fwd_ref(c, a);
        return;
    }
    float *table = arena_alloc(&c->scratch, (size_t)(range * 2 * F) * sizeof *table);
#pragma omp parallel for schedule(static) if (range * F > 1024)
    for (int64_t v = 0; v < range; v++)
        for (int64_t j = 0; j < F; j++) {
            double angle = (double)(min + v) * a->factor * pow(10000, -(double)j / (double)F);
            table[v * 2 * F + j] = (float)sin(angle);
            table[v * 2 * F + F + j] = (float)cos(angle);
        }
#pragma omp parallel for schedule(static) if (N * C > SMALL_LOOP)
    for (int64_t n = 0; n < N; n++) {
        const float *x = F32(a->x) + n * C;
        float       *y = F32(a->y) + n * C;
        for (int axis = 0; axis < 3; axis++) {
            const float *add = table + (coord[n * 3 + axis] - min) * 2 * F;
            for (int64_t j = 0; j < 2 * F; j++) y[axis * 2 * F + j] = x[axis * 2 * F + j] + add[j];
        }
        for (int64_t i = 6 * F; i < C; i++) y[i] = x[i];
    }
}

void add_table_fwd_cpu(ctx *c, const add_table_args *a) {
    int64_t N = a->x->dim[0], C = a->x->dim[1];
    (void)c;
#pragma omp parallel for schedule(static) if (N * C > SMALL_LOOP)
    for (int64_t n = 0; n < N; n++) {
        const float *x = F32(a->x) + n * C, *row = F32(a->table) + (int64_t)I32(a->index)[n] * C;
        float       *y = F32(a->y) + n * C;
        for (int64_t i = 0; i < C; i++) y[i] = x[i] + row[i];
    }
}

void add_table_bwd_cpu(ctx *c, const add_table_args *a) {
    int64_t        N = a->dy->dim[0], K = a->dtable->dim[0], C = a->dy->dim[1];
    const int32_t *first = I32(a->first), *order = I32(a->order);
    int64_t        threads = omp_get_max_threads();
    double        *room = arena_alloc(&c->scratch, (size_t)(threads * C) * sizeof *room);
#pragma omp parallel for schedule(static) if (N * C > SMALL_LOOP)
    for (int64_t k = 0; k < K; k++) {
        float  *row = F32(a->dtable) + k * C;
        double *sum = room + omp_get_thread_num() * C;
        for (int64_t i = 0; i < C; i++) sum[i] = row[i];
        for (int32_t j = first[k]; j < first[k + 1]; j++) {
            const float *dy = F32(a->dy) + order[j] * C;
            for (int64_t i = 0; i < C; i++) sum[i] += dy[i];
        }
        for (int64_t i = 0; i < C; i++) row[i] = (float)sum[i];
    }
}

void gather_rows_fwd_cpu(ctx *c, const gather_rows_args *a) {
    int64_t N = a->y->dim[0], C = a->y->dim[1];
    (void)c;
#pragma omp parallel for schedule(static) if (N * C > SMALL_LOOP)
    for (int64_t n = 0; n < N; n++)
        memcpy(F32(a->y) + n * C, F32(a->x) + (int64_t)I32(a->index)[n] * C, (size_t)C * sizeof(float));
}

void gather_rows_bwd_cpu(ctx *c, const gather_rows_args *a) {
    int64_t N = a->dy->dim[0], C = a->dy->dim[1];
    (void)c;
    memset(a->dx->data, 0, tensor_bytes(a->dx));
#pragma omp parallel for schedule(static) if (N * C > SMALL_LOOP)
    for (int64_t n = 0; n < N; n++)
        memcpy(F32(a->dx) + (int64_t)I32(a->index)[n] * C, F32(a->dy) + n * C, (size_t)C * sizeof(float));
}
