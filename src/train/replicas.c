#include "train/replicas.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_MENDED = 2 };

typedef struct {
    uint64_t hash;
    char     host[56];
} replica;

static uint64_t weights_hash(const params *p) {
    const float *w = p->w16 ? (const float *)(const void *)p->w16 : p->w; /* bits, whatever they mean */
    int64_t      n = p->w16 ? p->total / 2 : p->total;
    return slab_hash(p->dev, w, n);
}

int replicas_majority(const uint64_t *hash, int n) {
    int best = 0, lead = 0; /* Boyer and Moore's vote */
    for (int i = 0; i < n; i++) {
        if (lead == 0) best = i;
        lead += hash[i] == hash[best] ? 1 : -1;
    }
    int votes = 0;
    for (int i = 0; i < n; i++) votes += hash[i] == hash[best];
    for (int i = 0; 2 * votes > n && i < n; i++)
        if (hash[i] == hash[best]) return i;
    return -1;
}

/* Names of the ranks that are not like `like`. */
static void list_others(const replica *all, const uint64_t *hash, int n, int like, char *text, size_t cap) {
    size_t at = 0;
    text[0] = 0;
    for (int i = 0; i < n && at + 80 < cap; i++)
        if (like < 0 || hash[i] != hash[like])
            at += (size_t)snprintf(text + at, cap - at, "%srank %d on %s (%016llx)", at ? ", " : "", i, all[i].host,
                                   (unsigned long long)hash[i]);
}

static void mend(ctx *c, const comm *ranks, const optimizer *x, int owner) {
    params *p = x->p;
    if (x->sharded) {
        comm_share(ranks, x->share, x->n_share);
        return;
    }
    tensor w = tensor_wrap(p->w, DT_F32, DIMS(p->total));
    w.dev = p->dev;
    comm_share(ranks, &(comm_piece){w, owner}, 1);
    params_refresh16(c, p);
}

bool replicas_check(replica_check *k, ctx *c, const comm *ranks, const optimizer *x, int64_t step, status *st) {
    double    t = now_seconds();
    int       n = ranks->size;
    replica   own = {.hash = weights_hash(x->p)}, *all = malloc((size_t)n * sizeof *all);
    uint64_t *hash = malloc((size_t)n * sizeof *hash);
    char      who[400];
    CHECK(all && hash, "no memory for %d hashes", n);
    gethostname(own.host, sizeof own.host - 1);
    comm_all_gather(ranks, &own, all, sizeof own);
    bool same = true;
    for (int i = 0; i < n; i++) {
        hash[i] = all[i].hash;
        same &= hash[i] == hash[0];
    }
    k->checks++;
    k->seconds = now_seconds() - t;
    if (!same) {
        int like = replicas_majority(hash, n);
        list_others(all, hash, n, like, who, sizeof who);
        if ((like < 0 && !x->sharded) || k->mended >= MOST_MENDED) {
            status_set(st, ST_INTERNAL, "after step %lld the ranks' weights differ%s: %s", (long long)step,
                       k->mended >= MOST_MENDED ? " once more" : " and no majority agrees", who);
        } else {
            if (ranks->rank == 0)
                log_warn("after step %lld other weights than on the other ranks: %s; mended. Memory or processor there "
                         "may be bad",
                         (long long)step, who);
            mend(c, ranks, x, like);
            k->mended++;
        }
    }
    free(all);
    free(hash);
    return status_ok(st);
}
