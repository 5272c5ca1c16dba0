/* The driver behind `d3s2 prep`: a folder of mesh files to shards of sparse distance fields with condition views.
 *
 *   OUT/[train/|heldout/]shard-RANK-SEQ.h5   complete shards (src/data/shard.h); subfolders when a split is asked for
 *   OUT/r256/.., OUT/r512/.. the same for each of several grids; a mesh is read, judged and rendered once for all of
 * them OUT/rejects.jsonl                        one line per mesh that could not be used, with the reason
 *   OUT/geometry.txt                         which shape has which geometry (dedupe)
 *   OUT/heldout.txt                          what is held out by name
 *   OUT/lock                                 one run at a time
 *
 * Ranks take meshes from a common queue and write their own shards. A restart removes *.part files of dead runs, keeps
 * what complete shards hold and skips what was rejected before, unless the file or the settings changed. A bad mesh is
 * logged and counted, never fatal; a failed write stops all ranks with the same status and leaves only whole shards. */
#pragma once
#include "data/shard.h"

enum { PREP_MAX_GRIDS = 8 };

typedef struct {
    int    resolution;
    double tau_voxels;
    char   folder[16]; /* "" or "r512" */
} prep_grid;

typedef struct {
    const char *input;      /* folder, or a text file with one mesh path per line (relative to its folder) */
    const char *output;     /* folder, made when missing */
    int         resolution; /* multiple of 8, 16..4096 */
    int         resolutions[PREP_MAX_GRIDS]; /* several grids in place of `resolution` */
    int         n_resolutions;               /* 0: that one */
    double      tau_voxels;                  /* (0,16]; 0: R/256 of each grid */
    const char *images;                      /* folder of pictures to take as views (pictures.h), or NULL */
    int         views;                       /* per shape, >= 0; without images */
    int         view_size;                   /* pixels of a side */
    int         view_samples;                /* per pixel and axis, 1..16 */
    int         up_axis;                     /* of the meshes: 1 = y, 2 = z */
    bool        orbit;                       /* cameras all around, views.h */
    uint64_t    seed;
    double      limit_seconds; /* of importing one mesh */
    int64_t     limit_mbytes, limit_faces;
    int         shapes_per_shard;
    int64_t     max_shapes;           /* only the first so many mesh files by name; 0: all */
    int64_t     part, parts;          /* of these only those whose place is part modulo parts; parts <= 1: all */
    bool        dedupe;               /* a shape whose tiles another one has to the bit is rejected */
    int64_t     min_tiles, max_tiles; /* a shape outside is rejected; max 0: no limit */
    const char *heldout_names;        /* text with one source name per line, or NULL */
    double      heldout_share;        /* [0,1): of the shapes (data/split.h); used when there are no names */
    double      half_thickness, cap_share, sharp_degrees, sharp_voxels; /* sdf.h */
    bool        dry_run;                                                /* says what would be done, writes nothing */
} prep_options;

/* Defaults: R 128, tau 2 voxels, 4 views of 112 px, 4x4 samples, 64 shapes a shard, 60 s and 4096 MB a mesh. */
prep_options prep_default_options(void);
/* The grids of prep.resolutions, or the one of prep.resolution; their number. */
int          prep_grids(const prep_options *o, prep_grid grid[PREP_MAX_GRIDS]);
bool         prep_check_options(const prep_options *o, status *st);
/* Of everything that a mesh's rejection depends on beside the mesh and its pictures. */
uint64_t     prep_settings_hash(const prep_options *o);

typedef struct {
    int64_t found, skipped, done, rejected; /* files; skipped = already done or rejected */
    int64_t kept;                           /* of the skipped those that are in a shard; known to rank 0 */
    int64_t tiles, voxels_in;               /* of the done ones */
    double  seconds;
} prep_result;

/* Collective over `size` ranks (MPI is up when size > 1); every rank returns the same answer. result may be NULL. */
bool prep_run(const prep_options *o, int rank, int size, prep_result *result, status *st);

/* One mesh file to a sample of each grid whose bit is in `which`, without a shard: what prep_run does for each. out has
 * a place for every grid. `name` is its source name. Errors are of the mesh (ST_DATA, ST_NO_INPUT); a mesh that one
 * grid cannot take is taken by none. */
bool prep_sample(const prep_options *o, const char *path, const char *name, const char *category, const char *title,
                 unsigned which, sample *out, status *st);

/* ---- file list (prep_list.c) ---------------------------------------------------------------------------------- */

typedef struct {
    char   *root; /* folder the names are relative to */
    char  **name; /* [n] sorted */
    int64_t n;
} file_list;

/* All files below a folder that the importer knows, one such file, or the lines of a list file. */
bool file_list_read(const char *input, file_list *l, status *st);
void file_list_free(file_list *l);
