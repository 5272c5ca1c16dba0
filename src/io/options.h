/* All options of the program, from one table (io/options.def): fields, defaults, parser, help and dump agree by
 * construction. YAML files and `section.key=value` on the command line share the names. */
#pragma once
#include "core/base.h"
#include <stdio.h>

enum { OPTION_TEXT = 512, OPTION_LIST = 16, OPTION_ARGS = 256 };

typedef struct {
    int     n;
    int64_t v[OPTION_LIST];
} option_ints;

typedef struct {
    int    n;
    double v[OPTION_LIST];
} option_floats;

/* Constants of an enum row: opt_<section>_<key>_<name>, counted from 0. */
#define OPT_NAMES1(p, a) p##a
#define OPT_NAMES2(p, a, ...) p##a, OPT_NAMES1(p, __VA_ARGS__)
#define OPT_NAMES3(p, a, ...) p##a, OPT_NAMES2(p, __VA_ARGS__)
#define OPT_NAMES4(p, a, ...) p##a, OPT_NAMES3(p, __VA_ARGS__)
#define OPT_NAMES5(p, a, ...) p##a, OPT_NAMES4(p, __VA_ARGS__)
#define OPT_COUNT(a, b, c, d, e, n, ...) n
#define OPT_CAT(a, b) a##b
#define OPT_NAMES_N(n, p, ...) OPT_CAT(OPT_NAMES, n)(p, __VA_ARGS__)
#define OPT_NAMES(p, ...) OPT_NAMES_N(OPT_COUNT(__VA_ARGS__, 5, 4, 3, 2, 1, 0), p, __VA_ARGS__)

#define OPTION_SECTION(section, help) struct {
#define OPTION_INT(section, key, def, least, most, help) int64_t key;
#define OPTION_FLOAT(section, key, def, least, most, help) double key;
#define OPTION_BOOL(section, key, def, help) bool key;
#define OPTION_STRING(section, key, def, help) char key[OPTION_TEXT];
#define OPTION_PATHS(section, key, def, help) char key[OPTION_TEXT];
#define OPTION_INTS(section, key, def, least, most, help) option_ints key;
#define OPTION_FLOATS(section, key, def, least, most, help) option_floats key;
#define OPTION_ENUM(section, key, def, help, ...) enum { OPT_NAMES(opt_##section##_##key##_, __VA_ARGS__) } key;
#define OPTION_END(section)                                                                                            \
    }                                                                                                                  \
    section;

/* What the command line says beside the table. */
typedef struct {
    bool        help, dry_run;
    int         n_args;
    const char *arg[OPTION_ARGS]; /* positional arguments, pointing into argv */
} options_command;

typedef struct {
#include "io/options.def"
    options_command command;
} options;

#undef OPTION_SECTION
#undef OPTION_INT
#undef OPTION_FLOAT
#undef OPTION_BOOL
#undef OPTION_STRING
#undef OPTION_PATHS
#undef OPTION_INTS
#undef OPTION_FLOATS
#undef OPTION_ENUM
#undef OPTION_END

void options_default(options *o);
/* Values of a YAML file over those in *o. Messages name file, line, key, value and range; nothing is half applied: on
 * failure *o is as before. */
bool options_read(options *o, const char *path, status *st);
/* The same from text; `name` stands for the file in messages. */
bool options_read_text(options *o, const char *name, const char *text, int64_t n, status *st);
/* A dump that is stored in a checkpoint, perhaps by another version of the program: keys that are not in the table are
 * left out with a warning. */
bool options_read_stored(options *o, const char *name, const char *text, int64_t n, status *st);
/* "section.key", "value" in YAML notation ("[32, 64]" for a list; one of numbers also without brackets). */
bool options_set(options *o, const char *name, const char *value, status *st);
/* The same; messages name `word` and not "command line". */
bool options_set_as(options *o, const char *word, const char *name, const char *value, status *st);
/* Defaults, then every --config FILE in order, then every section.key=value in order (the last one counts; --device
 * NAME is train.device=NAME, --encoder NAME is cond.encoder=NAME, --weights FILE is cond.weights=FILE); --help, -h,
 * --dry-run; "--" ends options; the rest is positional. argv[0] (program or verb) is skipped. */
bool options_parse(int argc, char **argv, options *o, status *st);

/* The whole resolved configuration; reading it back gives equal options. Returns false when writing failed. */
bool     options_dump_yaml(const options *o, FILE *f);
char    *options_to_yaml(const options *o); /* malloc'ed */
/* Malloc'ed lines "PREFIXsection.key: BEFORE -> NOW", one for each option that differs. */
char    *options_changes(const options *before, const options *now, const char *prefix);
/* XXH3 of the dump. */
uint64_t options_hash(const options *o);
/* One line per option with default, range and help. wanted: sections and options ("train vae sample.ema"); NULL lists
 * all. */
void     options_help(FILE *f, const char *wanted);
/* A failure that begins with a path also gets the name of the option, or options, that gave it: "runs/vae: ...
 * (encode.vae)". */
void     options_name_path(const options *o, status *st);
/* In how many letters two words differ (Levenshtein), of the first 64: for "did you mean". */
int      word_distance(const char *a, const char *b);
