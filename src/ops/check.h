/* What the fronts of the ops check with: presence, dtype, device, dims and sample ranges, once for all back ends. A
 * violation is a bug and ends fatally with the op, the argument's name and both shapes. Every function takes the op's
 * name (__func__ through the macros) first. */
#pragma once
#include "core/ctx.h"
#include "kernels/backend.h"

enum { ANY = -1 }; /* a dim that may have any size */

void    op_want(const ctx *c, const char *op, const char *name, const tensor *t, dtype dt, const int64_t *dims,
                int n_dims);
/* first (B+1) i32, 0 .. n_rows, ascending; its values are read when they are in CPU memory and the run is not dry.
 * Returns B. */
int64_t op_want_first(const ctx *c, const char *op, const char *name, const tensor *first, int64_t n_rows);
/* index (n) i32 with values in [0, limit), read as above. */
void    op_want_index(const ctx *c, const char *op, const char *name, const tensor *index, int64_t n, int64_t limit);
/* Same dims, f32, whatever they are. */
void    op_want_same(const ctx *c, const char *op, const char *name, const tensor *t, const tensor *like);
int64_t op_dim(const char *op, const char *name, const tensor *t, int axis);
void    op_no_alias(const char *op, const char *name, const tensor *a, const tensor *b);

#define WANT(t, dt, ...) op_want(c, __func__, #t, t, dt, DIMS(__VA_ARGS__))
#define WANT_F32(t, ...) op_want(c, __func__, #t, t, DT_F32, DIMS(__VA_ARGS__))
#define WANT_F32_OPT(t, ...)                                                                                           \
    do {                                                                                                               \
        if (tensor_given(t)) WANT_F32(t, __VA_ARGS__);                                                                 \
    } while (0)
#define WANT_FIRST(t, n_rows) op_want_first(c, __func__, #t, t, n_rows)
#define WANT_INDEX(t, n, limit) op_want_index(c, __func__, #t, t, n, limit)
#define WANT_SAME(t, like) op_want_same(c, __func__, #t, t, like)
#define WANT_NO_ALIAS(a, b) op_no_alias(__func__, #a, a, b)
#define DIM(t, axis) op_dim(__func__, #t, t, axis)
#define WANT_BOTH_OR_NEITHER(s, t) CHECK(tensor_given(s) == tensor_given(t), "%s and %s: both or neither", #s, #t)

/* The end of every front: the entry must exist; a dry run stops here; scratch goes back to where it was. */
#define OP_CALL(entry)                                                                                                 \
    do {                                                                                                               \
        CHECK(c->be && c->be->entry, "back end %s has no %s", c->be ? c->be->name : "(none)", #entry);                 \
        if (c->dry) return;                                                                                            \
        size_t mark = arena_mark(&c->scratch);                                                                         \
        c->be->entry(c, a);                                                                                            \
        arena_reset(&c->scratch, mark);                                                                                \
    } while (0)
