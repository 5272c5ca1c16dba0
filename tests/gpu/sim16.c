#include "gpu/sim16.h"

#include <string.h>

#include "core/half.h"
#include "ops/ref16.h"
#include "ops/roles.h"

static const backend *inner;

static float round16(float x) {
    return bf16_to_f32(f32_to_bf16(x));
}

static bool is_rounded(const op_tensor *e) {
    return e->t->dt == DT_F32 && op_tensor_dtype(e, DT_BF16, false) == DT_BF16;
}

/* Copies rows of e from `src` to `dst`, rounded. Both have the spans of the tensor. */
static void round_rows(const op_tensor *e, const float *src, float *dst) {
    int64_t n = tensor_count(e->t), rows = e->stride && n ? e->t->dim[0] : 1;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t k = 0; k < n / rows; k++) dst[r * e->stride + k] = round16(src[r * e->stride + k]);
}

typedef void (*any_entry)(ctx *, const void *);

/* Rounded copies of the inputs, the op, its outputs rounded where they lie. */
static void call(ctx *c, op_id op, void *args, any_entry entry) {
    op_tensors l;
    op_list(op, args, &l);
    for (int i = 0; i < l.n; i++) {
        op_tensor *e = &l.at[i];
        if (e->role != ROLE_IN || !is_rounded(e)) continue;
        float *copy = arena_alloc(&c->scratch, (size_t)op_tensor_span(e) * sizeof *copy);
        round_rows(e, F32(e->t), copy);
        e->t->data = copy;
    }
    entry(c, args);
    for (int i = 0; i < l.n; i++)
        if (l.at[i].role != ROLE_IN && is_rounded(&l.at[i])) round_rows(&l.at[i], F32(l.at[i].t), F32(l.at[i].t));
}

#define X(name, type)                                                                                                  \
    static void name##_inner(ctx *c, const void *a) {                                                                  \
        inner->name(c, a);                                                                                             \
    }                                                                                                                  \
    static void name##_sim16(ctx *c, const type *a) {                                                                  \
        type args = *a;                                                                                                \
        call(c, OP_##name, &args, name##_inner);                                                                       \
    }
BACKEND_OPS(X)
#undef X

const backend *sim16_backend(void) {
    static const backend be = {.name = "sim bf16",
                               .dev = DEV_CPU,
#define X(name, type) .name = name##_sim16,
                               BACKEND_OPS(X)
#undef X
    };
    inner = ref16_table(&backend_cpu);
    return &be;
}
