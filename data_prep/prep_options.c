#include "core/rng.h"
#include "data_prep/prep.h"

#include <stdio.h>
#include <sys/stat.h>

prep_options prep_default_options(void) {
    return (prep_options){.resolution = 128,
                          .tau_voxels = 2,
                          .views = 4,
                          .view_size = 112,
                          .view_samples = 4,
                          .up_axis = 1,
                          .limit_seconds = 60,
                          .limit_mbytes = 4096,
                          .limit_faces = 4000000,
                          .shapes_per_shard = 64,
                          .min_tiles = 1,
                          .half_thickness = 1,
                          .cap_share = 0.05,
                          .sharp_degrees = 30,
                          .sharp_voxels = 2};
}

int prep_grids(const prep_options *o, prep_grid grid[PREP_MAX_GRIDS]) {
    int n = o->n_resolutions ? o->n_resolutions : 1;
    for (int k = 0; k < n; k++) {
        prep_grid *g = &grid[k];
        *g = (prep_grid){.resolution = o->n_resolutions ? o->resolutions[k] : o->resolution};
        g->tau_voxels = o->tau_voxels > 0 ? o->tau_voxels : g->resolution / 256.0;
        if (o->n_resolutions) snprintf(g->folder, sizeof g->folder, "r%d", g->resolution);
    }
    return n;
}

bool prep_check_options(const prep_options *o, status *st) {
    if (!o->input || !o->output) return status_set(st, ST_USAGE, "prep needs an input and an output folder");
    prep_grid grid[PREP_MAX_GRIDS];
    int       n_grids = prep_grids(o, grid);
    for (int k = 0; k < n_grids; k++) {
        int R = grid[k].resolution;
        if (R < 16 || R > 4096 || R % 8)
            return status_set(st, ST_USAGE, "resolution %d: it must be a multiple of 8 from 16 to 4096", R);
        for (int i = 0; i < k; i++)
            if (grid[i].resolution == R) return status_set(st, ST_USAGE, "resolution %d is asked for twice", R);
    }
    if (!(o->tau_voxels >= 0 && o->tau_voxels <= 16))
        return status_set(st, ST_USAGE, "tau of %g voxels: it must be 0 to 16", o->tau_voxels);
    struct stat info;
    if (o->images && (stat(o->images, &info) != 0 || !S_ISDIR(info.st_mode)))
        return status_set(st, ST_NO_INPUT, "%s: is no folder (prep.images)", o->images);
    if (o->views < 0 || o->view_size < 1 || o->view_size > 8192 || o->view_samples < 1 || o->view_samples > 16)
        return status_set(st, ST_USAGE, "%d views of %d pixels with %d samples: out of range", o->views, o->view_size,
                          o->view_samples);
    if (o->up_axis != 1 && o->up_axis != 2) return status_set(st, ST_USAGE, "up axis %d: 1 is y, 2 is z", o->up_axis);
    if (!(o->limit_seconds > 0) || o->limit_mbytes < 1 || o->limit_faces < 1 || o->shapes_per_shard < 1)
        return status_set(st, ST_USAGE,
                          "limits of %g s, %lld MB, %lld faces, %d shapes per shard: all must be positive",
                          o->limit_seconds, (long long)o->limit_mbytes, (long long)o->limit_faces, o->shapes_per_shard);
    if (o->parts > 1 && (o->part < 0 || o->part >= o->parts))
        return status_set(st, ST_USAGE, "prep.part=%lld: with prep.parts=%lld it is 0 to %lld", (long long)o->part,
                          (long long)o->parts, (long long)o->parts - 1);
    if (!(o->heldout_share >= 0 && o->heldout_share < 1))
        return status_set(st, ST_USAGE, "held-out share %g: it must be in [0,1)", o->heldout_share);
    if (!(o->half_thickness >= 0 && o->half_thickness <= 8 && o->cap_share >= 0 && o->sharp_degrees > 0 &&
          o->sharp_voxels >= 0))
        return status_set(st, ST_USAGE, "half thickness %g, cap share %g, sharp angle %g, sharp width %g: out of range",
                          o->half_thickness, o->cap_share, o->sharp_degrees, o->sharp_voxels);
    return true;
}

uint64_t prep_settings_hash(const prep_options *o) {
    char      text[512];
    prep_grid grid[PREP_MAX_GRIDS];
    int       n_grids = prep_grids(o, grid), n = 0;
    for (int k = 0; k < n_grids; k++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%d %g ", grid[k].resolution, grid[k].tau_voxels);
    snprintf(text + n, sizeof text - (size_t)n, "%g %lld %lld %lld %lld %g %g%s", o->limit_seconds,
             (long long)o->limit_mbytes, (long long)o->limit_faces, (long long)o->min_tiles, (long long)o->max_tiles,
             o->half_thickness, o->cap_share, o->dedupe ? " dedupe" : "");
    return hash_text(text);
}
