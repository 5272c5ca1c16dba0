/* Muon, one matrix: momentum, then a step whose singular values are all about one (K. Jordan et al., "Muon: an
 * optimizer for hidden layers", 2024; its size matched to AdamW's as in "Muon is scalable for LLM training", arXiv
 * 2502.16982). g' = grad * grad_scale;  m = momentum*m + g';  u = g' + momentum*m;  X = u/|u| (Frobenius), 0 when u is
 * 0; five times  X = a X + b (X X^T) X + c (X X^T)^2 X,  (a, b, c) = (3.4445, -4.7750, 2.0315); w = w (1 -
 * lr*weight_decay) - lr * 0.2 * sqrt(max(R, C)) * X;  ema = ema_decay ema + (1-ema_decay) w (ema optional). w, m, ema,
 * grad (R,C) f32: a linear layer's matrix, or a kernel with its taps and inputs as rows. w16 (R,C) bf16, optional: the
 * new w rounded to nearest even. */
#pragma once
#include "core/ctx.h"

typedef struct {
    tensor       *w, *m, *ema, *w16;
    const tensor *grad;
    double        grad_scale, lr, momentum, weight_decay, ema_decay;
} muon_args;

static const double MUON_A = 3.4445, MUON_B = -4.7750, MUON_C = 2.0315, MUON_SIZE = 0.2;
enum { MUON_ROUNDS = 5 };

void muon_fwd(ctx *c, const muon_args *a);
