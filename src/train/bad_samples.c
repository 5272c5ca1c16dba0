#include "train/bad_samples.h"

#include <stdlib.h>
#include <string.h>

enum { FOUND = sizeof(((bad_samples *)0)->found) / sizeof(int64_t) };

typedef struct {
    int64_t n, index[FOUND];
    char    text[512];
} message;

void bad_samples_free(bad_samples *b) {
    free(b->index);
    *b = (bad_samples){0};
}

void bad_samples_note(bad_samples *b, const micro_batch *m) {
    if (m->n_bad > 0 && b->n_found == 0) snprintf(b->text, sizeof b->text, "%s", m->bad_text);
    for (int64_t i = 0; i < m->n_bad && b->n_found < FOUND; i++) b->found[b->n_found++] = m->bad[i];
}

static bool add(bad_samples *b, int64_t index) {
    for (int64_t i = 0; i < b->n; i++)
        if (b->index[i] == index) return false;
    b->index = realloc(b->index, (size_t)(b->n + 1) * sizeof *b->index);
    CHECK(b->index, "no memory for %lld bad samples", (long long)b->n);
    b->index[b->n++] = index;
    return true;
}

bool bad_samples_join(bad_samples *b, const comm *c, int64_t n_samples, double share, status *st) {
    message own = {.n = b->n_found}, *all = malloc((size_t)c->size * sizeof *all);
    int64_t most = (int64_t)(share * (double)n_samples);
    CHECK(all, "no memory for %d messages", c->size);
    memcpy(own.index, b->found, sizeof own.index);
    memcpy(own.text, b->text, sizeof own.text);
    comm_all_gather(c, &own, all, sizeof own);
    for (int r = 0; r < c->size; r++) {
        bool is_new = false;
        for (int64_t i = 0; i < all[r].n; i++) is_new |= add(b, all[r].index[i]);
        if (b->n > most && all[r].n > 0)
            status_set(st, ST_DATA, "%.380s (%lld bad of %lld samples, data.max_bad_samples allows %lld)", all[r].text,
                       (long long)b->n, (long long)n_samples, (long long)most);
        else if (is_new && c->rank == 0)
            log_warn("a sample is left out: %s (%lld bad of %lld)", all[r].text, (long long)b->n, (long long)n_samples);
    }
    b->n_found = 0;
    free(all);
    return status_ok(st);
}
