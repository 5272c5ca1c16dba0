/* Arenas, a ctx and a tape on one back end, for tests of layers and models. */
#pragma once
#include "nn/tape.h"

typedef struct {
    ctx   c;
    arena step, book, host, weights;
    tape  t;
} rig;

/* Arenas of `mb` megabytes each; memory that is not touched costs nothing. Fatal for an unknown back end. */
void rig_open(rig *r, const char *backend_name, size_t mb);
void rig_close(rig *r);
