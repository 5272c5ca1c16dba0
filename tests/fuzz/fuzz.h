/* Mutation of good files in one process: seeds are made by the tests, changed by a counter-based random stream and
 * given to a parser. Mutation k is a pure function of (name, k), so a failure is repeated by its number.
 *
 *   PROGRAM                  as many mutations as the test asks for, or as many as fit into 10 s (D3S2_FUZZ_SECONDS)
 *   PROGRAM FIRST [COUNT]    mutations FIRST .. FIRST+COUNT-1 of every target, COUNT 1
 *
 * A fatal message, a signal or a memory error ends the program with the target and the number. */
#pragma once
#include "core/base.h"

typedef struct {
    const char     *name;
    const uint8_t **seed; /* [n_seeds] good inputs */
    const int64_t  *size;
    int             n_seeds;
    const char    **word; /* [n_words] pieces of the format, put in now and then */
    int             n_words;
    int64_t         most; /* bytes of an input at most */
    int64_t         count;
    /* `bytes` has a zero after n of them. Returns whether the parser took the input. */
    bool (*run)(void *user, const uint8_t *bytes, int64_t n);
    void *user;
} fuzz_target;

/* The seeds as they are must be taken. Prints how many mutations were taken and refused. */
void fuzz_main(int argc, char **argv, const fuzz_target *t, int n_targets);

/* A file with these bytes; the next call replaces it. */
const char *fuzz_file(const uint8_t *bytes, int64_t n);
/* What a refusal must look like: a code, one line of text that names `where`. Fatal otherwise. */
void        fuzz_refusal(const status *st, const char *where);
