/* What a step's time is made of: seconds of every op call, added up by op and shape. A ctx with a profile is timed
 * while the profile is on: by events in the stream of ops on a GPU (nobody waits until the rows are read), by the clock
 * on the CPU. One thread. */
#pragma once
#include "ops/roles.h"

typedef struct op_profile op_profile;

typedef struct {
    op_id   op;
    char    shape[96]; /* of the first two tensors of the call, "45904x1024 4096x1024" */
    int64_t calls;
    double  seconds, bytes; /* of all calls; bytes: what must be moved at least */
} op_profile_row;

op_profile *op_profile_new(void); /* off */
void        op_profile_free(op_profile *p);
void        op_profile_switch(op_profile *p, bool on);

/* Around a call, by the front of every op (OP_CALL). */
void op_profile_enter(op_profile *p, op_id op, const void *args, device_kind dev);
void op_profile_leave(op_profile *p);

/* The rows, longest first; waits for the GPU. They stay until the next call of this module. */
const op_profile_row *op_profile_rows(op_profile *p, int *n);
