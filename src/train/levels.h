/* train.reduce_levels: whether sums over the ranks go by levels (dist/comm.h), said in the log. */
#pragma once
#include "dist/comm.h"
#include "io/options.h"

/* Collective, before comm_device_open. False (ST_CONFIG): on, and nodes differ in their numbers of ranks. Whether or
 * not levels are open afterwards: comm_levels_close. *nodes: how many there are. */
bool levels_choose(const options *o, comm *c, int *nodes, status *st);
