#include "train/plan.h"

#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "train/plan_alike.h"

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
    CHECK(cfg->alike_steps == 0 || cfg->batch_samples > 0, "steps of tokens can not be grouped");
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
        if (p->cfg.alike_steps > 0)
            plan_alike(p->cfg.seed, epoch, n, p->cfg.batch_samples, p->cfg.alike_steps,
                       p->cfg.tokens + p->cfg.group[g].first, s->order[slot]);
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
    int64_t cost, at; /* at: item of the step, or a rank */
} weighed;

static int most_first(const void *pa, const void *pb) {
    const weighed *a = pa, *b = pb;
    if (a->cost != b->cost) return a->cost > b->cost ? -1 : 1;
    return (a->at > b->at) - (a->at < b->at);
}

/* ---- ranks ------------------------------------------------------------------------------------------------------ */

static bool less_loaded(const weighed *a, const weighed *b) {
    return a->cost != b->cost ? a->cost < b->cost : a->at < b->at;
}

/* The root of a heap of ranks has got more: down to its place. */
static void sink(weighed *heap, int n) {
    for (int i = 0, k; (k = 2 * i + 1) < n; i = k) {
        if (k + 1 < n && less_loaded(&heap[k + 1], &heap[k])) k++;
        if (!less_loaded(&heap[k], &heap[i])) return;
        weighed t = heap[i];
        heap[i] = heap[k];
        heap[k] = t;
    }
}

/* Costliest first to the least loaded rank. */
static void deal(plan_step *s, const weighed *w, int world) {
    weighed *heap = grab(world, sizeof *heap);
    for (int r = 0; r < world; r++) heap[r].at = r;
    for (int64_t i = 0; i < s->n_items; i++) {
        s->item[w[i].at].rank = (int)heap[0].at;
        heap[0].cost += w[i].cost;
        s->cost += w[i].cost;
        if (heap[0].cost > s->slowest) s->slowest = heap[0].cost;
        sink(heap, world);
    }
    s->balance = s->slowest > 0 ? (double)s->cost / world / (double)s->slowest : 1;
    free(heap);
}

/* ---- micro-batches ---------------------------------------------------------------------------------------------- */

/* One rank's items, costliest first, first fit. load: scratch, one for each item. */
static int first_fit(plan_step *s, const int64_t *tokens, const int64_t *item, int64_t n_items, int64_t limit,
                     int64_t *load) {
    int n = 0;
    for (int64_t i = 0; i < n_items; i++) {
        plan_item *it = &s->item[item[i]];
        int        m = 0;
        while (m < n && load[m] + tokens[it->index] > limit) m++;
        if (m == n) load[n++] = 0;
        load[m] += tokens[it->index];
        it->micro = m;
    }
    return n;
}

/* As many micro-batches, but even ones if the items go into them: less memory, and more of backward is left in the last
 * one, beside which sums travel. Each item goes to the one with the fewest tokens. */
static void even_out(plan_step *s, const int64_t *tokens, const int64_t *item, int64_t n_items, int n, int64_t limit,
                     int64_t *load) {
    int *micro = grab(n_items, sizeof *micro);
    bool fits = true;
    memset(load, 0, (size_t)n * sizeof *load);
    for (int64_t i = 0; i < n_items && fits; i++) {
        for (int m = 1; m < n; m++)
            if (load[m] < load[micro[i]]) micro[i] = m;
        load[micro[i]] += tokens[s->item[item[i]].index];
        fits = load[micro[i]] <= limit;
    }
    for (int64_t i = 0; i < n_items && fits; i++) s->item[item[i]].micro = micro[i];
    free(micro);
}

static int pack(plan_step *s, const int64_t *tokens, const int64_t *item, int64_t n_items, int64_t limit,
                int64_t *load) {
    int n = first_fit(s, tokens, item, n_items, limit, load);
    if (n > 1 && n < n_items) even_out(s, tokens, item, n_items, n, limit, load);
    return n;
}

/* The items of w rank by rank, in their order; then each rank's into micro-batches. */
static void pack_all(plan_step *s, const plan_config *cfg, const weighed *w, int world) {
    int64_t *first = grab(world + 1, sizeof *first), *item = grab(s->n_items, sizeof *item),
            *load = grab(s->n_items, sizeof *load);
    for (int64_t i = 0; i < s->n_items; i++) first[s->item[i].rank + 1]++;
    for (int r = 0; r < world; r++) first[r + 1] += first[r];
    for (int64_t i = 0; i < s->n_items; i++) item[first[s->item[w[i].at].rank]++] = w[i].at;
    for (int r = 0; r < world; r++) { /* first[r] is now where rank r ends */
        int64_t at = r ? first[r - 1] : 0;
        s->n_micro[r] = pack(s, cfg->tokens, item + at, first[r] - at, cfg->micro_tokens, load);
    }
    free(first);
    free(item);
    free(load);
}

/* ---- the step --------------------------------------------------------------------------------------------------- */

/* A batch that touches two epochs, or more, may hold a sample twice. */
static void count_copies(plan_step *s, weighed *w) {
    for (int64_t i = 0; i < s->n_items; i++) w[i] = (weighed){s->item[i].index, i};
    qsort(w, (size_t)s->n_items, sizeof *w, most_first);
    for (int64_t i = 1; i < s->n_items; i++)
        if (w[i].cost == w[i - 1].cost) s->item[w[i].at].copy = s->item[w[i - 1].at].copy + 1;
}

plan_step plan_of_step(plan *p, int64_t step, int world) {
    CHECK(step >= 0 && world > 0, "step %lld on %d ranks", (long long)step, world);
    int       g = group_of(p, step);
    int64_t   first = batch_first(p, g, step), end = batch_end(p, g, first), n = p->cfg.group[g].n;
    plan_step s = {.step = step, .group = g, .first_position = first, .n_items = end - first, .epoch = first / n};
    s.item = grab(s.n_items, sizeof *s.item);
    s.n_micro = grab(world, sizeof *s.n_micro);
    weighed *w = grab(s.n_items, sizeof *w);
    for (int64_t i = 0; i < s.n_items; i++)
        s.item[i] = (plan_item){.index = stream_at(p, g, first + i), .position = first + i};
    if (first / n != (end - 1) / n) count_copies(&s, w);
    for (int64_t i = 0; i < s.n_items; i++) {
        int64_t tokens = p->cfg.tokens[s.item[i].index];
        w[i] = (weighed){cost_of(&p->cfg.cost, tokens), i};
        s.tokens += tokens;
    }
    qsort(w, (size_t)s.n_items, sizeof *w, most_first);
    deal(&s, w, world);
    pack_all(&s, &p->cfg, w, world);
    free(w);
    return s;
}

void plan_loads(const plan *p, const plan_step *s, int world, int64_t *out) {
    memset(out, 0, (size_t)world * sizeof *out);
    for (int64_t i = 0; i < s->n_items; i++)
        out[s->item[i].rank] += cost_of(&p->cfg.cost, p->cfg.tokens[s->item[i].index]);
}

double plan_balance(const plan_config *cfg, int64_t steps, int world) {
    plan  *p = plan_new(cfg);
    double mean = 0, slowest = 0;
    for (int64_t step = 0; step < steps; step++) {
        plan_step s = plan_of_step(p, step, world);
        mean += (double)s.cost / world;
        slowest += (double)s.slowest;
        plan_step_free(&s);
    }
    plan_free(p);
    return slowest > 0 ? mean / slowest : 1;
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
