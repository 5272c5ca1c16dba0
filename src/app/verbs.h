/* The verbs of the program. Each has one short file and one row in the table of app.c. */
#pragma once
#include "dist/comm.h"
#include "io/options.h"

#define D3S2_VERSION "0.1.0"

typedef struct {
    const comm *world;
    options    *opt;
    int         argc; /* the verb's own words; argv[0] is the verb */
    char      **argv;
    bool        flag; /* the verb's own word (verb.flag) was given */
} app;

/* True, or false with *st filled. Every rank calls it, and may fail alone: what follows is agreed on by the caller,
 * what is collective inside is agreed on inside. */
typedef bool (*verb_run)(app *a, status *st);

typedef enum {
    VERB_ALL_RANKS,
    VERB_RANK0,   /* the other ranks only wait for the result */
    VERB_RAW_ARGS /* reads its own arguments */
} verb_kind;

typedef struct {
    const char *name, *summary, *usage, *text, *options, *example; /* options: sections and keys, "" none */
    const char *flag;                                              /* one word of its own ("--device"), "" none */
    verb_kind   kind;
    verb_run    run;
} verb;

bool verb_prep(app *a, status *st);
bool verb_split(app *a, status *st);
bool verb_check(app *a, status *st);
bool verb_info(app *a, status *st);
bool verb_train(app *a, status *st);
bool verb_encode(app *a, status *st);
bool verb_tokens(app *a, status *st);
bool verb_sample(app *a, status *st);
bool verb_eval(app *a, status *st);
bool verb_report(app *a, status *st);
bool verb_bench(app *a, status *st);
bool verb_export(app *a, status *st);
bool verb_import(app *a, status *st);

/* Parses, dispatches, agrees, prints the one line of an error. Returns the exit code, the same on all ranks. */
int app_main(const comm *world, int argc, char **argv);
