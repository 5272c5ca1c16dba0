/* d3s2 prep: options to prep_run, and which shapes are set aside. */
#include "app/verbs.h"
#include "data/split.h"
#include "data_prep/prep.h"
#include "io/atomic_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The names set aside, one a line, malloc'ed; NULL when there are too few meshes. */
static char *heldout_names(const options *o, int64_t count, status *st) {
    file_list l;
    if (!file_list_read(o->prep.input, &l, st)) return NULL;
    int64_t n = o->prep.max_shapes > 0 && o->prep.max_shapes < l.n ? o->prep.max_shapes : l.n;
    if (count >= n)
        status_set(st, ST_USAGE, "prep.heldout_count=%lld leaves none of %lld meshes for training: lower it",
                   (long long)count, (long long)n);
    bool  *held = calloc((size_t)(n + 1), sizeof *held);
    size_t size = 1;
    CHECK(held, "no memory for %lld names", (long long)n);
    split_lowest(l.name, n, count, held);
    for (int64_t i = 0; i < n; i++) size += held[i] ? strlen(l.name[i]) + 1 : 0;
    char *text = calloc(size, 1), *at = text;
    CHECK(text, "no memory for %lld names", (long long)count);
    for (int64_t i = 0; i < n; i++)
        if (held[i]) at += sprintf(at, "%s\n", l.name[i]);
    free(held);
    file_list_free(&l);
    return text;
}

/* Collective: rank 0's names to all. */
static char *share_names(const comm *c, char *text) {
    int64_t bytes = c->rank == 0 ? (int64_t)strlen(text) + 1 : 0;
    comm_bcast(c, &bytes, sizeof bytes, 0);
    if (c->rank != 0) text = malloc((size_t)bytes);
    CHECK(text, "no memory for %lld bytes of names", (long long)bytes);
    comm_bcast(c, text, bytes, 0);
    return text;
}

static int ceil_root(int64_t n) {
    int k = 1;
    while ((int64_t)k * k < n) k++;
    return k;
}

bool verb_prep(app *a, status *st) {
    const options *o = a->opt;
    char          *heldout = NULL;
    if (!*o->prep.input || !*o->prep.output)
        return status_set(st, ST_USAGE, "prep needs prep.input=FOLDER (meshes) and prep.output=FOLDER (shards)");
    if (o->command.n_args)
        return status_set(st, ST_USAGE, "prep takes no argument '%.80s': say prep.input=FOLDER", o->command.arg[0]);
    if (o->prep.resolution % 8)
        return status_set(st, ST_USAGE, "prep.resolution: %lld is not a multiple of 8", (long long)o->prep.resolution);
    for (int i = 0; i < o->prep.resolutions.n; i++)
        if (o->prep.resolutions.v[i] % 8)
            return status_set(st, ST_USAGE, "prep.resolutions: %lld is not a multiple of 8",
                              (long long)o->prep.resolutions.v[i]);
    prep_options p = prep_default_options();
    p.input = o->prep.input;
    p.output = o->prep.output;
    p.resolution = (int)o->prep.resolution;
    if (o->prep.resolutions.n > PREP_MAX_GRIDS)
        return status_set(st, ST_USAGE, "prep.resolutions: %d grids, it takes at most %d", o->prep.resolutions.n,
                          PREP_MAX_GRIDS);
    p.n_resolutions = o->prep.resolutions.n;
    for (int i = 0; i < p.n_resolutions; i++) p.resolutions[i] = (int)o->prep.resolutions.v[i];
    p.tau_voxels = o->prep.tau_voxels;
    p.images = o->prep.images[0] ? o->prep.images : NULL;
    p.views = (int)o->prep.views;
    p.view_size = (int)o->prep.view_size;
    p.view_samples = ceil_root(o->prep.spp);
    p.seed = (uint64_t)o->prep.seed;
    p.limit_seconds = o->prep.seconds_per_mesh;
    p.limit_mbytes = o->prep.mb_per_mesh;
    p.shapes_per_shard = (int)o->prep.shapes_per_shard;
    p.max_shapes = o->prep.max_shapes;
    p.part = o->prep.part;
    p.parts = o->prep.parts;
    p.orbit = o->prep.cameras == opt_prep_cameras_orbit;
    p.dedupe = o->prep.dedupe;
    p.min_tiles = o->prep.min_tiles;
    p.max_tiles = o->prep.max_tiles;
    p.half_thickness = o->prep.shell_voxels;
    p.sharp_degrees = o->prep.sharp_angle;
    p.sharp_voxels = o->prep.sharp_width;
    p.dry_run = o->command.dry_run;
    if (o->prep.heldout_count > 0 && o->prep.heldout_share > 0)
        return status_set(st, ST_USAGE, "prep.heldout_count and prep.heldout_share say the same in two ways: give one");
    p.heldout_share = o->prep.heldout_share;
    if (o->prep.heldout_count > 0) {
        if (a->world->rank == 0) heldout = heldout_names(o, o->prep.heldout_count, st);
        if (!comm_agree(a->world, st)) {
            free(heldout);
            return false;
        }
        p.heldout_names = heldout = share_names(a->world, heldout);
    }
    prep_result r;
    bool        ok = prep_run(&p, a->world->rank, a->world->size, &r, st);
    free(heldout);
    if (!ok) return false;
    /* One of several jobs may have got bad ones only. */
    if (a->world->rank == 0 && !p.dry_run && p.parts <= 1 && r.done + r.kept == 0)
        status_set(st, ST_DATA, "%s: none of %lld meshes could be used: %s/rejects.jsonl says why", p.input,
                   (long long)r.found, p.output);
    return comm_agree(a->world, st);
}
