/* Every configuration that is handed out parses, has no contradictions, and its network can be laid out. */
#include <stdio.h>

#include "harness/harness.h"
#include "io/atomic_file.h"
#include "io/config_check.h"
#include "train/setup.h"

static int64_t numbers(const params *p) {
    int64_t n = 0;
    for (int i = 0; i < p->n; i++) n += p->row[i]->count;
    return n;
}

static void test_all(void **state) {
    (void)state;
    char **names;
    int    n;
    status st = {0};
    if (!list_folder(in_source("configs"), ".yaml", &names, &n, &st)) fail_msg("%s", st.text);
    assert_true(n >= 12);
    for (int i = 0; i < n; i++) {
        char    path[PATH_CAP];
        options o;
        options_default(&o);
        snprintf(path, sizeof path, "%s/%s", in_source("configs"), names[i]);
        if (!options_read(&o, path, &st) || !config_check(&o, NULL, &st)) fail_msg("%s: %s", names[i], st.text);
        if (o.train.model == opt_train_model_vae) {
            ssvae        m;
            ssvae_config c = ssvae_config_of(&o);
            ssvae_init(&m, &c);
            assert_true(numbers(&m.p) > 0);
            ssvae_free(&m);
        } else {
            ssdit        m;
            ssdit_config c = ssdit_config_of(&o);
            ssdit_init(&m, &c);
            if (o.dit.blocks == 24) /* R§5.3 */
                assert_int_equal(numbers(&m.p), o.dit.compression == opt_dit_compression_v2 ? 520083472 : 509286416);
            ssdit_free(&m);
        }
    }
    free_names(names, n);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
