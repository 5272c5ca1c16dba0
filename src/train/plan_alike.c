#include "train/plan_alike.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    int64_t tokens, at, index; /* at: where it was drawn */
} sized;

static int by_tokens(const void *pa, const void *pb) {
    const sized *a = pa, *b = pb;
    if (a->tokens != b->tokens) return a->tokens < b->tokens ? -1 : 1;
    return (a->at > b->at) - (a->at < b->at);
}

/* n_batches batches behind `head` samples and in front of `tail`, from order[0] on. */
static void group_window(rng_key key, int64_t n_batches, int64_t batch, int64_t head, int64_t tail,
                         const int64_t *tokens, int64_t *order) {
    int64_t  n = head + n_batches * batch + tail, middle = n_batches * batch / 2;
    sized   *s = malloc((size_t)(n + 1) * sizeof *s);
    int64_t *place = malloc((size_t)(n_batches + 1) * sizeof *place);
    CHECK(s && place, "no memory for a window of %lld samples", (long long)n);
    for (int64_t i = 0; i < n; i++) s[i] = (sized){tokens[order[i]], i, order[i]};
    qsort(s, (size_t)n, sizeof *s, by_tokens);
    rng_permutation(key, n_batches, place);
    for (int64_t i = 0; i < head; i++) order[i] = s[middle + i].index;
    for (int64_t i = 0; i < tail; i++) order[n - tail + i] = s[middle + head + i].index;
    for (int64_t i = 0; i < n_batches * batch; i++)
        order[head + place[i / batch] * batch + i % batch] = s[i < middle ? i : i + head + tail].index;
    free(s);
    free(place);
}

void plan_alike(uint64_t seed, int64_t epoch, int64_t n, int64_t batch, int64_t window_steps, const int64_t *tokens,
                int64_t *order) {
    int64_t over = epoch % batch * (n % batch) % batch; /* of epoch * n positions, those behind the last whole batch */
    int64_t head = over ? batch - over : 0;
    if (head > n) head = n;
    int64_t n_batches = (n - head) / batch, tail = n - head - n_batches * batch;
    int64_t n_windows = (n_batches + window_steps - 1) / window_steps;
    for (int64_t w = 0; w < n_windows; w++) {
        int64_t first = n_batches / n_windows * w + n_batches % n_windows * w / n_windows,
                end = n_batches / n_windows * (w + 1) + n_batches % n_windows * (w + 1) / n_windows;
        rng_key key = {.seed = seed, .purpose = RNG_STEP_ORDER, .step = (uint64_t)w, .sample = (uint64_t)epoch};
        group_window(key, end - first, batch, w == 0 ? head : 0, w + 1 == n_windows ? tail : 0, tokens,
                     order + (w == 0 ? 0 : head + first * batch));
    }
}
