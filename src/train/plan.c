#include "train/plan.h"

#include <stdlib.h>
#include <string.h>

#include "core/rng.h"

struct plan {
    plan_config cfg;
    int64_t     epoch[2]; /* of the two permutations kept */
    int64_t    *order[2];
    int64_t     known_step, known_first; /* by tokens: a batch whose start is known */
};

static void *grab(int64_t n, size_t width) {
    void *p = calloc((size_t)(n > 0 ? n : 1), width);
    CHECK(p, "no memory for a plan of %lld entries", (long long)n);
    return p;
}

plan *plan_new(const plan_config *cfg) {
    CHECK(cfg->n_samples > 0 && (cfg->batch_samples > 0 || cfg->batch_tokens > 0), "%lld samples, batch of %lld",
          (long long)cfg->n_samples, (long long)cfg->batch_samples);
    plan *p = grab(1, sizeof *p);
    *p = (plan){.cfg = *cfg, .epoch = {-1, -1}};
    for (int i = 0; i < 2; i++) p->order[i] = grab(cfg->n_samples, sizeof(int64_t));
    return p;
}

void plan_free(plan *p) {
    if (!p) return;
    free(p->order[0]);
    free(p->order[1]);
    free(p);
}

static int64_t stream_at(plan *p, int64_t position) {
    int64_t n = p->cfg.n_samples, epoch = position / n;
    int     slot = (int)(epoch & 1);
    if (p->epoch[slot] != epoch) {
        rng_permutation((rng_key){.seed = p->cfg.seed, .purpose = RNG_ORDER, .sample = (uint64_t)epoch}, n,
                        p->order[slot]);
        p->epoch[slot] = epoch;
    }
    return p->order[slot][position % n];
}

static int64_t batch_end(plan *p, int64_t first) {
    int64_t tokens = 0, at = first;
    if (p->cfg.batch_samples > 0) return first + p->cfg.batch_samples;
    do {
        tokens += p->cfg.tokens[stream_at(p, at++)];
    } while (tokens + p->cfg.tokens[stream_at(p, at)] <= p->cfg.batch_tokens);
    return at;
}

static int64_t batch_first(plan *p, int64_t step) {
    if (p->cfg.batch_samples > 0) return step * p->cfg.batch_samples;
    if (step < p->known_step) p->known_step = p->known_first = 0;
    for (; p->known_step < step; p->known_step++) p->known_first = batch_end(p, p->known_first);
    return p->known_first;
}

typedef struct {
    int64_t cost, at; /* at: item of the step */
} weighed;

static int largest_first(const void *pa, const void *pb) {
    const weighed *a = pa, *b = pb;
    if (a->cost != b->cost) return a->cost > b->cost ? -1 : 1;
    return (a->at > b->at) - (a->at < b->at);
}

/* Micro-batches of one rank: first fit over the samples in descending size. */
static int pack(plan_step *s, const weighed *w, int rank, int64_t limit) {
    int      n = 0;
    int64_t *load = grab(s->n_items, sizeof *load);
    for (int64_t i = 0; i < s->n_items; i++) {
        plan_item *it = &s->item[w[i].at];
        if (it->rank != rank) continue;
        int m = 0;
        while (m < n && load[m] + w[i].cost > limit) m++;
        if (m == n) n++;
        load[m] += w[i].cost;
        it->micro = m;
    }
    free(load);
    return n;
}

static int count_copies(const plan_step *s, int64_t i) {
    int n = 0;
    for (int64_t j = 0; j < i; j++) n += s->item[j].index == s->item[i].index;
    return n;
}

plan_step plan_of_step(plan *p, int64_t step, int world) {
    CHECK(step >= 0 && world > 0, "step %lld on %d ranks", (long long)step, world);
    int64_t   first = batch_first(p, step), end = batch_end(p, first);
    plan_step s = {.step = step, .first_position = first, .n_items = end - first, .epoch = first / p->cfg.n_samples};
    s.item = grab(s.n_items, sizeof *s.item);
    s.n_micro = grab(world, sizeof *s.n_micro);
    weighed *w = grab(s.n_items, sizeof *w);
    int64_t *load = grab(world, sizeof *load), most = 0;
    bool     repeats = first / p->cfg.n_samples != (end - 1) / p->cfg.n_samples;
    for (int64_t i = 0; i < s.n_items; i++) {
        s.item[i] = (plan_item){.index = stream_at(p, first + i), .position = first + i};
        if (repeats) s.item[i].copy = count_copies(&s, i);
        w[i] = (weighed){p->cfg.tokens[s.item[i].index], i};
        s.tokens += w[i].cost;
    }
    qsort(w, (size_t)s.n_items, sizeof *w, largest_first);
    for (int64_t i = 0; i < s.n_items; i++) {
        int best = 0;
        for (int r = 1; r < world; r++)
            if (load[r] < load[best]) best = r;
        load[best] += w[i].cost;
        s.item[w[i].at].rank = best;
    }
    for (int r = 0; r < world; r++) {
        s.n_micro[r] = pack(&s, w, r, p->cfg.micro_tokens);
        if (load[r] > most) most = load[r];
    }
    s.balance = s.tokens > 0 ? (double)most * world / (double)s.tokens : 1.0;
    free(load);
    free(w);
    return s;
}

void plan_step_free(plan_step *s) {
    free(s->item);
    free(s->n_micro);
    *s = (plan_step){0};
}

int64_t plan_micro(const plan_step *s, int rank, int micro, const plan_item **out) {
    int64_t n = 0;
    for (int64_t i = 0; i < s->n_items; i++)
        if (s->item[i].rank == rank && s->item[i].micro == micro) out[n++] = &s->item[i];
    return n;
}

uint64_t plan_fingerprint(const plan_step *s, const uint64_t *ids) {
    uint64_t h = (uint64_t)s->step;
    for (int64_t i = 0; i < s->n_items; i++) h = hash_bytes(&ids[s->item[i].index], sizeof(uint64_t), h);
    return h;
}

uint64_t plan_key(uint64_t id, int copy) {
    return copy == 0 ? id : hash_bytes(&copy, sizeof copy, id);
}
