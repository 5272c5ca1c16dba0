#include "app/net_params.h"

#include <stdlib.h>

void net_params_init(net_params *n, const options *o) {
    n->is_dit = o->train.model == opt_train_model_dit;
    if (n->is_dit) {
        ssdit_config c = ssdit_config_of(o);
        ssdit_init(&n->dit, &c);
        n->p = &n->dit.p;
    } else {
        ssvae_config c = ssvae_config_of(o);
        ssvae_init(&n->vae, &c);
        n->p = &n->vae.p;
    }
    n->n_layers = 0;
    for (int i = 0; i < n->p->n; i++)
        if (n->p->row[i]->layer >= n->n_layers) n->n_layers = n->p->row[i]->layer + 1;
}

void net_params_free(net_params *n) {
    if (n->is_dit)
        ssdit_free(&n->dit);
    else
        ssvae_free(&n->vae);
    n->p = NULL;
}

double net_reduced_bytes(const options *o) {
    net_params *n = malloc(sizeof *n);
    CHECK(n, "no memory for a table of parameters");
    net_params_init(n, o);
    double numbers = (double)n->p->total;
    net_params_free(n);
    free(n);
    return numbers * (o->train.reduce_dtype == opt_train_reduce_dtype_bf16 ? 2 : 4);
}
