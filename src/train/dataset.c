#include "train/dataset.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/rng.h"
#include "data/crop.h"
#include "io/atomic_file.h"

void dataset_close(dataset *d) {
    if (d->shards) shard_close_all(d->shards, d->n_shards);
    if (d->lat) latents_close_all(d->lat, d->n_lat);
    sample_cache_free(d->cache);
    free(d->folder_of);
    if (d->tok) tokens_close_all(d->tok, d->n_tok);
    free(d->lat_of);
    free(d->tok_of);
    free(d->entry);
    free(d->tokens);
    free(d->ids);
    *d = (dataset){0};
}

/* Tables are read by one rank and go round: what is asked of the file system does not grow with the number of ranks. */
static bool reads_tables(const comm *c) {
    return !c || c->rank == 0;
}

/* Collective. True: it went well where they were read, and the other ranks have the bytes. */
static bool go_round(const comm *c, char **packed, int64_t *bytes, status *st) {
    if (!comm_agree(c, st)) return false;
    comm_bcast(c, bytes, sizeof *bytes, 0);
    if (c->rank > 0) *packed = malloc((size_t)*bytes);
    CHECK(*packed, "no memory for %lld bytes of tables", (long long)*bytes);
    comm_bcast(c, *packed, *bytes, 0);
    return true;
}

/* OPEN_ALL(kind, type): kind_open_all for the ranks of c; NULL: this process alone. */
#define OPEN_ALL(kind, type)                                                                                           \
    static bool open_##kind(const comm *c, const char *path, type **out, int *n, status *st) {                         \
        char   *packed = NULL;                                                                                         \
        int64_t bytes = 0;                                                                                             \
        if (!c || c->size == 1) return kind##_open_all(path, out, n, st);                                              \
        if (c->rank == 0 && kind##_open_all(path, out, n, st)) packed = kind##_pack_all(*out, *n, &bytes);             \
        if (!go_round(c, &packed, &bytes, st)) return false;                                                           \
        if (c->rank > 0) *out = kind##_unpack_all(packed, bytes, n);                                                   \
        free(packed);                                                                                                  \
        return true;                                                                                                   \
    }
OPEN_ALL(shard, shard)
OPEN_ALL(latents, latents)
OPEN_ALL(tokens, token_file)

static bool coords_agree(const shard *s, const latents *l, status *st) {
    sample    a = {0};
    uint16_t *coord = NULL;
    float    *mean = NULL, *logvar = NULL;
    bool      ok = shard_read_sample(s, 0, false, &a, st) && latents_read(l, 0, &coord, &mean, &logvar, st);
    if (ok && memcmp(a.coord, coord, (size_t)a.n_tiles * 3 * sizeof *coord) != 0)
        ok = status_set(st, ST_DATA, "%s: tile coordinates differ from those of %s: encode the shards again", l->path,
                        s->path);
    sample_free(&a);
    free(coord);
    free(mean);
    free(logvar);
    return ok;
}

/* look: into the files, too. */
static bool latents_fit(const shard *s, const latents *l, bool look, status *st) {
    if (l->n_samples != s->n_samples || l->resolution != s->meta.resolution || l->tau_voxels != s->meta.tau_voxels)
        return status_set(st, ST_DATA,
                          "%s: made from another version of %s (%lld samples at %d, the shard has %lld at %d): "
                          "encode the shards again",
                          l->path, s->path, (long long)l->n_samples, l->resolution, (long long)s->n_samples,
                          s->meta.resolution);
    for (int64_t i = 0; i < s->n_samples; i++)
        if (l->id[i] != s->id[i] || l->first[i + 1] - l->first[i] != s->first[i + 1] - s->first[i])
            return status_set(st, ST_DATA, "%s: sample %lld is not the one of %s: encode the shards again", l->path,
                              (long long)i, s->path);
    return !look || s->n_samples == 0 || coords_agree(s, l, st);
}

static bool join_latents(dataset *d, const comm *c, const char *folder, status *st) {
    if (!open_latents(c, folder, &d->lat, &d->n_lat, st)) return false;
    for (int i = 0; i < d->n_shards; i++) {
        const char *name = base_name(d->shards[i].path);
        int         at = 0;
        while (at < d->n_lat && strcmp(d->lat[at].shard, name) != 0) at++;
        if (at == d->n_lat)
            return status_set(st, ST_NO_INPUT, "%s has no latents of shard %s: run `d3s2 encode`", folder, name);
        d->lat_of[i] = at;
        d->vae = d->lat[at].vae;
        d->channels = d->lat[at].channels;
        if (!latents_fit(&d->shards[i], &d->lat[at], reads_tables(c), st)) return false;
    }
    return true;
}

static bool tokens_fit(const shard *s, const token_file *t, status *st) {
    bool same = t->n_samples == s->n_samples;
    for (int64_t i = 0; i < s->n_samples && same; i++)
        same = t->id[i] == s->id[i] &&
               t->view_first[i + 1] - t->view_first[i] == t->variants * (s->view_first[i + 1] - s->view_first[i]);
    return same ||
           status_set(st, ST_DATA, "%s: made from another version of %s: run `d3s2 tokens` again", t->path, s->path);
}

static bool join_tokens(dataset *d, const comm *c, const char *folder, status *st) {
    if (!open_tokens(c, folder, &d->tok, &d->n_tok, st)) return false;
    for (int i = 0; i < d->n_shards; i++) {
        const char *name = base_name(d->shards[i].path);
        int         at = 0;
        while (at < d->n_tok && strcmp(d->tok[at].shard, name) != 0) at++;
        if (at == d->n_tok)
            return status_set(st, ST_NO_INPUT, "%s has no condition tokens of shard %s: run `d3s2 tokens`", folder,
                              name);
        d->tok_of[i] = at;
        d->encoder = d->tok[at].encoder;
        if (!tokens_fit(&d->shards[i], &d->tok[at], st)) return false;
    }
    return true;
}

typedef struct {
    uint64_t id;
    int      resolution;
    int64_t  at;
} id_place;

static int by_id(const void *pa, const void *pb) {
    const id_place *a = pa, *b = pb;
    if (a->id != b->id) return a->id < b->id ? -1 : 1;
    if (a->resolution != b->resolution) return a->resolution < b->resolution ? -1 : 1;
    return (a->at > b->at) - (a->at < b->at);
}

/* Noise belongs to the id, so an id may occur once in a step: once at each resolution. */
static bool ids_unique(const dataset *d, status *st) {
    id_place *p = malloc((size_t)(d->n + 1) * sizeof *p);
    CHECK(p, "no memory for %lld ids", (long long)d->n);
    for (int64_t i = 0; i < d->n; i++) p[i] = (id_place){d->ids[i], dataset_resolution(d, i), i};
    qsort(p, (size_t)d->n, sizeof *p, by_id);
    for (int64_t i = 1; i < d->n && status_ok(st); i++) {
        const data_entry *a = &d->entry[p[i - 1].at], *b = &d->entry[p[i].at];
        if (a->id == b->id && p[i - 1].resolution == p[i].resolution)
            status_set(st, ST_DATA, "%s and %s both hold the sample %s: keep one of them", d->shards[a->shard].path,
                       d->shards[b->shard].path, d->shards[a->shard].source[a->at]);
    }
    free(p);
    return status_ok(st);
}

static bool list_samples(dataset *d, const dataset_request *r, status *st) {
    int64_t most = 0;
    for (int i = 0; i < d->n_shards; i++) most += d->shards[i].n_samples;
    d->entry = malloc((size_t)(most + 1) * sizeof *d->entry);
    d->tokens = malloc((size_t)(most + 1) * sizeof *d->tokens);
    d->ids = malloc((size_t)(most + 1) * sizeof *d->ids);
    CHECK(d->entry && d->tokens && d->ids, "no memory for a list of %lld samples", (long long)most);
    for (int i = 0; i < d->n_shards; i++) {
        const shard *s = &d->shards[i];
        data_folder *f = &d->folder[d->folder_of[i]];
        if (f->n == 0) f->first = d->n;
        for (int64_t k = 0; k < s->n_samples; k++) {
            int64_t tiles = s->first[k + 1] - s->first[k];
            bool    open = r->max_open_share > 0 && r->max_open_share < 1 &&
                        shard_figure(s, k, "open_edge_share", 0) > r->max_open_share;
            bool many = r->max_parts > 0 && shard_figure(s, k, "parts", 0) > (double)r->max_parts;
            if (open || many || tiles == 0 || tiles < r->min_tiles || (r->max_tiles > 0 && tiles > r->max_tiles)) {
                d->n_left_out++;
                continue;
            }
            d->entry[d->n] = (data_entry){.shard = i,
                                          .at = k,
                                          .id = s->id[k],
                                          .tiles = tiles,
                                          .n_in = s->n_in[k],
                                          .n_sharp = s->n_sharp[k],
                                          .views = (int)(s->view_first[k + 1] - s->view_first[k])};
            d->tokens[d->n] = r->crop_tiles && tiles > r->crop_tiles ? r->crop_tiles : tiles;
            d->ids[d->n++] = s->id[k];
            f->n++;
            d->total_tiles += tiles;
            if (d->tokens[d->n - 1] > d->max_tiles) d->max_tiles = d->tokens[d->n - 1];
        }
    }
    if (d->n == 0)
        return status_set(
            st, ST_NO_INPUT,
            "%s holds no sample to train on (%lld left out by data.min_tiles, data.max_tiles, data.max_open_share and "
            "data.max_parts)",
            r->shards, (long long)d->n_left_out);
    for (int f = 0; f < d->n_folders; f++)
        if (d->folder[f].n == 0)
            return status_set(st, ST_NO_INPUT, "%s: folder %d of this list, of resolution %d, holds no sample",
                              r->shards, f + 1, d->folder[f].resolution);
    return ids_unique(d, st);
}

/* The shards of one more folder, behind those that are there. */
static bool open_folder(dataset *d, const dataset_request *r, const char *path, status *st) {
    shard *more;
    int    n;
    if (d->n_folders == DATA_FOLDERS)
        return status_set(st, ST_USAGE, "%s: more than %d folders of data", path, DATA_FOLDERS);
    if (!open_shard(r->c, path, &more, &n, st)) return false;
    const shard_meta *m = &more[0].meta;
    int               resolution = r->resolution;
    if (resolution > 0 && resolution != m->resolution) {
        status_set(st, ST_CONFIG, "%s: resolution is %d, data.resolution says %d: leave it out or choose other data",
                   more[0].path, m->resolution, resolution);
        shard_close_all(more, n);
        return false;
    }
    d->folder[d->n_folders++] = (data_folder){.resolution = m->resolution, .tau_voxels = m->tau_voxels};
    if (m->resolution > d->resolution) {
        d->resolution = m->resolution;
        d->tau_voxels = m->tau_voxels;
    }
    d->shards = realloc(d->shards, (size_t)(d->n_shards + n) * sizeof *d->shards);
    d->folder_of = realloc(d->folder_of, (size_t)(d->n_shards + n) * sizeof *d->folder_of);
    CHECK(d->shards && d->folder_of, "no memory for %d shards", d->n_shards + n);
    memcpy(d->shards + d->n_shards, more, (size_t)n * sizeof *more);
    for (int i = 0; i < n; i++) d->folder_of[d->n_shards++] = d->n_folders - 1;
    free(more);
    return true;
}

static bool open_folders(dataset *d, const dataset_request *r, status *st) {
    if (!r->several) return open_folder(d, r, r->shards, st);
    for (const char *at = r->shards; *at;) {
        char path[PATH_CAP];
        int  n = (int)strcspn(at, ",");
        if (snprintf(path, sizeof path, "%.*s", n, at) >= PATH_CAP)
            return status_set(st, ST_USAGE, "%s: a path of this list is too long", r->shards);
        if (!open_folder(d, r, path, st)) return false;
        at += n + (at[n] == ',');
    }
    return true;
}

bool dataset_open(dataset *d, const dataset_request *r, status *st) {
    *d = (dataset){0};
    bool ok = open_folders(d, r, st);
    if (ok) {
        d->lat_of = calloc((size_t)d->n_shards, sizeof *d->lat_of);
        d->tok_of = calloc((size_t)d->n_shards, sizeof *d->tok_of);
        CHECK(d->lat_of && d->tok_of, "no memory for %d shards", d->n_shards);
        bool one = (r->latents && r->latents[0]) || (r->tokens && r->tokens[0]);
        if (d->n_folders > 1 && one)
            ok = status_set(st, ST_CONFIG, "%s: latents and condition tokens go with one folder of shards, not with %d",
                            r->shards, d->n_folders);
    }
    if (ok && r->latents && r->latents[0]) {
        ok = join_latents(d, r->c, r->latents, st);
        if (r->c) ok = comm_agree(r->c, st); /* one rank has looked into the files */
    }
    ok = ok && (!r->tokens || !r->tokens[0] || join_tokens(d, r->c, r->tokens, st)) && list_samples(d, r, st);
    if (ok) d->cache = sample_cache_new(d->n, (size_t)r->cache_mb << 20);
    if (!ok) dataset_close(d);
    return ok;
}

int dataset_resolution(const dataset *d, int64_t i) {
    return d->shards[d->entry[i].shard].meta.resolution;
}

int64_t dataset_in_turn(const dataset *d, int64_t i) {
    for (int64_t round = 0;; round++)
        for (int f = 0; f < d->n_folders; f++)
            if (round < d->folder[f].n && i-- == 0) return d->folder[f].first + round;
}

uint64_t dataset_content(const dataset *d) {
    uint64_t h = 0;
    for (int64_t i = 0; i < d->n; i++)
        h = hash_bytes(&d->shards[d->entry[i].shard].hash[d->entry[i].at], sizeof(uint64_t), h);
    return h;
}

bool dataset_read_again(const dataset *d, int64_t i, sample *io, status *st) {
    const data_entry *e = &d->entry[i];
    const sample     *kept = sample_cache_find(d->cache, i);
    if (kept) {
        sample_assign(io, kept);
        return true;
    }
    if (!shard_read_again(&d->shards[e->shard], e->at, io, st)) return false;
    if (io->n_tiles == e->tiles && io->n_in == e->n_in && io->n_sharp == e->n_sharp) {
        sample_cache_keep(d->cache, i, io);
        return true;
    }
    return status_set(st, ST_DATA, "%s sample %lld (%s): its cells differ from its table: run `d3s2 check`",
                      d->shards[e->shard].path, (long long)e->at, io->source);
}

bool dataset_read_part(const dataset *d, int64_t i, int64_t n, int64_t centre, sample *io, status *st) {
    const sample *kept = sample_cache_find(d->cache, i);
    if (kept) {
        sample_assign_crop(io, kept, n, centre);
        return true;
    }
    if (!dataset_read_again(d, i, io, st)) return false;
    sample_crop(io, n, centre);
    return true;
}

bool dataset_read(const dataset *d, int64_t i, sample *out, status *st) {
    *out = (sample){0};
    bool ok = dataset_read_again(d, i, out, st);
    if (!ok) sample_free(out);
    return ok;
}

bool dataset_read_latents(const dataset *d, int64_t i, uint16_t **coord, float **mean, float **logvar, status *st) {
    const data_entry *e = &d->entry[i];
    return latents_read(&d->lat[d->lat_of[e->shard]], e->at, coord, mean, logvar, st);
}

bool dataset_read_tokens(const dataset *d, int64_t i, int64_t view, int64_t *n, float **token, int32_t **coord,
                         status *st) {
    const data_entry *e = &d->entry[i];
    return tokens_read(&d->tok[d->tok_of[e->shard]], e->at, view, n, token, coord, st);
}

bool dataset_read_view(const dataset *d, int64_t i, int view, uint8_t **png, int64_t *png_size, status *st) {
    const data_entry *e = &d->entry[i];
    float             camera[VIEW_CAMERA_FLOATS];
    return shard_read_view(&d->shards[e->shard], e->at, view, png, png_size, camera, st);
}

static int compare_ids(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

int64_t dataset_common(const dataset *a, const dataset *b) {
    uint64_t *sorted = malloc(((size_t)a->n + 1) * sizeof *sorted);
    int64_t   n = 0;
    CHECK(sorted, "no memory for %lld ids", (long long)a->n);
    memcpy(sorted, a->ids, (size_t)a->n * sizeof *sorted);
    qsort(sorted, (size_t)a->n, sizeof *sorted, compare_ids);
    for (int64_t i = 0; i < b->n; i++)
        n += bsearch(&b->ids[i], sorted, (size_t)a->n, sizeof *sorted, compare_ids) != NULL;
    free(sorted);
    return n;
}
