#include "app/info_checkpoint.h"
#include "io/checkpoint_file.h"
#include "io/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The next line of a text, without its end; NULL behind the last. */
static char *next_line(char **text) {
    return **text ? strsep(text, "\n") : NULL;
}

/* Two dumps of the same table, so line by line the same options. */
static void print_differences(char *ours, char *theirs) {
    char *a, *b, *section = "";
    while ((a = next_line(&ours)) && (b = next_line(&theirs))) {
        if (*a != ' ')
            section = a;
        else if (strcmp(a, b) != 0)
            printf("    %.*s.%s\n", (int)strcspn(section, ":"), section, a + strspn(a, " "));
    }
}

static bool print_options(const ckpt_manifest *m, status *st) {
    options *o = malloc(sizeof *o);
    CHECK(o, "no memory for the options");
    options_default(o);
    char *usual = options_to_yaml(o), *own = NULL;
    bool  ok = options_read_stored(o, m->folder, m->config, (int64_t)strlen(m->config), st);
    if (ok) own = options_to_yaml(o);
    if (ok) printf("  options that are not the defaults:\n");
    if (ok) print_differences(own, usual);
    free(own);
    free(usual);
    free(o);
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
