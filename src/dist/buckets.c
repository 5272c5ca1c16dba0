#include "dist/buckets.h"

#include <stdlib.h>
#include <string.h>

/* Last layers first; what ends with the whole backward (-1) at the end; then by place. */
static int by_completion(const void *pa, const void *pb) {
    const bucket *a = pa, *b = pb;
    if (a->min_layer != b->min_layer) return a->min_layer > b->min_layer ? -1 : 1;
    return (a->first < b->first) - (a->first > b->first);
}

void buckets_init(buckets *b, const comm *c, const bucket_row *rows, int n_rows, int64_t total, int64_t bucket_bytes) {
    *b = (buckets){.c = c, .item = calloc((size_t)n_rows + 1, sizeof(bucket))};
    CHECK(b->item, "no memory for %d buckets", n_rows);
    int64_t least = bucket_bytes / (int64_t)sizeof(float);
    for (int i = 0; i < n_rows; i++) {
        bucket *open = b->n ? &b->item[b->n - 1] : NULL;
        CHECK(i == 0 || rows[i].offset > rows[i - 1].offset, "row %d of the slab is out of order", i);
        if (rows[i].layer >= b->n_layers) b->n_layers = rows[i].layer + 1;
        bool split = !open || (rows[i].offset - open->first >= least && rows[i].layer != rows[i - 1].layer);
        if (split) {
            open = &b->item[b->n++];
            *open = (bucket){.first = rows[i].offset, .min_layer = rows[i].layer};
        }
        if (rows[i].layer < open->min_layer) open->min_layer = rows[i].layer;
    }
    for (int i = 0; i < b->n; i++) b->item[i].count = (i + 1 < b->n ? b->item[i + 1].first : total) - b->item[i].first;
    if (b->n) CHECK(b->item[0].first == 0, "the slab starts at %lld", (long long)b->item[0].first);
    qsort(b->item, (size_t)b->n, sizeof *b->item, by_completion);
    b->layer_done = calloc((size_t)b->n_layers + 1, sizeof(bool));
    CHECK(b->layer_done, "no memory for %d layers", b->n_layers);
}

void buckets_slice(buckets *b, const int64_t *slice) {
    size_t n = (size_t)b->c->size + 1;
    b->slice = malloc(n * sizeof *b->slice);
    b->part = malloc(n * sizeof *b->part);
    CHECK(b->slice && b->part, "no memory for %zu slices", n);
    memcpy(b->slice, slice, n * sizeof *slice);
}

void buckets_free(buckets *b) {
    free(b->slice);
    free(b->part);
    free(b->item);
    free(b->layer_done);
    *b = (buckets){0};
}

void buckets_begin(buckets *b, const tensor *slab) {
    CHECK(b->n_started == 0, "a reduction has not been finished");
    b->slab = *slab;
    memset(b->layer_done, 0, (size_t)b->n_layers * sizeof(bool));
}

static bool travels_narrow(const buckets *b) {
    return b->narrow.data && b->c->size > 1;
}

/* The slices as elements of one bucket: most are empty. */
static void bucket_slices(buckets *b, const bucket *k) {
    for (int r = 0; r <= b->c->size; r++) {
        int64_t at = b->slice[r] - k->first;
        b->part[r] = at < 0 ? 0 : at < k->count ? at : k->count;
    }
}

static void start_next(buckets *b) {
    bucket *k = &b->item[b->n_started++];
    tensor  x = tensor_rows(&b->slab, k->first, k->count);
    if (travels_narrow(b)) {
        tensor y = tensor_rows(&b->narrow, k->first, k->count);
        b->cast(b->user, &x, &y);
        x = y;
    }
    if (b->slice) bucket_slices(b, k);
    k->request = comm_sum_slices_start(b->c, &x, b->slice ? b->part : NULL);
}

void buckets_layer_done(buckets *b, int layer) {
    if (layer < 0) {
        while (b->n_started < b->n) start_next(b);
        return;
    }
    if (layer < b->n_layers) b->layer_done[layer] = true;
    /* A layer is complete only when all layers after it are: the smallest layer of a bucket stands for the others. */
    while (b->n_started < b->n) {
        const bucket *k = &b->item[b->n_started];
        if (k->min_layer < 0 || !b->layer_done[k->min_layer]) break;
        start_next(b);
    }
    comm_progress(b->c);
}

double buckets_finish(buckets *b) {
    double t = now_seconds();
    buckets_layer_done(b, -1);
    for (int i = 0; i < b->n; i++) {
        comm_wait(b->item[i].request);
        b->item[i].request = NULL;
    }
    if (travels_narrow(b)) {
        int     own = comm_own_slice(b->c);
        int64_t first = b->slice ? b->slice[own] : 0, end = b->slice ? b->slice[own + 1] : b->slab.dim[0];
        tensor  from = tensor_rows(&b->narrow, first, end - first), to = tensor_rows(&b->slab, first, end - first);
        b->cast(b->user, &from, &to);
    }
    b->n_started = 0;
    b->exposed = now_seconds() - t;
    return b->exposed;
}
