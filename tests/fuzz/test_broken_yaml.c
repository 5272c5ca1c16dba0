#define _GNU_SOURCE
/* Configurations that are wrong: by hand, and every option with every kind of wrong value. A refusal is one line with
 * the file's name, and changes nothing; what is taken dumps and reads back as the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/harness.h"
#include "io/options.h"

static options before, o;

/* 1: refused in good order, 0: taken. */
static int read_one(const char *text, int64_t n) {
    status st = {0};
    options_default(&o);
    before = o;
    if (options_read_text(&o, "broken.yaml", text, n, &st)) {
        static options again;
        char          *dump = options_to_yaml(&o);
        options_default(&again);
        if (!options_read_text(&again, "dump", dump, (int64_t)strlen(dump), &st))
            fail_msg("the dump is refused: %s", st.text);
        assert_true(options_hash(&again) == options_hash(&o));
        free(dump);
        return 0;
    }
    if (st.code != ST_USAGE && st.code != ST_DATA) fail_msg("code %d: %s", (int)st.code, st.text);
    if (!strstr(st.text, "broken.yaml") || strchr(st.text, '\n')) fail_msg("message '%s'", st.text);
    if (memcmp(&o, &before, sizeof o) != 0) fail_msg("something changed by %.100s", text);
    return 1;
}

static void test_by_hand(void **state) {
    static const char *const broken[] = {
        "train",
        "- train",
        "[]",
        "[train]",
        "train: 3",
        "train: [1, 2]",
        "train: {steps: 3",
        "train: steps: 3}",
        "train:\n\tsteps: 3",
        "train:\n  steps: 3\n lr: 1",
        "train:\n  steps: 3\n  steps: 4",
        "train:\n  steps: 3\ntrain:\n  lr: 1",
        "train:\n  steps: *none",
        "train: &a {steps: 3}\nvae: *a",
        "train: &a {steps: 3}\nvae:\n  <<: *a",
        "train:\n  steps: &a 3\n  warmup: *b",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]",
        "train: {steps: 3}\n---\ntrain: {steps: 4}",
        "%YAML 9.9\n---\ntrain: {steps: 3}",
        "train: !!python/object:os.system {steps: 3}",
        "train:\n  steps: |\n    3\n    4",
        "train:\n  steps: >\n    three",
        "train:\n  steps: 'three",
        "train:\n  steps: \"\\q\"",
        "train:\n  steps: \"\\ud800\"",
        "? [a, b]\n: c",
        "? {train: 1}\n: 2",
        "train:\n  ? steps\n  : ? 3",
        "train:\n  [steps]: 3",
        "train:\n  {}: 3",
        "train:\n  '': 3",
        "'': {steps: 3}",
        "train:\n  steps 3",
        "train:\n  steps:3",
        "train.steps: 3",
        "TRAIN: {steps: 3}",
        "train: {Steps: 3}",
        "train: {steps : three}",
        "train: {steps: 0x}",
        "train: {steps: 1_000}",
        "train: {steps: 3.5}",
        "train: {steps: 1e3x}",
        "train: {steps: .inf}",
        "train: {lr: .nan}",
        "train: {lr: nan}",
        "train: {lr: inf}",
        "train: {lr: 1e999}",
        "train: {lr: -1e-999, steps: -1}",
        "train: {steps: 9223372036854775808}",
        "train: {steps: 99999999999999999999999999999999999999}",
        "train: {ema: 1}",
        "train: {model: [vae]}",
        "train: {model: vae dit}",
        "train: {sharded_optimizer: maybe}",
        "train: {sharded_optimizer: 2}",
        "vae: {enc_widths: 32}",
        "vae: {enc_widths: [32, [64], 128]}",
        "vae: {enc_widths: [32, x, 128]}",
        "vae: {enc_widths: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]}",
        "vae: {enc_widths: {a: 1}}",
        "data: {latents: [a]}",
        "data: {train: {a: b}}",
        "@train: 3",
        "`train: 3",
        "train: }",
        "train: ]",
        "{",
        "[",
        "\"",
        "'",
        "&",
        "*",
        "!",
        "train: !<tag:yaml.org,2002:map",
        "\xff\xfe t",
        "\xfe\xff t",
        "train: {steps: \xc3\x28}",
        "train: {steps: \x01}",
        "\x80: 1",
    };
    (void)state;
    int n = (int)(sizeof broken / sizeof broken[0]);
    for (int i = 0; i < n; i++)
        if (!read_one(broken[i], (int64_t)strlen(broken[i]))) fail_msg("taken: %s", broken[i]);
    /* deep, long, with zeros in it */
    enum { DEEP = 200000 };
    char *deep = malloc(DEEP + 1);
    assert_non_null(deep);
    const char fill[] = {'[', '{', '-', '?', '&', 'a', 0, ' '};
    for (size_t k = 0; k < sizeof fill; k++) {
        memset(deep, fill[k], DEEP);
        deep[DEEP] = 0;
        if (fill[k] == ' ') memcpy(deep + DEEP - 6, "x: [1", 5);
        if (!read_one(deep, DEEP)) fail_msg("taken: %d times %d", DEEP, fill[k]);
    }
    free(deep);
    static const char *const good[] = {"",
                                       "# nothing\n",
                                       "---\n",
                                       "train: {}\n",
                                       "train:\n",
                                       "\xef\xbb\xbftrain: {steps: 3}",
                                       "train: {steps: 3}\n...\n",
                                       "\"train\": {'steps': \"3\"}"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        if (read_one(good[i], (int64_t)strlen(good[i]))) fail_msg("refused: %s", good[i]);
}

/* The dump's lines are "section:" and "  key: value". */
static void test_every_option(void **state) {
    static const char *const wrong[] = {"[[1]]",
                                        "{a: 1}",
                                        "*none",
                                        "&x",
                                        "!!map {}",
                                        "\"\\u0000\"",
                                        "\"a\\nb\"",
                                        "1e400",
                                        "-1e400",
                                        "--5",
                                        "0x7fffffffffffffffffff",
                                        "nan",
                                        "[1, 2, 3",
                                        "}",
                                        "|\n      x",
                                        "%",
                                        "@",
                                        "? x",
                                        "- 1",
                                        "1: 2"};
    (void)state;
    options_default(&o);
    char *dump = options_to_yaml(&o), *rest = dump, *line, section[64] = "";
    int   refused = 0, all = 0, kinds = (int)(sizeof wrong / sizeof wrong[0]), n_options = 0;
    while ((line = strsep(&rest, "\n"))) {
        char key[64], text[512];
        if (line[0] && line[0] != ' ') snprintf(section, sizeof section, "%.*s", (int)strcspn(line, ":"), line);
        if (line[0] != ' ') continue;
        snprintf(key, sizeof key, "%.*s", (int)strcspn(line + 2, ":"), line + 2);
        n_options++;
        for (int k = 0; k < kinds; k++, all++) {
            snprintf(text, sizeof text, "%s:\n  %s: %s\n", section, key, wrong[k]);
            refused += read_one(text, (int64_t)strlen(text));
        }
    }
    free(dump);
    print_message("%d options, %d files, %d refused\n", n_options, all, refused);
    assert_true(n_options > 100 && refused > all * 8 / 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_by_hand), cmocka_unit_test(test_every_option)};
    return cmocka_run_group_tests_name("broken_yaml", tests, NULL, NULL);
}
