/* The tape: a model states its forward pass only, as calls of the functions in nn/layers.h; the tape records them and
 * runs their backwards in reverse. No graph, no strings, no inferred shapes.
 *
 * A `var` is a value (N,C) and, in backward, its gradient, of the same dtype. Gradients of vars are written by the
 * first consumer's backward and added to by later ones; gradients of parameters accumulate in the gradient slab.
 * A gradient that flows on unchanged (residuals; of a gated sum to its branches, which have the gates besides) is lent:
 * nobody writes a lent one, who adds to it writes the sum elsewhere.
 *
 * A segment (a transformer block, a conv block) is the unit of memory: its inner gradients live only during its
 * backward, and the memory of its output's gradient serves the next segment; with recompute its inner activations live
 * only during its forward and are made again in backward; without recording (sampling, evaluation) its inner
 * activations are dropped as soon as its output is there. When its backward is done, its parameters' gradients of this
 * micro-batch are complete and `on_layer_done` fires: reduction may start. It fires for every recorded segment, in
 * reverse order, also for one that no gradient reached, so that all ranks see one sequence.
 *
 * Memory: values and gradients come from the `step` arena (device memory), records from `book` (host memory). Both are
 * reset by tape_begin. With ctx.dry and a counting step arena the same code only counts. */
#pragma once
#include "core/ctx.h"
#include "nn/params.h"

typedef struct var {
    tensor v, g; /* (N,C) each; g: the gradient, once g_live */
    tensor room; /* memory for the gradient, data NULL until taken; g is there or, lent, in another var's memory */
    bool   needs_grad;
    bool   g_live;
} var;

typedef struct tape tape;

/* One recorded call: a struct that starts with this, holding the op's arguments. */
typedef struct tape_entry {
    void (*bwd)(tape *t, struct tape_entry *e);
    struct tape_entry *prev;
    var               *out; /* NULL: a loss; its bwd always runs. Otherwise skipped when out has no gradient */
} tape_entry;

struct tape {
    ctx   *c;
    arena *step, *book;
    bool   recording;       /* training or golden tests; false: forward only */
    int    recompute_first; /* segments 0 .. recompute_first-1 are recomputed in backward; one alone saves nothing */
    int    n_segments;      /* counted in the forward pass */
    tape_entry *last;
    tensor      spare; /* memory of a gradient that nobody needs any more, for that of the next segment's input */
    void (*on_layer_done)(void *user, int layer);
    void *user;
};

/* Starts a micro-batch: resets step and book. */
void tape_begin(tape *t);

/* A value from outside (input, constant), f32 or bf16. With needs_grad its gradient is there after tape_backward. */
var    *tape_leaf(tape *t, tensor v, bool needs_grad);
/* An uninitialised value of n rows, c columns from the step arena, in the dtype of activations (ctx.act). */
var    *tape_new(tape *t, int64_t n, int64_t c, bool needs_grad);
/* The same in another dtype (f32: what comes from the batch, what goes into a loss). */
var    *tape_new_as(tape *t, int64_t n, int64_t c, dtype dt, bool needs_grad);
/* A tensor value that lives as long as the records. */
tensor *tape_keep(tape *t, tensor v);
/* Records an entry of `bytes` (copied from e); no-op when not recording. */
void    tape_record(tape *t, const void *entry, size_t bytes);

/* Sets the gradient of `x` (same shape; g may have another float dtype), before tape_backward. */
void tape_seed(tape *t, var *x, const tensor *g);
void tape_backward(tape *t);

/* fn builds the segment's forward from in[] and returns its output. args (copied) holds the layer's parameters and the
 * batch tables by pointer. `layer` is the id its parameters were added with. */
typedef var *(*segment_fn)(tape *t, const void *args, var *const *in);
var *tape_segment(tape *t, int layer, segment_fn fn, const void *args, size_t args_bytes, var *const *in, int n_in);

/* ---- for layer functions -------------------------------------------------------------------------------------- */

enum { GRAD_MAX = 8 };

/* The places where one backward call writes the gradients of its inputs. */
typedef struct {
    var          *x[GRAD_MAX];
    tensor        slot[GRAD_MAX];
    bool          temp[GRAD_MAX]; /* slot is added to x->g at the end */
    const tensor *add[GRAD_MAX];  /* the op writes the sum of this and its own to slot; NULL: its own alone */
    int           n;
    size_t        mark;
} grad_slots;

/* Opens slots for n inputs; slot i is overwritten by the op's backward. A var may appear twice. */
void                  grad_open(tape *t, grad_slots *s, int n, var *const *x);
/* The same for an op that can add: for inputs with a bit in `adds`, add[i] is the gradient so far, if any. It is slot i
 * itself, or may be another tensor if the bit is in `from` too. */
void                  grad_open_adding(tape *t, grad_slots *s, int n, var *const *x, unsigned adds, unsigned from);
/* Slot i as an op argument: NULL when the input needs no gradient. */
static inline tensor *grad_slot(grad_slots *s, int i) {
    return s->slot[i].data ? &s->slot[i] : NULL;
}
/* Slot i for an op that insists on it: memory that is dropped when the input needs no gradient. */
tensor *grad_need(tape *t, grad_slots *s, int i);
void    grad_close(tape *t, grad_slots *s);
/* In y's backward: its gradient flows unchanged into x (residual, added constant), is lent to it or added. */
void    grad_pass(tape *t, var *y, var *x);
