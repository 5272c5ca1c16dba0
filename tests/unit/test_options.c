#define _GNU_SOURCE /* open_memstream */
/* The option table: defaults, YAML, overrides, refusals, dump, contradictions. */
#include "harness/harness.h"
#include "io/config_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static options o; /* large */

static void defaults(void **state) {
    (void)state;
    options_default(&o);
    assert_int_equal(o.vae.width, 512);
    assert_true(o.vae.kl_weight == 1e-3 && o.train.eps == 1e-8 && o.flow.sigma_min == 1e-5);
    assert_int_equal(o.vae.enc_widths.n, 3);
    assert_int_equal(o.vae.enc_widths.v[2], 128);
    assert_int_equal(o.eval.f1_thresholds.n, 2);
    assert_true(o.eval.f1_thresholds.v[1] == 0.001);
    assert_int_equal(o.dit.compression, opt_dit_compression_v2);
    assert_int_equal(o.train.model, opt_train_model_vae);
    assert_true(o.dit.sparse_cond && !o.dit.share_mod);
    assert_string_equal(o.data.train, "");
    config_faults all;
    status        st = {0};
    if (!config_check(&o, &all, &st)) fail_msg("the defaults contradict: %s", st.text);
}

static void write_file(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
}

static const char *config_path(void) {
    static char path[128];
    snprintf(path, sizeof path, "%s/c.yaml", temp_folder());
    return path;
}

static void file_and_overrides(void **state) {
    (void)state;
    status st = {0};
    write_file(config_path(), "# a comment\n"
                              "data:\n"
                              "  train: /some where/with:colon # not part of it\n"
                              "  heldout: \"quoted \\\"text\\\" #1\"\n"
                              "\n"
                              "vae:\n"
                              "  width: 64\n"
                              "  enc_widths: [8, 16, 32]\n"
                              "  dec_widths:\n"
                              "    - 32\n"
                              "    - 16\n"
                              "    - 8\n"
                              "  pool_add_one: false\n"
                              "eval:\n"
                              "train: {model: dit, lr: 2.5e-5, recompute: on}\n");
    char  config[160];
    char *argv[] = {"train",
                    "--config",
                    (char *)(uintptr_t)config_path(),
                    "vae.width=128",
                    "extra",
                    "--dry-run",
                    "data.latents=/a=b: #c",
                    "vae.dec_widths=[64, 32,16]",
                    "vae.width=256",
                    "--",
                    "x.y=3",
                    "--help"};
    if (!options_parse(12, argv, &o, &st)) fail_msg("%s", st.text);
    assert_string_equal(o.data.train, "/some where/with:colon");
    assert_string_equal(o.data.heldout, "quoted \"text\" #1");
    assert_int_equal(o.vae.width, 256);
    assert_int_equal(o.vae.enc_widths.v[0], 8);
    assert_int_equal(o.vae.dec_widths.v[0], 64);
    assert_int_equal(o.vae.dec_widths.v[2], 16);
    assert_false(o.vae.pool_add_one);
    assert_int_equal(o.train.model, opt_train_model_dit);
    assert_int_equal(o.train.recompute, opt_train_recompute_on);
    assert_true(o.train.lr == 2.5e-5);
    assert_string_equal(o.data.latents, "/a=b: #c");
    assert_true(o.command.dry_run && !o.command.help);
    assert_int_equal(o.command.n_args, 3);
    assert_string_equal(o.command.arg[0], "extra");
    assert_string_equal(o.command.arg[1], "x.y=3");
    snprintf(config, sizeof config, "--config=%s", config_path());
    char *later[] = {"train", "vae.width=32", config}; /* overrides win wherever they stand */
    assert_true(options_parse(3, later, &o, &st));
    assert_int_equal(o.vae.width, 32);
    assert_int_equal(o.vae.enc_widths.v[0], 8);
}

/* Reads text over defaults; must fail and say all of the words. */
static void refused(const char *text, const char *a, const char *b, const char *c) {
    status         st = {0};
    static options before;
    options_default(&o);
    before = o;
    if (options_read_text(&o, "my.yaml", text, (int64_t)strlen(text), &st)) fail_msg("accepted: %s", text);
    assert_int_equal(st.code, ST_USAGE);
    const char *words[3] = {a, b, c};
    for (int i = 0; i < 3; i++)
        if (words[i] && !strstr(st.text, words[i])) fail_msg("\"%s\" does not say \"%s\"", st.text, words[i]);
    assert_memory_equal(&before, &o, sizeof o); /* nothing half applied */
}

static void refusals(void **state) {
    (void)state;
    refused("vae:\n  width: 64\n  heds: 4\n", "my.yaml:3", "vae.heds is not an option", "did you mean vae.heads");
    refused("vea:\n  width: 64\n", "my.yaml:2", "vea.width", "vae.width");
    refused("vae:\n  lr: 1\n", "vae.lr", "train.lr", NULL);
    refused("trian:\n  steps: 1\n", "trian.steps", "train.steps", NULL); /* not the first section with such a key */
    refused("train:\n  run: ~/runs/vae\n", "my.yaml:2", "~/runs/vae", "whole path");
    refused("data:\n  train: [a, $HOME/b]\n", "data.train", "whole path", NULL);
    refused("vae:\n  width: wide\n", "my.yaml:2: vae.width", "\"wide\"", "integer in [8, 65536]");
    refused("vae:\n\n  width: 4\n", "my.yaml:3", "\"4\"", "[8, 65536]");
    refused("vae:\n  width: 64.5\n", "\"64.5\"", "integer", NULL);
    refused("vae:\n  width: 99999999999999999999\n", "vae.width", "integer", NULL);
    refused("vae:\n  width:\n", "vae.width: \"\"", "integer", NULL);
    refused("vae:\n  width: [64]\n", "[64]", "integer", NULL);
    refused("train:\n  lr: nan\n", "train.lr", "\"nan\"", "number in [0, 10]");
    refused("train:\n  lr: -1e-3\n", "\"-1e-3\"", "[0, 10]", NULL);
    refused("train:\n  lr: 0x10\n", "train.lr", "0x10", NULL);
    refused("train:\n  clip: hard\n", "train.clip", "\"hard\"", "none, norm, adaptive");
    refused("dit:\n  use_shift: maybe\n", "\"maybe\"", "true or false", NULL);
    refused("vae:\n  enc_widths: [8, 16, x]\n", "[8, 16, x]", "list of at most 16 integers", NULL);
    refused("vae:\n  enc_widths: 8\n", "\"8\"", "list", NULL);
    refused("vae:\n  enc_widths: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]\n", "at most 16", NULL, NULL);
    refused("vae:\n  enc_widths: [[8], 16]\n", "my.yaml:2", "nesting", NULL);
    refused("vae:\n  width: {a: 1}\n", "my.yaml:2", "nesting", NULL);
    refused("vae:\n  width: 64\n  heads: 8\n  width: 32\n", "my.yaml:4", "vae.width is given twice", NULL);
    refused("vae:\n  width: 64\ntrain:\n  lr: 1\nvae:\n  heads: 8\n", "my.yaml:5", "vae is given twice", NULL);
    refused("vae: &a\n  width: 64\n", "anchor", NULL, NULL);
    refused("vae:\n  width: &w 64\n", "my.yaml:2", "anchor", NULL);
    refused("vae:\n  width: *w\n", "alias", NULL, NULL);
    refused("vae:\n  width: !!int 64\n", "tag", NULL, NULL);
    refused("vae: 3\n", "my.yaml:1", "section", NULL);
    refused("- vae\n", "my.yaml:1", "sections", NULL);
    refused("vae:\n  width: 64\n---\nvae:\n  heads: 8\n", "document", NULL, NULL);
    refused("vae:\n  width: [64\n", "my.yaml:", "YAML", NULL);
    refused("vae:\n\twidth: 64\n", "my.yaml:2", "YAML", NULL);
    char long_text[700] = "data:\n  train: ";
    memset(long_text + strlen(long_text), 'x', 600);
    refused(long_text, "data.train", "less than 512", NULL);
}

static void command_line_refusals(void **state) {
    (void)state;
    struct {
        const char *arg, *says;
    } cases[] = {{"vae.widht=3", "did you mean vae.width"},
                 {"vae.width=3", "command line: vae.width: \"3\""},
                 {"vae.enc_widths=[1", "YAML"},
                 {"vae.enc_widths=8,x", "[8, x]"},
                 {"train.run=~", "whole path"},
                 {"--widht", "--widht is not known"},
                 {"--config", "needs a file"},
                 {"--device", "needs one of"},
                 {"--device=gpu", "one of auto, cpu, ref, cuda"},
                 {"--config=/no/such/file.yaml", "/no/such/file.yaml"},
                 {"train.seed=1.5", "integer of at least 0"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = {0};
        char  *argv[] = {"train", (char *)(uintptr_t)cases[i].arg};
        if (options_parse(2, argv, &o, &st)) fail_msg("accepted: %s", cases[i].arg);
        if (!strstr(st.text, cases[i].says)) fail_msg("\"%s\" does not say \"%s\"", st.text, cases[i].says);
    }
}

/* --device NAME is train.device=NAME, in its place among the others; the name is no argument. */
static void device_word(void **state) {
    (void)state;
    status st = {0};
    char  *argv[] = {"sample", "train.device=ref", "--device", "cuda", "shards"};
    assert_true(options_parse(5, argv, &o, &st));
    assert_int_equal(o.train.device, opt_train_device_cuda);
    assert_int_equal(o.command.n_args, 1);
    assert_string_equal(o.command.arg[0], "shards");
    char *other[] = {"sample", "--device=cpu", "train.device=ref"};
    assert_true(options_parse(3, other, &o, &st));
    assert_int_equal(o.train.device, opt_train_device_ref);
}

static void dump_and_reload(void **state) {
    (void)state;
    static options back;
    status         st = {0};
    options_default(&o);
    uint64_t h = options_hash(&o);
    assert_true(options_set(&o, "train.lr", "0.1", &st) && options_set(&o, "train.beta2", "0.98765432109876543", &st) &&
                options_set(&o, "data.train", "a \"b\" \\ #c: [d] \xc3\xbc\ttab", &st) &&
                options_set(&o, "vae.enc_widths", "[]", &st) &&
                options_set(&o, "eval.f1_thresholds", "[1e-7, 0.3]", &st) &&
                options_set(&o, "train.seed", "9223372036854775807", &st) &&
                options_set(&o, "dit.compression", "v1", &st) && options_set(&o, "sample.level", "-0.25", &st));
    assert_true(options_hash(&o) != h);
    char *text = options_to_yaml(&o);
    options_default(&back);
    if (!options_read_text(&back, "dump", text, (int64_t)strlen(text), &st)) fail_msg("%s\n%s", st.text, text);
    assert_memory_equal(&o, &back, sizeof o);
    assert_true(options_hash(&back) == options_hash(&o));
    assert_true(back.train.seed == INT64_MAX);
    free(text);
}

/* One path as it is, several as a list or with commas between; what cannot be told apart again is refused. */
static void paths(void **state) {
    (void)state;
    static const char text[] = "data:\n  train: [a b, /c:d]\n  heldout: one\n  shares: [1, 0.5]\n";
    status            st = {0};
    options_default(&o);
    assert_int_equal(o.data.shares.n, 0);
    if (!options_read_text(&o, "text", text, (int64_t)strlen(text), &st)) fail_msg("%s", st.text);
    assert_string_equal(o.data.train, "a b,/c:d");
    assert_string_equal(o.data.heldout, "one");
    assert_true(o.data.shares.n == 2 && o.data.shares.v[1] == 0.5);
    assert_true(options_set(&o, "data.train", "x,y", &st) && options_set(&o, "data.heldout", "[x, y]", &st));
    assert_string_equal(o.data.train, "x,y");
    assert_string_equal(o.data.heldout, "x,y");
    assert_false(options_set(&o, "data.train", "[\"a,b\", c]", &st));
    assert_false(options_set(&o, "data.train", "[a, \"\"]", &st));
    assert_non_null(strstr(st.text, "paths without commas"));
    assert_false(options_set(&o, "vae.width", "[1, 2]", &st));
    char          *dump = options_to_yaml(&o);
    static options back;
    options_default(&back);
    if (!options_read_text(&back, "dump", dump, (int64_t)strlen(dump), &st)) fail_msg("%s", st.text);
    assert_memory_equal(&o, &back, sizeof o);
    free(dump);
}

static void changes(void **state) {
    (void)state;
    static options before;
    status         st = {0};
    options_default(&before);
    o = before;
    char *none = options_changes(&before, &o, "");
    assert_string_equal(none, "");
    free(none);
    assert_true(options_set(&o, "data.train", "a: b", &st) && options_set(&o, "cluster.ranks", "8", &st));
    char *some = options_changes(&before, &o, "  ");
    assert_string_equal(some, "  data.train: \"\" -> \"a: b\"\n  cluster.ranks: [8, 64, 1024, 16384] -> [8]\n");
    free(some);
}

/* On the command line numbers need no brackets, which most shells take for something else. */
static void bare_lists(void **state) {
    (void)state;
    status st = {0};
    options_default(&o);
    assert_true(options_set(&o, "cluster.ranks", "8", &st) && options_set(&o, "eval.f1_thresholds", "0.5,1e-3", &st) &&
                options_set(&o, "vae.enc_widths", "", &st) && options_set(&o, "data.train", "~user,a~", &st));
    assert_true(o.cluster.ranks.n == 1 && o.cluster.ranks.v[0] == 8 && o.vae.enc_widths.n == 0);
    assert_true(o.eval.f1_thresholds.n == 2 && o.eval.f1_thresholds.v[0] == 0.5 && o.eval.f1_thresholds.v[1] == 1e-3);
}

/* A configuration in a checkpoint of another version: what is not in the table any more does not stop its use. */
static void stored(void **state) {
    (void)state;
    static const char text[] = "vae:\n  width: 64\n  gone: [1, 2]\nold:\n  key: 3\n", bad[] = "vae:\n  width: wide\n";
    status            st = {0};
    options_default(&o);
    log_init(0, 1, LOG_QUIET);
    if (!options_read_stored(&o, "step-1", text, (int64_t)strlen(text), &st)) fail_msg("%s", st.text);
    assert_int_equal(o.vae.width, 64);
    assert_false(options_read_stored(&o, "step-1", bad, (int64_t)strlen(bad), &st));
    assert_non_null(strstr(st.text, "step-1:2: vae.width"));
    log_init(0, 1, LOG_INFO);
}

static void help_lists_all(void **state) {
    (void)state;
    char  *text;
    size_t n;
    FILE  *f = open_memstream(&text, &n);
    options_help(f, NULL);
    fclose(f);
#define OPTION_SECTION(s, h)
#define ROW(s, k)                                                                                                      \
    if (!strstr(text, "  " #s "." #k "=")) fail_msg("no help on " #s "." #k);
#define OPTION_INT(s, k, ...) ROW(s, k)
#define OPTION_FLOAT(s, k, ...) ROW(s, k)
#define OPTION_BOOL(s, k, ...) ROW(s, k)
#define OPTION_STRING(s, k, ...) ROW(s, k)
#define OPTION_PATHS(s, k, ...) ROW(s, k)
#define OPTION_INTS(s, k, ...) ROW(s, k)
#define OPTION_FLOATS(s, k, ...) ROW(s, k)
#define OPTION_ENUM(s, k, ...) ROW(s, k)
#define OPTION_END(s)
#include "io/options.def"
    free(text);
    f = open_memstream(&text, &n);
    options_help(f, "cond flow");
    fclose(f);
    assert_non_null(strstr(text, "flow.t_mean=1"));
    assert_non_null(strstr(text, "cond.size=518"));
    assert_null(strstr(text, "vae.width"));
    free(text);
    f = open_memstream(&text, &n); /* a section and one key of another */
    options_help(f, "flow cond.size");
    fclose(f);
    assert_non_null(strstr(text, "flow.t_std=1"));
    assert_non_null(strstr(text, "cond.size=518"));
    assert_null(strstr(text, "cond.drop"));
    free(text);
}

/* A path in a message is followed back to the option that gave it: the longest that fits, or all that are alike. */
static void names_of_paths(void **state) {
    (void)state;
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"data/a: cannot open", "data/a: cannot open (data.train)"},
        {"data/b: cannot open", "data/b: cannot open (data.train)"},
        {"data/b/shard-0.h5: is cut short", "data/b/shard-0.h5: is cut short (data.train)"},
        {"data/bad: cannot open", "data/bad: cannot open (data.heldout or encode.input)"},
        {"data/bad has no latents", "data/bad has no latents (data.heldout or encode.input)"},
        {"data: not given", "data: not given"},
        {"other: cannot open", "other: cannot open"},
        {"data/b: is no folder (data.train)", "data/b: is no folder (data.train)"},
    };
    status st = {0};
    options_default(&o);
    assert_true(options_set(&o, "data.train", "[data/a, data/b]", &st) &&
                options_set(&o, "data.heldout", "data/bad", &st) && options_set(&o, "encode.input", "data/bad", &st));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        st = (status){0};
        status_set(&st, ST_NO_INPUT, "%s", cases[i].text);
        options_name_path(&o, &st);
        assert_string_equal(st.text, cases[i].want);
    }
    st = (status){0};
    status_set(&st, ST_NO_INPUT, "data/a: %0*d", (int)sizeof st.text, 0); /* no room for the name */
    size_t length = strlen(st.text);
    options_name_path(&o, &st);
    assert_int_equal(strlen(st.text), length);
}

static void contradictions(void **state) {
    (void)state;
    struct {
        const char *name, *value, *says;
    } cases[] = {{"vae.heads", "7", "vae.width = 512 is not a multiple of vae.heads = 7"},
                 {"dit.kv_heads", "3", "dit.heads = 32 is not a multiple of dit.kv_heads = 3"},
                 {"dit.m_cmp", "3", "dit.m_slc = 8 is not a multiple of dit.m_cmp = 3"},
                 {"dit.resolution", "60", "dit.resolution = 60 is not a multiple of dit.m_slc = 8"},
                 {"dit.groups", "48", "dit.groups = 48"},
                 {"vae.enc_widths", "[32, 64]", "has 2 entries"},
                 {"vae.enc_widths", "[32, 65, 128]", "65 is not a multiple of vae.groups"},
                 {"cond.size", "500", "multiple of 14"},
                 {"prep.resolution", "100", "multiple of 8"},
                 {"data.resolution", "256", "prep.resolution = 128, but training takes data.resolution = 256"},
                 {"data.tokens", "", "set data.tokens"}};
    enum { N = sizeof cases / sizeof *cases };
    for (int i = 0; i < N; i++) {
        status        st = {0};
        config_faults all;
        options_default(&o);
        o.cond.encoder = opt_cond_encoder_dinov2;
        o.train.model = opt_train_model_dit;
        if (!options_set(&o, "data.tokens", "t", &st) || !options_set(&o, "data.train", "d", &st) ||
            !options_set(&o, "prep.output", "d", &st) || !config_check(&o, &all, &st))
            fail_msg("%s", st.text);
        if (!options_set(&o, cases[i].name, cases[i].value, &st)) fail_msg("%s", st.text);
        if (config_check(&o, &all, &st)) fail_msg("%s = %s was accepted", cases[i].name, cases[i].value);
        assert_int_equal(st.code, ST_CONFIG);
        if (!strstr(st.text, cases[i].says)) fail_msg("\"%s\" does not say \"%s\"", st.text, cases[i].says);
        assert_int_equal(all.n, 1);
    }
    status        st = {0};
    config_faults all;
    options_default(&o);
    assert_true(options_set(&o, "vae.heads", "7", &st) && options_set(&o, "dit.kv_heads", "3", &st) &&
                options_set(&o, "cond.size", "500", &st));
    assert_false(config_check(&o, &all, &st));
    assert_true(all.n >= 3);
    assert_non_null(strstr(st.text, "vae.heads"));
    assert_non_null(strstr(st.text, "dit.kv_heads"));
    assert_non_null(strstr(st.text, "cond.size"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),        cmocka_unit_test(file_and_overrides),
        cmocka_unit_test(refusals),        cmocka_unit_test(command_line_refusals),
        cmocka_unit_test(device_word),     cmocka_unit_test(paths),
        cmocka_unit_test(dump_and_reload), cmocka_unit_test(stored),
        cmocka_unit_test(bare_lists),      cmocka_unit_test(changes),
        cmocka_unit_test(help_lists_all),  cmocka_unit_test(contradictions),
        cmocka_unit_test(names_of_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
