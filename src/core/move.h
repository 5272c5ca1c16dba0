/* Tensors that follow their memory: a block is copied to another place as it is, and what points into it moves over.
 * tensor_move is a tensor_visit, so that one call moves all tensors of a batch. */
#pragma once
#include "core/tensor.h"

typedef struct {
    const char *from;
    size_t      bytes;
    char       *to;
    device_kind dev; /* of `to` */
} memory_move;

static inline void tensor_move(void *user, tensor *t) {
    const memory_move *m = user;
    size_t             at = (size_t)((const char *)t->data - m->from), bytes = tensor_bytes(t);
    CHECK((const char *)t->data >= m->from && at + bytes <= m->bytes, "a tensor of %zu bytes at %zu of a block of %zu",
          bytes, at, m->bytes);
    t->data = m->to + at;
    t->dev = m->dev;
}
