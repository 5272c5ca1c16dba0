/* Configuration files with everything done to them that hands and disks do: read, or refused with a line that names the
 * file and leaves the options as they were; what was read, dumped and read again is the same. D3S2_MUTATED says how
 * many (20,000). */
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "harness/harness.h"
#include "io/options.h"

static const char *const seed[] = {
    "data:\n  train: /some where/with:colon # not part of it\n  heldout: \"quoted \\\"text\\\" #1\"\n\nvae:\n  width: "
    "64\n"
    "  enc_widths: [8, 16, 32]\n  dec_widths:\n    - 32\n    - 16\n    - 8\n  pool_add_one: false\n"
    "train: {model: dit, lr: 2.5e-5, recompute: on}\n",
    "train:\n  steps: 1000\n  batch_samples: 8\n  run: 'a b'\n  clip: adaptive\ndit: {width: 1024, heads: 32}\n",
    "--- # one document\nflow: {t_mean: 1, t_std: 1.0}\neval:\n  f1_thresholds: [0.01, 0.001]\n...\n"};
enum { SEEDS = sizeof seed / sizeof *seed, CAP = 2048 };

static uint32_t draw(rng_key k, int *at, uint32_t below) {
    return rng_u32(k, (uint64_t)(*at)++) % below;
}

static int mutate(int number, char text[CAP]) {
    static const char odd[] = "&*!|>%@{}[]:-#\"'?,\n\t\r\\ ~=<0";
    rng_key           k = {.seed = 11, .purpose = RNG_TEST, .sample = (uint64_t)number};
    int               at = 0, n = (int)strlen(seed[number % SEEDS]);
    memcpy(text, seed[number % SEEDS], (size_t)n);
    for (int times = 1 + (int)draw(k, &at, 6); times > 0 && n > 0; times--) {
        int i = (int)draw(k, &at, (uint32_t)n), len = 1 + (int)draw(k, &at, 40);
        if (len > n - i) len = n - i;
        switch (draw(k, &at, 6)) {
        case 0: /* a bit */
            text[i] ^= (char)(1 << draw(k, &at, 8));
            break;
        case 1: /* a sign that means something */
            text[i] = odd[draw(k, &at, sizeof odd - 1)];
            break;
        case 2: /* gone */
            memmove(text + i, text + i + len, (size_t)(n - i - len));
            n -= len;
            break;
        case 3: /* twice */
            if (n + len > CAP) break;
            memmove(text + i + len, text + i, (size_t)(n - i));
            n += len;
            break;
        case 4: /* cut off */
            n = i;
            break;
        default: /* put in */
            if (n + len > CAP) break;
            memmove(text + i + len, text + i, (size_t)(n - i));
            for (int j = 0; j < len; j++) text[i + j] = odd[draw(k, &at, sizeof odd - 1)];
            n += len;
        }
    }
    return n;
}

static void test_mutated(void **state) {
    const char *wanted = getenv("D3S2_MUTATED");
    int         n = wanted ? atoi(wanted) : 20000, refused = 0;
    options    *o = malloc(sizeof *o), *again = malloc(sizeof *again), *fresh = malloc(sizeof *fresh);
    char        text[CAP];
    (void)state;
    memset(fresh, 0, sizeof *fresh);
    options_default(fresh);
    for (int i = 0; i < n; i++) {
        status st = {0};
        int    bytes = mutate(i, text);
        memcpy(o, fresh, sizeof *o);
        if (!options_read_text(o, "c.yaml", text, bytes, &st)) {
            refused++;
            if (st.code != ST_USAGE && st.code != ST_DATA) fail_msg("text %d: code %d, %s", i, (int)st.code, st.text);
            if (!strstr(st.text, "c.yaml")) fail_msg("text %d: \"%s\" names no file", i, st.text);
            if (memcmp(o, fresh, sizeof *o) != 0) fail_msg("text %d: half of it was applied", i);
            continue;
        }
        char *dump = options_to_yaml(o);
        memcpy(again, fresh, sizeof *again);
        if (!options_read_text(again, "dump", dump, (int64_t)strlen(dump), &st))
            fail_msg("text %d: its dump is refused: %s", i, st.text);
        if (options_hash(o) != options_hash(again)) fail_msg("text %d: its dump is other options", i);
        free(dump);
    }
    assert_true(refused > n / 4 && refused < n); /* the mutations are neither harmless nor hopeless */
    free(o);
    free(again);
    free(fresh);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mutated)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
