#include "train/plan.h"

#include <stdlib.h>
#include <string.h>

#include "core/rng.h"

typedef struct {
    int64_t  epoch[2]; /* of the two permutations kept */
    int64_t *order[2];
    int64_t  next; /* position after its batches before known_step */
} stream;

struct plan {
    plan_config cfg; /* with at least one group */
    stream      stream[PLAN_GROUPS];
    int64_t     known_step;
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
    *p = (plan){.cfg = *cfg};
    if (cfg->n_groups == 0) {
        p->cfg.n_groups = 1;
        p->cfg.group[0] = (plan_group){0, cfg->n_samples, 1};
    }
    double share = 0;
    for (int g = 0; g < p->cfg.n_groups; g++) {
        const plan_group *of = &p->cfg.group[g];
        CHECK(of->n > 0 && of->first >= 0 && of->first + of->n <= cfg->n_samples && of->share >= 0,
              "group %d of %lld samples from %lld on, share %g, of %lld", g, (long long)of->n, (long long)of->first,
              of->share, (long long)cfg->n_samples);
        share += of->share;
        for (int i = 0; i < 2; i++) {
            p->stream[g].epoch[i] = -1;
            p->stream[g].order[i] = grab(of->n, sizeof(int64_t));
        }
    }
    CHECK(share > 0, "the shares of all %d groups are 0", p->cfg.n_groups);
    return p;
}

void plan_free(plan *p) {
    if (!p) return;
    for (int g = 0; g < p->cfg.n_groups; g++)
        for (int i = 0; i < 2; i++) free(p->stream[g].order[i]);
    free(p);
}

/* The group that a step takes. */
static int group_of(const plan *p, int64_t step) {
    const plan_group *group = p->cfg.group;
    int               n = p->cfg.n_groups, last = 0;
    double            sum = 0, below = 0;
    if (n == 1) return 0;
    for (int g = 0; g < n; g++) sum += group[g].share;
    double at = sum * rng_uniform((rng_key){.seed = p->cfg.seed, .purpose = RNG_GROUP, .step = (uint64_t)step}, 0);
    for (int g = 0; g < n; g++) {
        if (group[g].share <= 0) continue;
        last = g;
        below += group[g].share;
        if (at < below) break;
    }
    return last;
}

static int64_t stream_at(plan *p, int g, int64_t position) {
    stream *s = &p->stream[g];
    int64_t n = p->cfg.group[g].n, epoch = position / n;
    int     slot = (int)(epoch & 1);
    if (s->epoch[slot] != epoch) {
        rng_key key = {.seed = p->cfg.seed, .purpose = RNG_ORDER, .step = (uint64_t)g, .sample = (uint64_t)epoch};
        rng_permutation(key, n, s->order[slot]);
        s->epoch[slot] = epoch;
    }
    return p->cfg.group[g].first + s->order[slot][position % n];
}

static int64_t batch_end(plan *p, int g, int64_t first) {
    int64_t tokens = 0, at = first;
    if (p->cfg.batch_samples > 0) return first + p->cfg.batch_samples;
    do {
        tokens += p->cfg.tokens[stream_at(p, g, at++)];
    } while (tokens + p->cfg.tokens[stream_at(p, g, at)] <= p->cfg.batch_tokens);
    return at;
}

/* Where the step's batch starts in the stream of its group g. */
static int64_t batch_first(plan *p, int g, int64_t step) {
    if (p->cfg.batch_samples > 0 && p->cfg.n_groups == 1) return step * p->cfg.batch_samples;
    if (step < p->known_step) {
        p->known_step = 0;
        for (int i = 0; i < p->cfg.n_groups; i++) p->stream[i].next = 0;
    }
    for (; p->known_step < step; p->known_step++) {
        int of = group_of(p, p->known_step);
        p->stream[of].next = batch_end(p, of, p->stream[of].next);
    }
    return p->stream[g].next;
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
    int       g = group_of(p, step);
    int64_t   first = batch_first(p, g, step), end = batch_end(p, g, first), n = p->cfg.group[g].n;
    plan_step s = {.step = step, .group = g, .first_position = first, .n_items = end - first, .epoch = first / n};
    s.item = grab(s.n_items, sizeof *s.item);
    s.n_micro = grab(world, sizeof *s.n_micro);
    weighed *w = grab(s.n_items, sizeof *w);
    int64_t *load = grab(world, sizeof *load), most = 0;
    bool     repeats = first / n != (end - 1) / n;
    for (int64_t i = 0; i < s.n_items; i++) {
        s.item[i] = (plan_item){.index = stream_at(p, g, first + i), .position = first + i};
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
