/* Calls of ops with tensors in host memory, made and timed on the GPU. */
#pragma once
#include "app/bench_peak.h"
#include "ops/roles.h"

typedef struct {
    char        name[128]; /* of the card */
    bench_peaks peak;
} bench_gpu;

/* Microseconds by events, of single calls. warm: call after call; cold: the caches were overwritten before each. */
typedef struct {
    double warm, warm_p95, cold, cold_p95;
    double bytes; /* op_list_bytes on the GPU */
    int    runs;
} bench_times;

/* GPU 0 and the CUDA back end with activations of `act`; measures its peaks. False: there is none, *why says it. */
bool bench_gpu_open(bench_gpu *g, dtype act, const char **why);
void bench_gpu_close(void);

/* A back end over host memory: each call goes to the GPU and its results come back. For setups and checks. */
const backend *bench_gpu_backend(void);
/* The activations among the inputs of a call, rounded to the GPU's dtype where they lie: then the reference has the
 * same inputs. */
void           bench_gpu_round(op_id op, const void *args);
/* Uploads the inputs, then times. Accumulated outputs start at zero. */
bench_times    bench_gpu_time(op_id op, const void *args);
