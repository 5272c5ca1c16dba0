#include "app/info_checkpoint.h"
#include "io/checkpoint_file.h"
#include "io/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool print_options(const ckpt_manifest *m, status *st) {
    options *usual = malloc(sizeof *usual), *own = malloc(sizeof *own);
    CHECK(usual && own, "no memory for the options");
    options_default(usual);
    options_default(own);
    bool ok = options_read_stored(own, m->folder, m->config, (int64_t)strlen(m->config), st);
    if (ok) {
        char *text = options_changes(usual, own, "    ");
        printf("  options that are not the defaults:\n%s", text);
        free(text);
    }
    free(usual);
    free(own);
    return ok;
}

bool checkpoint_info(const char *folder, bool with_options, status *st) {
    ckpt_manifest m;
    if (!ckpt_open(folder, &m, st)) return false;
    int64_t numbers = 0, bytes = 0;
    for (int i = 0; i < m.n_params; i++) {
        int64_t n = 1;
        for (int k = 0; k < m.param[i].rank; k++) n *= m.param[i].shape[k];
        numbers += n;
    }
    for (int i = 0; i < m.n_parts; i++) bytes += m.part_bytes[i];
    printf("%s: checkpoint of the %s at step %lld, %lld parameters in %d tensors, %s, %s, %d part%s, %.1f MB\n", folder,
           m.model, (long long)m.step, (long long)numbers, m.n_params,
           ckpt_slab_count(&m, "ema") > 0 ? "with averaged weights" : "without averaged weights",
           ckpt_slab_count(&m, "adam_m") > 0 ? "with the optimiser" : "without the optimiser", m.n_parts,
           m.n_parts == 1 ? "" : "s", (double)bytes / 1e6);
    bool ok = !with_options || print_options(&m, st);
    ckpt_close(&m);
    return ok;
}
