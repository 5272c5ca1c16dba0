/* A tensor is a value: pointer, up to four dims, dtype, device. Contiguous rows, no strides, never an owner.
 * A dims list is written (N,H,D): the last one is fastest. */
#pragma once
#include "core/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { DT_F32, DT_F64, DT_BF16, DT_F16, DT_I32, DT_I64, DT_U64, DT_U16, DT_U8, DT_COUNT } dtype;
typedef enum { DEV_CPU, DEV_CUDA } device_kind;

#define TENSOR_MAX_DIMS 4

typedef struct {
    void       *data; /* NULL: no tensor (an optional argument that is not given) */
    int64_t     dim[TENSOR_MAX_DIMS];
    int         n_dims;
    dtype       dt;
    device_kind dev;
} tensor;

size_t      dtype_size(dtype dt);
const char *dtype_name(dtype dt);

/* Product of the dims; 1 for a scalar (n_dims 0). */
static inline int64_t tensor_count(const tensor *t) {
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++) n *= t->dim[i];
    return n;
}
size_t             tensor_bytes(const tensor *t);
static inline bool tensor_given(const tensor *t) {
    return t && t->n_dims >= 0 && t->data != NULL;
}

/* Dims as two arguments: tensor_wrap(p, DT_F32, DIMS(n, c)). C only (compound literal). */
#define DIMS(...) (const int64_t[]){__VA_ARGS__}, (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t))

/* Wraps memory on the CPU. */
tensor tensor_wrap(void *data, dtype dt, const int64_t *dims, int n_dims);
/* Same elements, other dims; the count must agree. */
tensor tensor_view(const tensor *t, const int64_t *dims, int n_dims);
/* Rows [row0, row0 + n_rows) of the first dim. */
tensor tensor_rows(const tensor *t, int64_t row0, int64_t n_rows);
/* What walks over the tensors of a batch (to upload them, say). It may change them. */
typedef void (*tensor_visit)(void *user, tensor *t);
/* Visits t when it is given. */
static inline void tensor_visit_given(tensor *t, tensor_visit f, void *user) {
    if (t->data) f(user, t);
}
/* "f32 (10,64) cpu" into a static-size buffer of the caller; for messages. */
const char *tensor_describe(const tensor *t, char out[96]);

#define F32(t) ((float *)(t)->data)
#define F64(t) ((double *)(t)->data)
#define I32(t) ((int32_t *)(t)->data)
#define U8(t) ((uint8_t *)(t)->data)
#define U16(t) ((uint16_t *)(t)->data)
#define BF16(t) ((uint16_t *)(t)->data) /* bits: core/half.h */
#define U64(t) ((uint64_t *)(t)->data)

#ifdef __cplusplus
}
#endif
