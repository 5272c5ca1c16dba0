/* A shard: one HDF5 file of many samples of one resolution, one writer (docs/formats.md is the page for other readers).
 *
 *   /            attributes: format "d3s2-shard", version, tool, resolution, tau_voxels, sign "positive outside",
 * units, grid "corner aligned: voxel i at i/(R-1) - 0.5", n_samples, n_tiles, complete /tile/       coord u16 [T,3],
 * value f16 [T,512] (clamp(sdf/tau,-1,1), Morton child order R§3.6), sharp u8 [T,64] (bit of child c: byte c/8, bit
 * c%8) /sample/     id u64 [S], first i64 [S+1] (tile rows), n_in i64 [S] (|value| < 1), n_sharp i64 [S], hash u64 [S]
 *                (XXH3 of the sample's coord, value, sharp bytes in this order), source (string), category (string),
 *                source_hash u64, center f64 [S,3], scale f64 [S] (v_norm = (v - center) * scale in [-0.95,0.95]),
 *                report (string: one-line JSON of quality figures)
 *   /view/       first i64 [S+1], png_first i64 [V+1], png u8 [..] (RGBA files, one after the other), camera f32 [V,24]
 *                (row-major world-to-camera 4x4, then fx, fy, cx, cy in pixels, width, height, near, far),
 *                hash u64 [V]
 * Written to NAME.part, completed, fsynced and renamed: a file named *.h5 is whole. Chunked so that one sample is read
 * without its neighbours, shuffle + deflate, fletcher32.
 */
#pragma once
#include "core/base.h"

enum { SHARD_VERSION = 1, TILE_CELLS = 512, TILE_SHARP_BYTES = 64, VIEW_CAMERA_FLOATS = 24 };

/* One sample in memory. Tiles are in final order (R§4.2: by 8^3 block lexicographic, then place in the block). */
typedef struct {
    uint64_t  id;          /* hash_text of the source's name relative to the input folder: stable over runs */
    char     *source;      /* that name */
    char     *category;    /* "" when unknown */
    uint64_t  source_hash; /* XXH3 of the file's bytes */
    double    center[3], scale;
    char     *report;        /* one-line JSON */
    int64_t   n_tiles, room; /* room: tiles that memory was taken for, where reading took it */
    uint16_t *coord;         /* [n_tiles,3] */
    uint16_t *value;         /* [n_tiles,512] IEEE half */
    uint8_t  *sharp;         /* [n_tiles,64] */
    int64_t   n_in, n_sharp; /* filled by sample_count */
    int       n_views;
    float    *camera; /* [n_views,24] */
    uint8_t **png;    /* [n_views] PNG files in memory */
    int64_t  *png_size;
} sample;

void sample_count(sample *s); /* n_in and n_sharp from value and sharp (sharp counts only where |value| < 1) */
void sample_free(sample *s);  /* frees what the fields point to, not *s */

/* ---- writing -------------------------------------------------------------------------------------------------- */

typedef struct shard_writer shard_writer;

typedef struct {
    int    resolution; /* R */
    double tau_voxels;
} shard_meta;

/* NULL on failure, *st says why (disk full, no permission, file exists). */
shard_writer *shard_create(const char *path, const shard_meta *meta, status *st);
bool          shard_append(shard_writer *w, const sample *s, status *st);
/* Completes and renames. On failure the .part file is removed. Frees w in every case. */
bool          shard_finish(shard_writer *w, status *st);
void          shard_abandon(shard_writer *w); /* removes the .part file */

/* ---- reading -------------------------------------------------------------------------------------------------- */

/* Small tables of a shard; the tiles stay in the file, which is opened when something is read of it. */
typedef struct {
    char       path[512];
    shard_meta meta;
    int64_t    n_samples, n_tiles, n_views;
    uint64_t  *id, *hash, *source_hash; /* [n_samples] */
    int64_t   *first, *view_first;      /* [n_samples+1] */
    int64_t   *n_in, *n_sharp;          /* [n_samples] */
    char     **source, **category, **report;
    double    *center, *scale; /* [n_samples,3], [n_samples] */
    void      *file;           /* hidden handle */
} shard;

/* Checks format, version, completeness, sizes of all tables and offsets before anything is allocated from them; a
 * failure names the file and the mend. File locking is switched off for reading. */
bool shard_open(shard *s, const char *path, status *st);
void shard_close(shard *s);

/* Reads sample i: tiles always, verified against its hash (a flipped byte is ST_DATA naming file and sample). */
bool shard_read_sample(const shard *s, int64_t i, bool with_views, sample *out, status *st);
/* The same without views, into a sample that was read before or is empty: its memory is used again. Also after a
 * failure the sample may be read into, or freed. */
bool shard_read_again(const shard *s, int64_t i, sample *io, status *st);
/* A copy of s, without its views, into a sample that was read before or is empty: its memory is used again. */
void sample_assign(sample *io, const sample *s);
/* The same of n of its tiles; n_in and n_sharp stay those of all. */
void sample_assign_rows(sample *io, const sample *s, int64_t n, const int64_t *row);
/* PNG bytes and camera of one view of sample i; *png is malloc'ed. */
bool shard_read_view(const shard *s, int64_t i, int view, uint8_t **png, int64_t *png_size, float camera[24],
                     status *st);

/* A number of sample i's report ("parts", "open_edge_share", ...). */
double shard_figure(const shard *s, int64_t i, const char *name, double missing);

/* Everything `d3s2 check` promises: offsets, tile order, coordinate range, duplicates, value range and NaN, hashes,
 * views decode. Reports the first fault of each sample through *st (first) and the count of bad samples. */
bool shard_check(const char *path, int64_t *n_bad, status *st);

/* All *.h5 shards of a folder (or one file), sorted by name; malloc'ed array. Resolutions and tau must agree. Not all
 * of their files stay open (file_pool.h). */
bool shard_open_all(const char *folder_or_file, shard **out, int *n_out, status *st);
void shard_close_all(shard *shards, int n);

/* All tables as bytes (malloc'ed), for ranks that need not read them from the files, and back. The files must be there
 * under the same names when samples are read. */
char  *shard_pack_all(const shard *shards, int n, int64_t *bytes);
shard *shard_unpack_all(const char *packed, int64_t bytes, int *n);
