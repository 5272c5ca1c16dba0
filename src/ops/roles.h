/* What each op does to the tensors of its arguments: which it reads, overwrites or adds to, and which of them have the
 * activations' dtype (docs/decisions/0004-precision-on-the-gpu.md). For whoever moves a whole call from one memory to
 * another: tests and benchmarks of a GPU against the reference on the host. */
#pragma once
#include "kernels/backend.h"

typedef enum { ROLE_IN, ROLE_OUT, ROLE_ACC } op_role; /* read; overwritten; added to or updated in place */

typedef enum {
    AS_ACT,  /* ctx.act */
    AS_WIDE, /* ctx.act, or f32 together: y, pre, dy of linear */
    AS_FIXED /* the dtype that the header names */
} op_precision;

typedef struct {
    tensor       *t;  /* what the arguments point to after op_list: a copy of *of */
    const tensor *of; /* the caller's; NULL: a table of the grid */
    const char   *name;
    op_role       role;
    op_precision  as;
    int64_t       stride; /* elements between rows of the first dim; 0: contiguous */
    bool          unread; /* an input that may be there, but whose values do not matter */
} op_tensor;

enum { OP_TENSORS = 24, OP_ARGS_BYTES = 256 };

typedef struct {
    op_tensor at[OP_TENSORS];
    int       n;
    tensor    copy[OP_TENSORS];
    grid      g; /* copy of conv3's grid, when there is one */
} op_tensors;

typedef enum {
#define X(name, args) OP_##name,
    BACKEND_OPS(X)
#undef X
        OP_COUNT
} op_id;

typedef void (*op_front)(ctx *, const void *);

typedef struct {
    const char *name;
    op_front    front;
    size_t      args_bytes; /* at most OP_ARGS_BYTES */
} op_info;

extern const op_info op_table[OP_COUNT];

op_id op_of_front(op_front front); /* fatal when it is none */

/* Lists the given tensors of a call and makes `args`, a copy of the caller's argument struct, point to the list's own
 * copies: changing *l->at[i].t changes what a call with `args` gets. The list stays where it is while args are used.
 * Fields of the backward are not listed for a forward call. */
void op_list(op_id op, void *args, op_tensors *l);

/* Elements from the first to the last of t, the gaps between rows included. */
int64_t op_tensor_span(const op_tensor *t);
/* Bytes that a call must move at least: what is read, written, or both, once; the tensors as they are in the list. */
double  op_list_bytes(const op_tensors *l);
/* The dtype of an f32 tensor when activations have `act`; wide: AS_WIDE is f32. Another dtype than f32 stays. */
dtype   op_tensor_dtype(const op_tensor *t, dtype act, bool wide);
