/* The parameter table of the configured network without weights or data: what is summed over the ranks, and when
 * backward has it ready. */
#pragma once
#include "model/ssdit.h"
#include "model/ssvae.h"
#include "train/setup.h"

typedef struct {
    ssdit   dit;
    ssvae   vae;
    params *p; /* of the one that train.model names */
    bool    is_dit;
    int     n_layers; /* 0 .. n_layers-1 in the order of forward */
} net_params;

void   net_params_init(net_params *n, const options *o);
void   net_params_free(net_params *n);
/* Of the gradients of a step on its way between ranks. */
double net_reduced_bytes(const options *o);
