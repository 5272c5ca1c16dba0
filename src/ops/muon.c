#include "ops/muon.h"
#include "ops/check.h"

void muon_fwd(ctx *c, const muon_args *a) {
    WANT_F32(a->w, ANY, ANY);
    WANT_SAME(a->m, a->w);
    WANT_SAME(a->grad, a->w);
    if (tensor_given(a->ema)) WANT_SAME(a->ema, a->w);
    if (tensor_given(a->w16)) WANT(a->w16, DT_BF16, a->w->dim[0], a->w->dim[1]);
    OP_CALL(muon_fwd);
}
