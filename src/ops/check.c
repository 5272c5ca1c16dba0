#include "ops/check.h"

#include <stdio.h>
#include <string.h>

/* "a->x" of the macro is "x" to the reader. */
static const char *bare(const char *name) {
    const char *arrow = strstr(name, "->");
    return arrow ? arrow + 2 : name + (*name == '&');
}

static void present(const char *op, const char *name, const tensor *t) {
    CHECK(tensor_given(t), "%s: %s is not given", op, bare(name));
}

static bool readable(const ctx *c, const tensor *t) {
    return t->dev == DEV_CPU && !c->dry;
}

static void on_device(const ctx *c, const char *op, const char *name, const tensor *t) {
    CHECK(c->be, "%s: no back end", op);
    CHECK(t->dev == c->be->dev || c->dry, "%s: %s is on the %s, the back end %s is not", op, bare(name),
          t->dev == DEV_CPU ? "CPU" : "GPU", c->be->name);
}

int64_t op_dim(const char *op, const char *name, const tensor *t, int axis) {
    present(op, name, t);
    CHECK(axis < t->n_dims, "%s: %s has %d dims, dim %d is wanted", op, bare(name), t->n_dims, axis);
    return t->dim[axis];
}

void op_want(const ctx *c, const char *op, const char *name, const tensor *t, dtype dt, const int64_t *dims,
             int n_dims) {
    present(op, name, t);
    on_device(c, op, name, t);
    bool fits = t->dt == dt && t->n_dims == n_dims;
    for (int i = 0; i < n_dims && fits; i++) fits = dims[i] == ANY || t->dim[i] == dims[i];
    if (fits) return;
    char has[96], want[96];
    int  n = snprintf(want, sizeof want, "%s (", dtype_name(dt));
    for (int i = 0; i < n_dims; i++) {
        if (dims[i] == ANY)
            n += snprintf(want + n, sizeof want - (size_t)n, "%s*", i ? "," : "");
        else
            n += snprintf(want + n, sizeof want - (size_t)n, "%s%lld", i ? "," : "", (long long)dims[i]);
    }
    snprintf(want + n, sizeof want - (size_t)n, ")");
    FATAL("%s: %s is %s, wanted %s", op, bare(name), tensor_describe(t, has), want);
}

void op_want_same(const ctx *c, const char *op, const char *name, const tensor *t, const tensor *like) {
    present(op, name, like);
    op_want(c, op, name, t, like->dt, like->dim, like->n_dims);
}

void op_want_f32_same(const ctx *c, const char *op, const char *name, const tensor *t, const tensor *like) {
    present(op, name, like);
    op_want(c, op, name, t, DT_F32, like->dim, like->n_dims);
}

void op_want_float(const ctx *c, const char *op, const char *name, const tensor *t) {
    char text[96];
    present(op, name, t);
    on_device(c, op, name, t);
    CHECK(t->dt == DT_F32 || t->dt == DT_BF16, "%s: %s is %s, wanted f32 or bf16", op, bare(name),
          tensor_describe(t, text));
}

dtype op_act(const ctx *c, const char *op, const char *name, const tensor *t) {
    op_want_float(c, op, name, t);
    CHECK(t->dt == DT_F32 || c->be->dev != DEV_CPU, "%s: %s is %s, the back end %s computes in f32", op, bare(name),
          dtype_name(t->dt), c->be->name);
    return t->dt;
}

int64_t op_want_first(const ctx *c, const char *op, const char *name, const tensor *first, int64_t n_rows) {
    op_want(c, op, name, first, DT_I32, DIMS(ANY));
    int64_t n = first->dim[0] - 1;
    CHECK(n >= 0, "%s: %s is empty, wanted samples + 1 values", op, bare(name));
    if (!readable(c, first)) return n;
    const int32_t *f = I32(first);
    CHECK(f[0] == 0 && f[n] == n_rows, "%s: %s runs from %d to %d, wanted 0 to %lld", op, bare(name), (int)f[0],
          (int)f[n], (long long)n_rows);
    for (int64_t b = 0; b < n; b++)
        CHECK(f[b] <= f[b + 1], "%s: %s[%lld] is %d, the next is %d", op, bare(name), (long long)b, (int)f[b],
              (int)f[b + 1]);
    return n;
}

void op_want_index(const ctx *c, const char *op, const char *name, const tensor *index, int64_t n, int64_t limit) {
    op_want(c, op, name, index, DT_I32, DIMS(n));
    if (!readable(c, index)) return;
    for (int64_t i = 0; i < n; i++)
        CHECK(I32(index)[i] >= 0 && I32(index)[i] < limit, "%s: %s[%lld] is %d, wanted 0 to %lld", op, bare(name),
              (long long)i, (int)I32(index)[i], (long long)limit - 1);
}

void op_want_once(ctx *c, const char *op, const char *name, const tensor *index, int64_t limit) {
    if (!readable(c, index)) return;
    size_t mark = arena_mark(&c->scratch);
    char  *seen = memset(arena_alloc(&c->scratch, (size_t)limit), 0, (size_t)limit);
    for (int64_t i = 0, n = tensor_count(index); i < n; i++) {
        int32_t row = I32(index)[i];
        CHECK(!seen[row], "%s: %s names row %d twice", op, bare(name), row);
        seen[row] = 1;
    }
    arena_reset(&c->scratch, mark);
}

void op_no_alias(const char *op, const char *name, const tensor *a, const tensor *b) {
    CHECK(a->data != b->data || tensor_count(a) == 0, "%s: %s may not be the other tensor's memory", op, bare(name));
}
