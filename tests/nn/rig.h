/* Arenas, a ctx and a tape on one back end, for tests of layers and models. On a GPU step, weights and scratch are GPU
 * memory, and what a test has on the host goes there and comes back by the functions below; on the CPU they hand their
 * tensor through. */
#pragma once
#include "nn/tape.h"

typedef struct {
    ctx   c;
    arena step, book, host, weights, sent;
    tape  t;
    bool  bf16; /* activations are bf16, or behave so */
} rig;

/* Back end "ref", "cpu", "gpu f32", "gpu bf16" or "sim bf16" (gpu/sim16.h); fatal for another. Arenas of `mb` megabytes
 * each; on the CPU memory that is not touched costs nothing. */
void rig_open(rig *r, const char *backend_name, size_t mb);
void rig_close(rig *r);

/* The same tensor on the back end's device; host memory may change afterwards. */
tensor       rig_send(rig *r, tensor t);
/* A tensor_visit: sends the tensors of a batch. */
void         rig_send_visit(void *rig, tensor *t);
/* The same tensor in host memory, f32 where it is bf16. Waits for the GPU. Lives in `host`. */
tensor       rig_see(rig *r, const tensor *t);
/* Its values. */
const float *rig_f32(rig *r, const tensor *t);

/* Slabs for training from `weights`, in the form of the ctx. */
void rig_params(rig *r, params *p);
/* The f32 weights of a row from host memory; rig_weights_done behind the last one. */
void rig_set_weight(params *p, const param *row, const float *w);
void rig_weights_done(rig *r, params *p);

/* From here on topk_blocks gives what is in block[i] (host memory) at its i-th call, whatever the scores are. One rig
 * at a time. */
void rig_fix_selection(rig *r, const tensor *block, int n);
