#include "io/options.h"

#include <stdio.h>
#include <string.h>

/* section.key=value: only then is the text before '=' made of these characters with one dot in it. */
static bool is_override(const char *arg) {
    size_t n = strspn(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.");
    return arg[n] == '=' && memchr(arg, '.', n) && arg[0] != '.' && arg[0] != '-';
}

static bool apply_override(options *o, const char *arg, status *st) {
    const char *eq = strchr(arg, '=');
    char        name[256];
    snprintf(name, sizeof name, "%.*s", (int)(eq - arg < 255 ? eq - arg : 255), arg);
    return options_set(o, name, eq + 1, st);
}

/* What follows `word` (--config, --device) at argv[*i], as "WORD X" or "WORD=X"; *i moves over what it takes; NULL for
 * something else. */
static const char *argument_of(const char *word, int argc, char **argv, int *i, bool *missing) {
    size_t n = strlen(word);
    *missing = false;
    if (!strncmp(argv[*i], word, n) && argv[*i][n] == '=') return argv[*i] + n + 1;
    if (strcmp(argv[*i], word)) return NULL;
    *missing = *i + 1 >= argc;
    return *missing ? NULL : argv[++*i];
}

/* Is argv[*i] another word for an option? Then it is set, or *st says why not. */
static bool short_form(options *o, int argc, char **argv, int *i, status *st) {
    static const struct {
        const char *word, *name, *needs;
    } forms[] = {{"--device", "train.device", "one of auto, cpu, ref, cuda"},
                 {"--encoder", "cond.encoder", "one of patches, dinov2"},
                 {"--weights", "cond.weights", "a safetensors file"}};
    for (size_t k = 0; k < sizeof forms / sizeof forms[0]; k++) {
        bool        missing;
        const char *value = argument_of(forms[k].word, argc, argv, i, &missing);
        if (missing) return !status_set(st, ST_USAGE, "%s needs %s", forms[k].word, forms[k].needs);
        if (value) return options_set_as(o, forms[k].word, forms[k].name, value, st) || true;
    }
    return false;
}

bool options_parse(int argc, char **argv, options *o, status *st) {
    options_default(o);
    bool missing, plain = false;
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
        const char *file = argument_of("--config", argc, argv, &i, &missing);
        if (missing) return status_set(st, ST_USAGE, "--config needs a file");
        if (file && !options_read(o, file, st)) return false;
    }
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (plain || (a[0] != '-' && !is_override(a)) || !strcmp(a, "-")) {
            if (o->command.n_args == OPTION_ARGS)
                return status_set(st, ST_USAGE, "more than %d arguments", OPTION_ARGS);
            o->command.arg[o->command.n_args++] = a;
        } else if (!strcmp(a, "--")) {
            plain = true;
        } else if (is_override(a)) {
            if (!apply_override(o, a, st)) return false;
        } else if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
            o->command.help = true;
        } else if (!strcmp(a, "--dry-run")) {
            o->command.dry_run = true;
        } else if (short_form(o, argc, argv, &i, st)) {
            if (!status_ok(st)) return false;
        } else if (!argument_of("--config", argc, argv, &i, &missing)) {
            return status_set(st, ST_USAGE,
                              "%.100s is not known: there are --config FILE, --device NAME, --encoder NAME, --weights "
                              "FILE, --dry-run, --help and section.key=value",
                              a);
        }
    }
    return true;
}
