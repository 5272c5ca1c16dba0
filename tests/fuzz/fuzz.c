#include "fuzz/fuzz.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/rng.h"
#include "harness/harness.h"

static const char      *running = "";
static volatile int64_t at;
static char             refusal[512]; /* the last one */

static void on_signal(int s) {
    char text[200];
    int  n = snprintf(text, sizeof text, "signal %d in mutation %lld of %s\n", s, (long long)at, running);
    if (write(STDERR_FILENO, text, (size_t)n) < 0) _exit(2);
    signal(s, SIG_DFL);
    raise(s);
}

static void on_fatal(const char *message) {
    fprintf(stderr, "%s\nfatal in mutation %lld of %s\n", message, (long long)at, running);
    _exit(1);
}

/* ---- mutation --------------------------------------------------------------------------------------------------- */

typedef struct {
    uint8_t *b;
    int64_t  n, most;
    rng_key  key;
    uint64_t i;
} work;

static int64_t below(work *w, int64_t n) {
    uint64_t high = rng_u32(w->key, w->i), low = rng_u32(w->key, w->i + 1);
    w->i += 2;
    return n > 0 ? (int64_t)((high << 32 | low) % (uint64_t)n) : 0;
}

static void insert(work *w, int64_t where, const void *bytes, int64_t n) {
    if (w->n + n > w->most) n = w->most - w->n;
    if (n <= 0) return;
    memmove(w->b + where + n, w->b + where, (size_t)(w->n - where));
    memcpy(w->b + where, bytes, (size_t)n);
    w->n += n;
}

static void drop(work *w, int64_t where, int64_t n) {
    memmove(w->b + where, w->b + where + n, (size_t)(w->n - where - n));
    w->n -= n;
}

static const char *const numbers[] = {
    "0",     "-1",  "1",      "4294967295", "9223372036854775807",  "-9223372036854775808",
    "1e999", "nan", "0.0001", "65536",      "18446744073709551616", "[]",
    "{}"};

static void mutate_once(work *w, const fuzz_target *t) {
    int64_t where = below(w, w->n + 1), n;
    uint8_t byte = (uint8_t)below(w, 256);
    switch (below(w, 12)) {
    case 0: /* one bit */
        if (where < w->n) w->b[where] ^= (uint8_t)(1 << below(w, 8));
        break;
    case 1:
        if (where < w->n) w->b[where] = byte;
        break;
    case 2:
        insert(w, where, &byte, 1);
        break;
    case 3: /* a piece less */
        n = below(w, w->n - where < 64 ? w->n - where + 1 : 64);
        drop(w, where, n <= w->n - where ? n : w->n - where);
        break;
    case 4: /* cut off */
        if (below(w, 8) == 0) w->n = where;
        break;
    case 5: { /* a piece twice */
        uint8_t piece[256];
        n = below(w, 256);
        if (n > w->n - where) n = w->n - where;
        memcpy(piece, w->b + where, (size_t)n);
        insert(w, below(w, w->n + 1), piece, n);
        break;
    }
    case 6: { /* an extreme number of 1, 2, 4 or 8 bytes */
        static const uint64_t extreme[] = {0,
                                           1,
                                           0x7f,
                                           0x80,
                                           0xff,
                                           0x7fff,
                                           0xffff,
                                           0x7fffffff,
                                           0x80000000,
                                           0xffffffff,
                                           0x7fffffffffffffff,
                                           0x8000000000000000,
                                           0xffffffffffffffff};
        uint64_t              v = extreme[below(w, sizeof extreme / sizeof extreme[0])];
        n = (int64_t)1 << below(w, 4);
        if (where + n <= w->n) memcpy(w->b + where, &v, (size_t)n);
        break;
    }
    case 7: { /* a small step of a byte or of a number */
        n = (int64_t)1 << below(w, 4);
        uint64_t v = 0;
        if (where + n > w->n) break;
        memcpy(&v, w->b + where, (size_t)n);
        v += (uint64_t)(below(w, 33) - 16);
        memcpy(w->b + where, &v, (size_t)n);
        break;
    }
    case 8: /* an extreme number in text */
    case 9: {
        const char *text = numbers[below(w, sizeof numbers / sizeof numbers[0])];
        int64_t     from = where;
        while (from < w->n && !(w->b[from] >= '0' && w->b[from] <= '9')) from++;
        n = 0;
        while (from + n < w->n && w->b[from + n] >= '0' && w->b[from + n] <= '9') n++;
        drop(w, from, n);
        insert(w, from, text, (int64_t)strlen(text));
        break;
    }
    case 10:
        if (t->n_words) {
            const char *word = t->word[below(w, t->n_words)];
            insert(w, where, word, (int64_t)strlen(word));
        }
        break;
    default: { /* the start of one and the end of another */
        int other = (int)below(w, t->n_seeds);
        n = t->size[other];
        int64_t from = below(w, n + 1);
        if (below(w, 4)) break;
        w->n = where;
        insert(w, where, t->seed[other] + from, n - from);
        break;
    }
    }
}

static void mutate(const fuzz_target *t, int64_t k, uint8_t *buffer, int64_t *n) {
    work w = {.b = buffer, .most = t->most, .key = {hash_text(t->name), RNG_TEST, 0, (uint64_t)k}};
    int  from = (int)below(&w, t->n_seeds);
    w.n = t->size[from] < t->most ? t->size[from] : t->most;
    memcpy(w.b, t->seed[from], (size_t)w.n);
    for (int64_t times = 1 + below(&w, 1 + below(&w, 8)); times > 0; times--) mutate_once(&w, t);
    w.b[w.n] = 0;
    *n = w.n;
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

static void run_target(const fuzz_target *t, int64_t first, int64_t count, double seconds) {
    uint8_t *buffer = malloc((size_t)t->most + 1);
    int64_t  taken = 0, n, done = 0;
    double   t0 = now_seconds();
    CHECK(buffer && t->n_seeds > 0, "no seeds for %s", t->name);
    running = t->name;
    for (int i = 0; i < t->n_seeds; i++) {
        at = -1 - i;
        CHECK(t->size[i] <= t->most, "seed %d of %s has %lld bytes, over %lld", i, t->name, (long long)t->size[i],
              (long long)t->most);
        memcpy(buffer, t->seed[i], (size_t)t->size[i]);
        buffer[t->size[i]] = 0;
        CHECK(t->run(t->user, buffer, t->size[i]), "seed %d of %s is refused: %s", i, t->name, refusal);
    }
    for (int64_t k = first; k < first + count && now_seconds() - t0 < seconds; k++, done++) {
        at = k;
        mutate(t, k, buffer, &n);
        taken += t->run(t->user, buffer, n);
    }
    printf("%s: %lld of %lld mutations in %.1f s, %lld taken\n", t->name, (long long)done, (long long)count,
           now_seconds() - t0, (long long)taken);
    CHECK(count < 1000 || taken < done, "%s: not one mutation was refused", t->name);
    free(buffer);
}

void fuzz_main(int argc, char **argv, const fuzz_target *t, int n_targets) {
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    const char      *given = getenv("D3S2_FUZZ_SECONDS");
    double           seconds = given ? atof(given) : 10;
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) signal(signals[i], on_signal);
    fatal_set_hook(on_fatal);
    log_init(0, 1, LOG_QUIET);
    for (int i = 0; i < n_targets; i++) {
        if (argc > 1)
            run_target(&t[i], atoll(argv[1]), argc > 2 ? atoll(argv[2]) : 1, 1e9);
        else
            run_target(&t[i], 0, given ? INT64_MAX : t[i].count, seconds);
    }
}

const char *fuzz_file(const uint8_t *bytes, int64_t n) {
    static char path[256];
    snprintf(path, sizeof path, "%.200s/mutated", temp_folder());
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(bytes, 1, (size_t)n, f) == (size_t)n && fclose(f) == 0, "%s cannot be written", path);
    return path;
}

void fuzz_refusal(const status *st, const char *where) {
    snprintf(refusal, sizeof refusal, "%s", st->text);
    CHECK(st->code == ST_USAGE || st->code == ST_DATA || st->code == ST_NO_INPUT || st->code == ST_CONFIG,
          "refused with code %d: %s", (int)st->code, st->text);
    CHECK(st->text[0] && !strchr(st->text, '\n') && strstr(st->text, where), "refused without '%s': %s", where,
          st->text);
}
