/* Linear layers whose x is given before its activation (in_pre is x, ops/linear.h). */
#pragma once
#include "ops/linear.h"

static inline bool linear_x_is_pre(const linear_args *a) {
    return a->in_act != ACT_NONE && tensor_given(a->in_pre) && a->in_pre->data == a->x->data;
}
