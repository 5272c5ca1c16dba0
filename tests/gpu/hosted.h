/* The CUDA back end behind host memory, so that tests of ops run on it unchanged: a call's tensors go into GPU memory,
 * the op's front runs there, the results come back.
 *
 * Every call is watched. Its tensors lie between guard zones of 0xFF, at the alignment they have on the host; outputs
 * and scratch are filled with 0xFF before it, integer outputs with 0x7F. Behind it everything but the outputs must be
 * as it was: guards, gaps between rows, inputs, and the memory that follows the op's scratch. Otherwise the test fails
 * with the name of the tensor.
 *
 * In the bf16 form the tensors that roles.h calls AS_ACT (f32 here) are bf16 on the GPU: rounded on the way in, widened
 * on the way out. */
#pragma once
#include "ops/roles.h"

/* False, with the reason, when the build has no CUDA or the machine no GPU. */
bool hosted_there(const char **why);

/* "gpu f32" (DT_F32) or "gpu bf16" (DT_BF16). Opens GPU 0 at the first call. */
const backend *hosted_backend(dtype act);
/* "ref", "cpu", "gpu f32", "gpu bf16"; fatal for another name. */
const backend *hosted_find(const char *name);
/* The activations' dtype of a back end of these. */
dtype          hosted_act(const char *name);

/* What a test program runs on, two names: ref and cpu, or with the argument "gpu" the two forms of the CUDA back end.
 * NULL when the argument is given and there is no GPU: the reason is noted, and the exit code is test_exit(0). */
const char *const *hosted_names(int argc, char **argv);

/* Whether AS_WIDE stays f32 in the bf16 form; at first it does not. */
void hosted_set_wide(bool wide);
bool hosted_wide(void);

/* Bytes of scratch that the last call took, and what the calls that follow have; 0: all there is. */
size_t hosted_scratch_taken(void);
void   hosted_set_scratch(size_t bytes);

/* The ctx whose back end the calls go to, for tests with tensors of their own in GPU memory. */
ctx hosted_ctx(dtype act);
