/* Decoding in parts (R§3.8). The transformer sees the whole sample; the convolutions of the up blocks see 2.625 tiles
 * around a voxel (1 + 1/2 + 1/2 + 1/4 + 1/4 + 1/8), so that a part with 3 or more tiles of padding gives what the whole
 * gives. A part is a list of tile rows in the order of the batch; its neighbour table is the batch's, renumbered. */
#include "model/ssvae_chunk.h"
#include "model/ssvae_parts.h"

#include <string.h>

#include "core/device.h"
#include "core/move.h"

enum { TILE_CELLS = 512 };

static bool inside(const int32_t *p, const int32_t lo[3], const int32_t hi[3], int64_t pad) {
    for (int i = 0; i < 3; i++)
        if (p[i] < lo[i] - pad || p[i] >= hi[i] + pad) return false;
    return true;
}

/* The levels of a part whose rows are known, from the batch's neighbours. */
static void part_levels(arena *host, const ssvae_batch *b, ssvae_part *p, const tensor *sample_first) {
    tensor   nb = arena_tensor(host, DT_I32, DIMS(p->n_tiles, 27));
    int32_t *at = arena_alloc(host, (size_t)b->n_tiles * sizeof *at); /* row of the batch -> row of the part */
    memset(at, 0xff, (size_t)b->n_tiles * sizeof *at);
    for (int64_t i = 0; i < p->n_tiles; i++) at[I32(&p->row)[i]] = (int32_t)i;
    for (int64_t i = 0; i < p->n_tiles; i++) {
        const int32_t *whole = I32(&b->nb) + 27 * (int64_t)I32(&p->row)[i];
        for (int k = 0; k < 27; k++) I32(&nb)[27 * i + k] = whole[k] < 0 ? -1 : at[whole[k]];
    }
    ssvae_dense_levels(host, &nb, sample_first, p->dec);
}

/* The tiles of samples s0 .. s0+n_boxes-1 inside box (n_boxes,2,3); the part's samples are these. */
static ssvae_part part_build(arena *host, const ssvae_batch *b, int s0, int n_boxes, const int32_t *box, int padding) {
    const int32_t *coord = I32(&b->coord), *first = I32(&b->sample_first);
    ssvae_part     p = {0};
    tensor         sample_first = arena_tensor(host, DT_I32, DIMS(n_boxes + 1));
    int32_t       *start = I32(&sample_first);
    for (int pass = 0; pass < 2; pass++) { /* count, then fill */
        if (pass == 1) {
            p.row = arena_tensor(host, DT_I32, DIMS(p.n_tiles));
            p.kept = arena_tensor(host, DT_I32, DIMS(p.n_kept));
            p.kept_row = arena_tensor(host, DT_I32, DIMS(p.n_kept));
        }
        p.n_tiles = p.n_kept = 0;
        for (int s = 0; s < n_boxes; s++) {
            const int32_t *lo = box + 6 * s, *hi = lo + 3;
            start[s] = (int32_t)p.n_tiles;
            for (int32_t r = first[s0 + s]; r < first[s0 + s + 1]; r++) {
                if (!inside(coord + 3 * (int64_t)r, lo, hi, padding)) continue;
                if (inside(coord + 3 * (int64_t)r, lo, hi, 0)) {
                    if (pass == 1) {
                        I32(&p.kept)[p.n_kept] = (int32_t)p.n_tiles;
                        I32(&p.kept_row)[p.n_kept] = r;
                    }
                    p.n_kept++;
                }
                if (pass == 1) I32(&p.row)[p.n_tiles] = r;
                p.n_tiles++;
            }
        }
        start[n_boxes] = (int32_t)p.n_tiles;
    }
    part_levels(host, b, &p, &sample_first);
    return p;
}

ssvae_part ssvae_part_build(arena *host, const ssvae_batch *b, const int32_t *box, int padding) {
    return part_build(host, b, 0, b->n_samples, box, padding);
}

ssvae_part ssvae_part_of_size(arena *host, const ssvae_batch *b, int64_t n_tiles, int64_t n_kept) {
    CHECK(n_kept <= n_tiles && n_tiles <= b->n_tiles, "a part of %lld and %lld tiles of %lld", (long long)n_kept,
          (long long)n_tiles, (long long)b->n_tiles);
    ssvae_part p = {.n_tiles = n_tiles,
                    .n_kept = n_kept,
                    .row = arena_tensor(host, DT_I32, DIMS(n_tiles)),
                    .kept = arena_tensor(host, DT_I32, DIMS(n_kept)),
                    .kept_row = arena_tensor(host, DT_I32, DIMS(n_kept))};
    tensor     sample_first = arena_tensor(host, DT_I32, DIMS(b->n_samples + 1));
    for (int64_t i = 0; i < n_tiles; i++) I32(&p.row)[i] = (int32_t)i;
    for (int64_t i = 0; i < n_kept; i++) I32(&p.kept)[i] = I32(&p.kept_row)[i] = (int32_t)i;
    for (int s = 0; s <= b->n_samples; s++) {
        int32_t at = I32(&b->sample_first)[s];
        I32(&sample_first)[s] = at < n_tiles ? at : (int32_t)n_tiles;
    }
    part_levels(host, b, &p, &sample_first);
    return p;
}

void ssvae_part_tensors(ssvae_part *p, tensor_visit f, void *user) {
    tensor_visit_given(&p->row, f, user);
    tensor_visit_given(&p->kept, f, user);
    for (int i = 0; i <= SSVAE_LEVELS; i++) grid_tensors(&p->dec[i], f, user);
}

/* x (T,width) of the whole batch -> predictions of the kept tiles, (512 n_kept, 1). */
static var *decode_rows(tape *t, ssvae *m, const ssvae_part *p, var *x) {
    x = nn_gather(t, x, &p->row, 1);
    x = ssvae_decode_voxels(t, m, p->dec, x);
    return nn_gather(t, x, &p->kept, TILE_CELLS);
}

var *ssvae_part_decode(tape *t, ssvae *m, const ssvae_batch *b, const ssvae_part *p, var *z) {
    return decode_rows(t, m, p, ssvae_decode_tokens(t, m, b, z));
}

var *ssvae_decode_part(tape *t, ssvae *m, const ssvae_batch *b, var *z, const int32_t *box, int padding, arena *host,
                       tensor *kept) {
    ssvae_part *p = arena_alloc(host, sizeof *p);
    *p = ssvae_part_build(host, b, box, padding);
    *kept = p->kept_row;
    return ssvae_part_decode(t, m, b, p, z);
}

/* The tables made since `mark` of the book, and p's view of them, to the device of the step arena. */
static void to_device(tape *t, ssvae_part *p, size_t mark) {
    size_t bytes = arena_mark(t->book) - mark;
    char  *from = t->book->base + mark, *to = arena_alloc(t->step, bytes);
    if (!t->c->dry) device_copy(to, from, bytes, STREAM_COMPUTE);
    ssvae_part_tensors(p, tensor_move, &(memory_move){from, bytes, to, t->step->dev});
}

static const float *to_host(tape *t, const tensor *y) {
    if (y->dev == DEV_CPU) return F32(y);
    float *out = arena_alloc(t->book, tensor_bytes(y));
    if (t->c->dry) return out;
    device_copy(out, y->data, tensor_bytes(y), STREAM_COMPUTE);
    device_sync(STREAM_COMPUTE);
    return out;
}

/* Decodes one chunk into out. The tables and the activations of a chunk are gone when it is done. */
static void chunk_decode(tape *t, ssvae *m, const ssvae_batch *host, var *x, int sample, const int32_t box[6],
                         int padding, float *out) {
    size_t     step = arena_mark(t->step), book = arena_mark(t->book);
    ssvae_part p = part_build(t->book, host, sample, 1, box, padding);
    if (t->step->dev != DEV_CPU) to_device(t, &p, book);
    const float *y = to_host(t, &decode_rows(t, m, &p, x)->v);
    for (int64_t i = 0; i < p.n_kept && !t->c->dry; i++)
        memcpy(out + TILE_CELLS * (int64_t)I32(&p.kept_row)[i], y + TILE_CELLS * i, TILE_CELLS * sizeof *out);
    arena_reset(t->step, step);
    arena_reset(t->book, book);
}

void ssvae_decode_chunks(tape *t, ssvae *m, const ssvae_batch *b, const ssvae_batch *host, var *z, int chunk_edge,
                         int padding, float *out) {
    CHECK(!t->recording, "chunked decoding is forward only; a training step decodes one part");
    CHECK(chunk_edge > 0 && padding >= 0, "chunks of %d tiles with a padding of %d", chunk_edge, padding);
    var           *x = ssvae_decode_tokens(t, m, b, z);
    uint8_t       *done = arena_zeros(t->book, (size_t)host->n_tiles);
    const int32_t *coord = I32(&host->coord), *first = I32(&host->sample_first);
    for (int s = 0; s < host->n_samples; s++)
        for (int32_t r = first[s]; r < first[s + 1]; r++) { /* the first tile of a chunk stands for it */
            if (done[r]) continue;
            int32_t box[6];
            for (int i = 0; i < 3; i++) {
                box[i] = coord[3 * (int64_t)r + i] / chunk_edge * chunk_edge;
                box[3 + i] = box[i] + chunk_edge;
            }
            chunk_decode(t, m, host, x, s, box, padding, out);
            for (int32_t q = r; q < first[s + 1]; q++) done[q] |= inside(coord + 3 * (int64_t)q, box, box + 3, 0);
        }
}

void ssvae_decode_chunked(tape *t, ssvae *m, const ssvae_batch *b, var *z, int chunk_edge, int padding, float *out) {
    ssvae_decode_chunks(t, m, b, b, z, chunk_edge, padding, out);
}
