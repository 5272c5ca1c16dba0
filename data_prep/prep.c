#include "data_prep/prep.h"
#include "core/rng.h"
#include "data/split.h"
#include "data_prep/catalog.h"
#include "data_prep/claims.h"
#include "data_prep/pictures.h"
#include "data_prep/queue.h"
#include "io/atomic_file.h"
#include "io/folder_lock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NO_SPLIT = -1, TRAIN, HELDOUT, N_SPLITS, PATH_SIZE = 8192 };
static const char *const split_name[N_SPLITS] = {"train", "heldout"};

typedef struct {
    const prep_options *o;
    prep_grid           grid[PREP_MAX_GRIDS];
    int                 n_grids;
    int                 rank, size;
    file_list           files;
    uint8_t            *todo;    /* [files.n] a bit for each grid that still lacks it */
    char              **heldout; /* sorted names */
    int64_t             n_heldout;
    int64_t             strays;   /* of earlier runs, on the other side than the settings say now */
    uint64_t            settings; /* hash of everything a rejection depends on */
    int                 lock;     /* rank 0's, -1 none */
    claims             *claims;   /* NULL: none */
    shard_writer       *writer[PREP_MAX_GRIDS][N_SPLITS];
    int                 in_shard[PREP_MAX_GRIDS][N_SPLITS], seq[PREP_MAX_GRIDS][N_SPLITS];
    prep_result         r;
} run;

static bool has_split(const prep_options *o) {
    return o->heldout_names || o->heldout_share > 0;
}

/* ---- split ---------------------------------------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void read_heldout(run *r) {
    for (const char *p = r->o->heldout_names; p && *p;) {
        size_t n = strcspn(p, "\r\n");
        if (n > 0 && *p != '#') {
            r->heldout = realloc(r->heldout, (size_t)(r->n_heldout + 1) * sizeof *r->heldout);
            CHECK(r->heldout && (r->heldout[r->n_heldout] = strndup(p, n)), "no memory for the held-out names");
            r->n_heldout++;
        }
        p += n + (p[n] != 0);
    }
    if (r->n_heldout) qsort(r->heldout, (size_t)r->n_heldout, sizeof *r->heldout, compare_names);
}

/* Once nothing is against the run. */
static bool write_heldout(const run *r, status *st) {
    char        path[PATH_CAP];
    const char *names = r->o->heldout_names;
    return !names || r->o->dry_run ||
           (join_path(r->o->output, "heldout.txt", path, st) && atomic_write(path, names, (int64_t)strlen(names), st));
}

static int split_of(const run *r, const char *name) {
    if (r->o->heldout_names)
        return r->n_heldout && bsearch(&name, r->heldout, (size_t)r->n_heldout, sizeof *r->heldout, compare_names);
    return split_in_share(name, r->o->heldout_share);
}

/* ---- what earlier runs left (rank 0) -------------------------------------------------------------------------- */

static int64_t find_name(const run *r, const char *name) {
    char **at = bsearch(&name, r->files.name, (size_t)r->files.n, sizeof *r->files.name, compare_names);
    return at ? at - r->files.name : -1;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Shards of a run with a split and of one without would be two data sets in one folder. */
static bool same_layout(const run *r, int split, const char *path, status *st) {
    if (has_split(r->o) == (split != NO_SPLIT)) return true;
    return status_set(st, ST_CONFIG,
                      split == NO_SPLIT
                          ? "%s: was prepared without held-out shapes: `d3s2 split` sets some aside afterwards, or use "
                            "another output folder"
                          : "%s: was prepared with held-out shapes: give prep.heldout_share or prep.heldout_count as "
                            "before, or another output folder",
                      path);
}

/* Removes parts of dead runs, marks what whole shards hold as done. A missing folder holds nothing. */
static bool read_folder(run *r, int grid, int split, const char *folder, bool clean, status *st) {
    const prep_grid *g = &r->grid[grid];
    DIR             *d = opendir(folder);
    struct dirent   *e;
    bool             good = true;
    while (d && good && (e = readdir(d))) {
        char path[PATH_SIZE];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        if (strncmp(e->d_name, "shard-", 6) != 0) continue;
        if (clean && ends_with(e->d_name, ".part")) unlink(path);
        if (!ends_with(e->d_name, ".h5")) continue;
        shard  s;
        status bad = {0};
        if (!shard_open(&s, path, &bad)) {
            good = status_set(st, bad.code, "%.400s; remove it, and the next run prepares its shapes anew", bad.text);
            break;
        }
        if (s.meta.resolution != g->resolution || s.meta.tau_voxels != g->tau_voxels)
            good =
                status_set(st, ST_CONFIG,
                           "%s: holds resolution %d, tau %g voxels, asked for are %d and %g: use another output folder",
                           path, s.meta.resolution, s.meta.tau_voxels, g->resolution, g->tau_voxels);
        good = good && same_layout(r, split, path, st);
        for (int64_t i = 0; good && i < s.n_samples; i++) {
            int64_t k = find_name(r, s.source[i]);
            if (k < 0) continue;
            r->r.kept += grid == 0;
            r->todo[k] &= (uint8_t) ~(1u << grid);
            r->strays += grid == 0 && split != NO_SPLIT && split_of(r, s.source[i]) != split;
        }
        shard_close(&s);
    }
    if (d) closedir(d);
    return good;
}

static void rejects_path(const run *r, char path[PATH_SIZE]) {
    snprintf(path, PATH_SIZE, "%s/rejects.jsonl", r->o->output);
}

/* Of all that a mesh's rejection depends on beside its file. */
static void settings_of(const run *r, const char *name, char text[24]) {
    uint64_t h = r->settings;
    if (r->o->images) {
        pictures p;
        status   none = {0};
        pictures_find(r->o->images, name, &p, &none);
        h = hash_bytes(&p.stamp, sizeof p.stamp, h);
        pictures_free(&p);
    }
    snprintf(text, 24, "%016llx", (unsigned long long)h);
}

/* A rejection holds for the same file and the same settings. A torn last line of a killed run is no JSON and is
 * skipped. */
static void read_rejects(run *r) {
    char path[PATH_SIZE], *line = NULL;
    rejects_path(r, path);
    FILE  *f = fopen(path, "r");
    size_t cap = 0;
    while (f && getline(&line, &cap, f) > 0) {
        json_t     *j = json_loads(line, 0, NULL);
        const char *source = json_string_value(json_object_get(j, "source"));
        int64_t     k = source ? find_name(r, source) : -1;
        struct stat info;
        if (k >= 0) {
            char        file[PATH_SIZE], settings[24];
            const char *same = json_string_value(json_object_get(j, "settings"));
            snprintf(file, sizeof file, "%s%s%s", *source == '/' ? "" : r->files.root, *source == '/' ? "" : "/",
                     source);
            settings_of(r, source, settings);
            if (stat(file, &info) == 0 && same && strcmp(same, settings) == 0 &&
                json_integer_value(json_object_get(j, "size")) == (json_int_t)info.st_size &&
                json_integer_value(json_object_get(j, "mtime")) == (json_int_t)info.st_mtime)
                r->todo[k] = 0;
        }
        json_decref(j);
    }
    free(line);
    if (f) fclose(f);
}

/* Keeps every parts-th name: sorted as before, and each part has its share of every folder. */
static void keep_part(file_list *l, int64_t part, int64_t parts) {
    int64_t kept = 0;
    for (int64_t i = 0; i < l->n; i++) {
        if (i % parts == part)
            l->name[kept++] = l->name[i];
        else
            free(l->name[i]);
    }
    l->n = kept;
}

/* OUT, OUT/r512, OUT/train, OUT/r512/heldout ... */
static void folder_path(const run *r, int grid, const char *split, char path[PATH_SIZE]) {
    const char *sub = r->grid[grid].folder;
    snprintf(path, PATH_SIZE, "%s%s%s%s%s", r->o->output, *sub ? "/" : "", sub, *split ? "/" : "", split);
}

static bool plan_grid(run *r, int grid, status *st) {
    bool write = !r->o->dry_run;
    char path[PATH_SIZE];
    folder_path(r, grid, "", path);
    if ((write && !make_folder(path, st)) || !read_folder(r, grid, NO_SPLIT, path, write, st)) return false;
    for (int s = TRAIN; s < N_SPLITS; s++) {
        folder_path(r, grid, split_name[s], path);
        if (!read_folder(r, grid, s, path, write, st)) return false;
        if (write && has_split(r->o) && !make_folder(path, st)) return false;
    }
    return true;
}

static bool plan(run *r, status *st) {
    const prep_options *o = r->o;
    if (!file_list_read(o->input, &r->files, st)) return false;
    for (; o->max_shapes > 0 && r->files.n > o->max_shapes; r->files.n--) free(r->files.name[r->files.n - 1]);
    if (o->parts > 1) keep_part(&r->files, o->part, o->parts);
    r->todo = malloc((size_t)r->files.n + 1);
    CHECK(r->todo, "no memory for %lld files", (long long)r->files.n);
    memset(r->todo, (1 << r->n_grids) - 1, (size_t)r->files.n);
    if (!o->dry_run &&
        (!make_folder(o->output, st) || (r->lock = folder_lock(o->output, "choose another prep.output", st)) < 0 ||
         !folder_lock_sign(r->lock, o->output, st)))
        return false;
    for (int k = 0; k < r->n_grids; k++)
        if (!plan_grid(r, k, st)) return false;
    if (r->strays)
        log_warn("%lld shapes were prepared with other settings of what is held out, and stay where they are: `d3s2 "
                 "split` can divide them anew",
                 (long long)r->strays);
    read_rejects(r);
    return write_heldout(r, st);
}

/* Rank 0's file list and marks to everybody: the folder may look different elsewhere, or change. */
static void share_plan(run *r) {
    int64_t head[3] = {r->files.n, 0, 0};
    if (r->size == 1) return;
    for (int64_t i = 0; r->rank == 0 && i < r->files.n; i++) head[1] += (int64_t)strlen(r->files.name[i]) + 1;
    if (r->rank == 0) head[2] = (int64_t)strlen(r->files.root) + 1;
    queue_broadcast(head, sizeof head, r->size);
    char *text = malloc((size_t)(head[1] + head[2])), *p = text;
    CHECK(text, "no memory for %lld file names", (long long)head[0]);
    if (r->rank == 0) {
        p = stpcpy(p, r->files.root) + 1;
        for (int64_t i = 0; i < r->files.n; i++) p = stpcpy(p, r->files.name[i]) + 1;
    }
    queue_broadcast(text, head[1] + head[2], r->size);
    if (r->rank != 0) {
        r->files = (file_list){strdup(text), malloc((size_t)(head[0] + 1) * sizeof(char *)), head[0]};
        r->todo = malloc((size_t)head[0] + 1);
        CHECK(r->files.root && r->files.name && r->todo, "no memory for %lld files", (long long)head[0]);
        p = text + strlen(text) + 1;
        for (int64_t i = 0; i < head[0]; i++, p += strlen(p) + 1)
            CHECK(r->files.name[i] = strdup(p), "no memory for a name");
    }
    queue_broadcast(r->todo, head[0], r->size);
    free(text);
}

/* ---- writing -------------------------------------------------------------------------------------------------- */

/* JSON takes UTF-8 only, and a reason may quote the file. */
static json_t *json_text(const char *text) {
    json_t *j = json_string(text);
    char   *plain = j ? NULL : strdup(text);
    for (char *c = plain; c && *c; c++)
        if ((unsigned char)*c > 126) *c = '?';
    if (plain) j = json_string(plain);
    free(plain);
    return j;
}

static bool reject(run *r, const char *name, const char *path, const status *why, status *st) {
    char        file[PATH_SIZE], settings[24];
    struct stat info = {0};
    if (stat(path, &info) != 0) info.st_size = -1;
    settings_of(r, name, settings);
    json_t *j = json_pack("{s:s, s:o, s:I, s:I, s:s}", "source", name, "reason", json_text(why->text), "size",
                          (json_int_t)info.st_size, "mtime", (json_int_t)info.st_mtime, "settings", settings);
    char   *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    log_warn("rejected: %s", why->text);
    if (!text) return true; /* a name that is no UTF-8 cannot be noted; it will be tried again */
    size_t n = strlen(text);
    text[n++] = '\n'; /* the terminator's place: one write is one line, also from several ranks */
    rejects_path(r, file);
    int  fd = open(file, O_WRONLY | O_CREAT | O_APPEND, 0666);
    bool good = fd >= 0 && write(fd, text, n) == (ssize_t)n;
    if (!good) status_set(st, ST_IO, "%s: %s", file, strerror(errno));
    if (fd >= 0) close(fd);
    free(text);
    return good;
}

static bool open_writer(run *r, int grid, int split, status *st) {
    char       folder[PATH_SIZE], path[PATH_SIZE + 32];
    shard_meta meta = {r->grid[grid].resolution, r->grid[grid].tau_voxels};
    folder_path(r, grid, has_split(r->o) ? split_name[split] : "", folder);
    do {
        snprintf(path, sizeof path, "%s/shard-%04d-%05d.h5", folder, r->rank, r->seq[grid][split]++);
    } while (access(path, F_OK) == 0); /* shards of earlier runs keep their numbers */
    r->in_shard[grid][split] = 0;
    return (r->writer[grid][split] = shard_create(path, &meta, st)) != NULL;
}

static bool close_writer(run *r, int grid, int split, status *st) {
    shard_writer *w = r->writer[grid][split];
    r->writer[grid][split] = NULL;
    return !w || shard_finish(w, st);
}

static bool append(run *r, int grid, int split, const sample *s, status *st) {
    if (!r->writer[grid][split] && !open_writer(r, grid, split, st)) return false;
    if (!shard_append(r->writer[grid][split], s, st)) return false;
    r->r.tiles += s->n_tiles;
    r->r.voxels_in += s->n_in;
    return ++r->in_shard[grid][split] < r->o->shapes_per_shard || close_writer(r, grid, split, st);
}

/* The shape whose geometry this one repeats; NULL for none. */
static const char *twin_of(run *r, const sample *s, const char *name, status *st) {
    if (!r->claims) return NULL;
    uint64_t h = hash_bytes(s->coord, (size_t)s->n_tiles * 3 * sizeof *s->coord, 0);
    h = hash_bytes(s->value, (size_t)s->n_tiles * TILE_CELLS * sizeof *s->value, h);
    return claims_take(r->claims, h, name, st);
}

/* False only for failures that end the run. */
static bool one_mesh(run *r, int64_t k, catalog_set *catalog, status *st) {
    const char *name = r->files.name[k], *category, *title;
    char        path[PATH_SIZE];
    status      bad = {0};
    sample      s[PREP_MAX_GRIDS];
    bool        whole = name[0] == '/', good = true;
    snprintf(path, sizeof path, "%s%s%s", whole ? "" : r->files.root, whole ? "" : "/", name);
    catalog_find(catalog, name, &category, &title);
    if (!prep_sample(r->o, path, name, category, title, r->todo[k], s, &bad)) {
        r->r.rejected++;
        return reject(r, name, path, &bad, st);
    }
    sample *first = NULL;
    for (int g = r->n_grids - 1; g >= 0; g--)
        if (r->todo[k] >> g & 1) first = &s[g];
    const char *twin = twin_of(r, first, name, st);
    if (twin || !status_ok(st)) {
        for (int g = 0; g < r->n_grids; g++) sample_free(&s[g]);
        if (!twin) return false;
        r->r.rejected++;
        status_set(&bad, ST_DATA, "%s: duplicate of %s", path, twin);
        return reject(r, name, path, &bad, st);
    }
    int split = split_of(r, name);
    for (int g = 0; g < r->n_grids; g++) {
        if (r->todo[k] >> g & 1) good = good && append(r, g, split, &s[g], st);
        sample_free(&s[g]);
    }
    r->r.done += good;
    return good;
}

static void work(run *r, const int64_t *index, int64_t n, status *st) {
    catalog_set *catalog = catalog_new(r->files.root);
    work_queue  *q = queue_open(n, r->rank, r->size);
    progress     bar;
    int64_t      at;
    progress_begin(&bar, "prep", 0, n);
    if (r->o->dedupe) {
        char path[PATH_SIZE];
        snprintf(path, sizeof path, "%s/geometry.txt", r->o->output);
        if (!(r->claims = claims_open(path, st))) queue_stop(q);
    }
    while (status_ok(st) && (at = queue_next(q)) >= 0) {
        if (!one_mesh(r, index[at], catalog, st)) {
            queue_stop(q); /* the other ranks finish the shards they have */
            break;
        }
        progress_step(&bar, at + 1, r->files.name[index[at]]);
    }
    for (int i = 0; i < r->n_grids * N_SPLITS; i++) {
        int grid = i / N_SPLITS, split = i % N_SPLITS;
        if (status_ok(st)) close_writer(r, grid, split, st);
        shard_abandon(r->writer[grid][split]); /* NULL after a finish */
        r->writer[grid][split] = NULL;
    }
    claims_close(r->claims);
    queue_agree(st, r->rank, r->size);
    if (status_ok(st)) progress_end(&bar, "");
    queue_close(q);
    catalog_free(catalog);
}

static void summarise(run *r, double t0) {
    int64_t v[4] = {r->r.done, r->r.rejected, r->r.tiles, r->r.voxels_in};
    queue_sum(v, 4, r->size);
    r->r.done = v[0], r->r.rejected = v[1], r->r.tiles = v[2], r->r.voxels_in = v[3];
    r->r.seconds = now_seconds() - t0;
    double n = v[0] ? (double)v[0] : 1;
    log_info("prep: %lld shapes in %.1f s (%.2f s each), %lld rejected, %lld skipped; %.0f tiles and %.0f near voxels "
             "a shape",
             (long long)v[0], r->r.seconds, r->r.seconds / n, (long long)v[1], (long long)r->r.skipped,
             (double)v[2] / n, (double)v[3] / n);
    if (v[1] > 0) log_info("prep: %s/rejects.jsonl says why meshes were rejected", r->o->output);
}

bool prep_run(const prep_options *o, int rank, int size, prep_result *result, status *st) {
    run    r = {.o = o, .rank = rank, .size = size, .lock = -1};
    double t0 = now_seconds();
    if (prep_check_options(o, st)) {
        r.settings = prep_settings_hash(o);
        r.n_grids = prep_grids(o, r.grid);
        read_heldout(&r);
        if (rank == 0) plan(&r, st);
    }
    queue_agree(st, rank, size);
    if (status_ok(st)) {
        share_plan(&r);
        int64_t *index = malloc((size_t)(r.files.n + 1) * sizeof *index), n = 0;
        CHECK(index, "no memory for %lld files", (long long)r.files.n);
        for (int64_t i = 0; i < r.files.n; i++)
            if (r.todo[i]) index[n++] = i;
        r.r.found = r.files.n;
        r.r.skipped = r.files.n - n;
        log_info("prep: %lld mesh files in %s, %lld done or rejected before, %lld to do on %d rank%s",
                 (long long)r.files.n, o->input, (long long)r.r.skipped, (long long)n, size, size > 1 ? "s" : "");
        if (o->images)
            log_info("prep: views are the pictures in %s", o->images);
        else
            log_info("prep: %d views of %d pixels", o->views, o->view_size);
        for (int k = 0; k < r.n_grids; k++)
            log_info("prep: resolution %d, tau %g voxels", r.grid[k].resolution, r.grid[k].tau_voxels);
        if (!o->dry_run) {
            work(&r, index, n, st);
            if (status_ok(st)) summarise(&r, t0);
        }
        free(index);
    }
    if (r.lock >= 0) close(r.lock);
    if (result) *result = r.r;
    file_list_free(&r.files);
    for (int64_t i = 0; i < r.n_heldout; i++) free(r.heldout[i]);
    free(r.heldout), free(r.todo);
    return status_ok(st);
}
