/* Who trains what at step n: a pure function of the seed, the step, the data index, the options and the number of
 * ranks. Nothing else decides, so resume needs only the step number and a run may continue on another number of ranks.
 *
 *   groups:  with several (folders of one resolution each) a step takes one, drawn by `share` with the key
 *            (seed, RNG_GROUP, step). Each has a stream of its own.
 *   stream:  epoch after epoch, each a permutation of the group keyed (seed, RNG_ORDER, group, epoch); no rank in it.
 *            With alike_steps the samples of so many steps are sorted into each other by size, and the steps' order
 *            drawn (plan_alike.h); no rank and no cost in it either.
 *   batch n: the next `batch_samples` samples of the stream, or as many as fit into `batch_tokens` (at least one).
 *   ranks:   costliest sample first to the least loaded rank; ties go to the lower position, the lower rank.
 *   micro:   a rank's samples, largest first, into the first micro-batch with room (micro_tokens); a larger sample has
 *            one of its own. Then as many micro-batches are filled evenly, if that keeps within micro_tokens. Ranks
 * need not have equal numbers of them: only the sums at the end of a step are common. */
#pragma once
#include "core/base.h"
#include "train/cost_model.h"

enum { PLAN_GROUPS = 16 };

typedef struct {
    int64_t first, n; /* samples first .. first+n-1 of the data set */
    double  share;    /* relative to the others'; at least one is above 0 */
} plan_group;

typedef struct {
    uint64_t       seed;
    int64_t        n_samples;
    int            n_groups; /* 0: all samples are one */
    plan_group     group[PLAN_GROUPS];
    const int64_t *tokens;        /* [n_samples], kept by the caller */
    int64_t        batch_samples; /* > 0, or 0: by tokens */
    int64_t        batch_tokens;
    int64_t        micro_tokens; /* 0: one sample per micro-batch */
    cost_model     cost;         /* decides about ranks only */
    int64_t        alike_steps;  /* 0: the stream as drawn; with batch_samples only */
} plan_config;

typedef struct {
    int64_t index;       /* into the data set */
    int64_t position;    /* in its group's stream */
    int     copy;        /* how many times the same index came earlier in this batch (small data sets) */
    int     rank, micro; /* micro: number within the rank */
} plan_item;

typedef struct {
    int64_t    step, first_position, n_items, tokens;
    int        group;
    plan_item *item;          /* [n_items] in stream order */
    int64_t    epoch;         /* of the first item, in its group */
    int       *n_micro;       /* [world] */
    int64_t    cost, slowest; /* nanoseconds by the cost model: of all ranks, of the slowest */
    double     balance;       /* mean over the ranks / slowest rank: 1 is even */
} plan_step;

typedef struct plan plan;

plan *plan_new(const plan_config *cfg);
void  plan_free(plan *p);

/* The step's batch over `world` ranks, in O(n log n) for n samples and ranks. The result belongs to the caller:
 * plan_step_free. A plan object only remembers permutations and where earlier batches ended. */
plan_step plan_of_step(plan *p, int64_t step, int world);
void      plan_step_free(plan_step *s);

/* Items of one micro-batch of one rank, in stream order; returns the count, out has room for n_items. */
int64_t  plan_micro(const plan_step *s, int rank, int micro, const plan_item **out);
/* Costs of all ranks in nanoseconds, out[world]. */
void     plan_loads(const plan *p, const plan_step *s, int world, int64_t *out);
/* Mean over the ranks / slowest rank of the first steps, weighted by time: what share of the ranks' time is used. */
double   plan_balance(const plan_config *cfg, int64_t steps, int world);
/* Order and content of the global batch, independent of the ranks. */
uint64_t plan_fingerprint(const plan_step *s, const uint64_t *ids);
/* Stands for a sample in random keys: its id, or a hash of id and copy, so that copies get noise of their own. */
uint64_t plan_key(uint64_t id, int copy);
