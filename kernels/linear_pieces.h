/* A linear layer whose x is given before its activation, by kernels that want it after: x is made in scratch, some rows
 * at a time, and the back end's own function runs on these rows. Compiles as C++ too. */
#pragma once
#include "core/arena.h"
#include "ops/linear_pre.h"

/* Rows from r on, or nothing where nothing is given. */
static inline tensor *linear_piece(const tensor *t, int64_t r, int64_t rows, tensor *room) {
    if (!tensor_given(t)) return NULL;
    *room = tensor_rows(t, r, rows);
    return room;
}

static inline void linear_by_pieces(ctx *c, const linear_args *a, void (*act)(ctx *c, const act_args *a),
                                    void (*run)(ctx *c, const linear_args *a)) {
    const int64_t bytes = (int64_t)8 << 20; /* of a piece */
    int64_t       N = a->x->dim[0], I = a->x->dim[1], step = bytes / (I * (int64_t)dtype_size(a->x->dt)) + 1;
    if (step > N) step = N;
    int64_t dims[2] = {step, I};
    tensor  made = arena_tensor(&c->scratch, a->x->dt, dims, 2);
    for (int64_t r = 0; r < N; r += step) {
        int64_t     rows = N - r < step ? N - r : step;
        size_t      mark = arena_mark(&c->scratch);
        tensor      x = tensor_rows(&made, 0, rows), in_pre, y, pre, dy, dx;
        linear_args b = *a;
        act_args    f;
        b.x = &x;
        b.in_pre = linear_piece(a->x, r, rows, &in_pre);
        b.y = linear_piece(a->y, r, rows, &y);
        b.pre = linear_piece(a->pre, r, rows, &pre);
        b.dy = linear_piece(a->dy, r, rows, &dy);
        b.dx = linear_piece(a->dx, r, rows, &dx);
        f.act = a->in_act;
        f.x = b.in_pre;
        f.y = &x;
        f.dy = NULL;
        f.dx = NULL;
        act(c, &f);
        run(c, &b);
        arena_reset(&c->scratch, mark);
    }
}
