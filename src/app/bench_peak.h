/* What a machine does at best, measured now: the numbers that others are shares of. */
#pragma once
#include "core/ctx.h"

typedef struct {
    double gemm, copy; /* FLOP/s of a large product of random matrices; bytes/s of a copy, read plus written */
} bench_peaks;

/* The product is n^3, through the op that the networks use, in the ctx's dtype of activations; the copy is of
 * copy_bytes (0: not measured). Takes memory on `dev`, and scratch memory if the ctx has none, and gives it back. */
bench_peaks bench_peak(ctx *c, device_kind dev, int64_t n, size_t copy_bytes);
