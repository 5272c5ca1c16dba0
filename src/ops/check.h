/* What the fronts of the ops check with: presence, dtype, device, dims and sample ranges, once for all back ends. A
 * violation is a bug and ends fatally with the op, the argument's name and both shapes. Every function takes the op's
 * name (__func__ through the macros) first. */
#pragma once
#include "core/ctx.h"
#include "core/device.h"
#include "kernels/backend.h"
#include "ops/op_profile.h"

enum { ANY = -1 }; /* a dim that may have any size */

/* Which dtypes: decisions/0004. A is f32 or bf16, one for all activations of a call; it comes from the main tensor.
 * The device of a tensor is not asked in a dry run: the tables of a batch may not be there yet. */

void    op_want(const ctx *c, const char *op, const char *name, const tensor *t, dtype dt, const int64_t *dims,
                int n_dims);
/* first (B+1) i32, 0 .. n_rows, ascending; its values are read when they are in CPU memory and the run is not dry.
 * Returns B. */
int64_t op_want_first(const ctx *c, const char *op, const char *name, const tensor *first, int64_t n_rows);
/* index (n) i32 with values in [0, limit), read as above. */
void    op_want_index(const ctx *c, const char *op, const char *name, const tensor *index, int64_t n, int64_t limit);
/* No value of index occurs twice (read as above, after op_want_index); takes `limit` bytes of scratch for a moment. */
void    op_want_once(ctx *c, const char *op, const char *name, const tensor *index, int64_t limit);
/* Dims and dtype of `like`, whatever they are. */
void    op_want_same(const ctx *c, const char *op, const char *name, const tensor *t, const tensor *like);
/* Dims of `like`, f32: the gradient of a matrix that may be bf16. */
void    op_want_f32_same(const ctx *c, const char *op, const char *name, const tensor *t, const tensor *like);
/* f32 or bf16 on any device, whatever dims. */
void    op_want_float(const ctx *c, const char *op, const char *name, const tensor *t);
/* The dtype of an op's main tensor, which its other activations must have: f32, or bf16 where the back end can. */
dtype   op_act(const ctx *c, const char *op, const char *name, const tensor *t);
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
#define WANT_F32_SAME(t, like) op_want_f32_same(c, __func__, #t, t, like)
#define WANT_FLOAT(t) op_want_float(c, __func__, #t, t)
#define ACT_OF(t) op_act(c, __func__, #t, t)
#define WANT_NO_ALIAS(a, b) op_no_alias(__func__, #a, a, b)
#define DIM(t, axis) op_dim(__func__, #t, t, axis)
#define WANT_BOTH_OR_NEITHER(s, t) CHECK(tensor_given(s) == tensor_given(t), "%s and %s: both or neither", #s, #t)

/* The end of every front: the entry must exist; a dry run stops here; scratch goes back to where it was. */
#define OP_CALL(entry)                                                                                                 \
    do {                                                                                                               \
        CHECK(c->be && c->be->entry, "back end %s has no %s", c->be ? c->be->name : "(none)", #entry);                 \
        if (c->dry) return;                                                                                            \
        size_t mark = arena_mark(&c->scratch);                                                                         \
        bool   named = c->be->dev == DEV_CUDA; /* for profilers */                                                     \
        if (named) device_range_push(#entry);                                                                          \
        if (c->profile) op_profile_enter(c->profile, OP_##entry, a, c->be->dev);                                       \
        c->be->entry(c, a);                                                                                            \
        if (c->profile) op_profile_leave(c->profile);                                                                  \
        if (named) device_range_pop();                                                                                 \
        arena_reset(&c->scratch, mark);                                                                                \
    } while (0)
