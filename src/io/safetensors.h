/* safetensors files: u64 header length, a JSON header, the bytes. The reader trusts nothing: header length,
 * JSON, dtypes, shapes and offsets are checked, tensors may neither overlap nor leave holes. */
#pragma once
#include "core/base.h"
#include "io/atomic_file.h"

enum { SAFETENSORS_RANK = 8 };

/* Those that can be read as float come first. */
typedef enum {
    SAFE_F32,
    SAFE_F16,
    SAFE_BF16,
    SAFE_F64,
    SAFE_I64,
    SAFE_I32,
    SAFE_I16,
    SAFE_I8,
    SAFE_U8,
    SAFE_BOOL,
    SAFE_DTYPES
} safe_dtype;

typedef struct {
    char      *name;
    safe_dtype dtype;
    int        rank;
    int64_t    shape[SAFETENSORS_RANK], count;
    int64_t    first, bytes; /* within the data part */
} safe_tensor;

typedef struct {
    char         path[PATH_CAP];
    FILE        *file;
    int64_t      data_first; /* file offset of the data part */
    int          n;
    safe_tensor *tensor; /* by name */
    int          n_meta;
    char       **meta_key, **meta_value; /* __metadata__ */
} safetensors;

bool               safetensors_open(safetensors *s, const char *path, status *st);
void               safetensors_close(safetensors *s);
const safe_tensor *safetensors_find(const safetensors *s, const char *name); /* NULL when missing */
/* F32, F16 and BF16 converted to float; another dtype is ST_DATA. out holds count elements. */
bool               safetensors_read(const safetensors *s, const safe_tensor *t, float *out, status *st);

typedef struct {
    const char  *name;
    safe_dtype   dtype; /* stored as F32, F16 or BF16 */
    int          rank;
    int64_t      shape[SAFETENSORS_RANK];
    const float *data;
} safe_source;

/* meta: n_meta pairs key, value; NULL when 0. Names must differ. Written to a temporary name and renamed. */
bool safetensors_write(const char *path, const safe_source *tensors, int n, const char *const (*meta)[2], int n_meta,
                       status *st);
