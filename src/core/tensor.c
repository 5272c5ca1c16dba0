#include "core/tensor.h"

#include <stdio.h>

size_t dtype_size(dtype dt) {
    static const size_t size[DT_COUNT] = {4, 8, 2, 2, 4, 8, 8, 2, 1};
    CHECK(dt >= 0 && dt < DT_COUNT, "dtype %d", (int)dt);
    return size[dt];
}

const char *dtype_name(dtype dt) {
    static const char *name[DT_COUNT] = {"f32", "f64", "bf16", "f16", "i32", "i64", "u64", "u16", "u8"};
    return dt >= 0 && dt < DT_COUNT ? name[dt] : "?";
}

size_t tensor_bytes(const tensor *t) {
    return (size_t)tensor_count(t) * dtype_size(t->dt);
}

tensor tensor_wrap(void *data, dtype dt, const int64_t *dims, int n_dims) {
    tensor t = {.data = data, .dt = dt, .n_dims = n_dims};
    CHECK(n_dims >= 0 && n_dims <= TENSOR_MAX_DIMS, "%d dims", n_dims);
    for (int i = 0; i < TENSOR_MAX_DIMS; i++) {
        t.dim[i] = i < n_dims ? dims[i] : 1;
        CHECK(t.dim[i] >= 0, "dim %d is %lld", i, (long long)t.dim[i]);
    }
    return t;
}

tensor tensor_view(const tensor *t, const int64_t *dims, int n_dims) {
    tensor v = tensor_wrap(t->data, t->dt, dims, n_dims);
    v.dev = t->dev;
    CHECK(tensor_count(&v) == tensor_count(t), "view of %lld elements as %lld", (long long)tensor_count(t),
          (long long)tensor_count(&v));
    return v;
}

tensor tensor_rows(const tensor *t, int64_t row0, int64_t n_rows) {
    CHECK(t->n_dims >= 1 && row0 >= 0 && n_rows >= 0 && row0 + n_rows <= t->dim[0], "rows %lld+%lld of %lld",
          (long long)row0, (long long)n_rows, (long long)t->dim[0]);
    tensor  v = *t;
    int64_t per_row = 1;
    for (int i = 1; i < t->n_dims; i++) per_row *= t->dim[i];
    if (v.data) v.data = (char *)t->data + (size_t)(row0 * per_row) * dtype_size(t->dt);
    v.dim[0] = n_rows;
    return v;
}

const char *tensor_describe(const tensor *t, char out[96]) {
    int n = snprintf(out, 96, "%s (", dtype_name(t->dt));
    for (int i = 0; i < t->n_dims; i++)
        n += snprintf(out + n, (size_t)(96 - n), "%s%lld", i ? "," : "", (long long)t->dim[i]);
    snprintf(out + n, (size_t)(96 - n), ")%s%s", t->dev == DEV_CUDA ? " cuda" : "", t->data ? "" : " null");
    return out;
}
