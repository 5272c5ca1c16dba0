/* Condition tokens of the views of a shard, one file per shard, written by `d3s2 tokens`; the same rules as latents.
 *   / attributes: format "d3s2-tokens", version, encoder (u64: fingerprint of weights and image size), width, size (of
 * the images, pixels), special (class and register tokens of a view), foreground (1: without background patches),
 * variants, shard (name), n_samples, n_views, n_tokens, complete   /sample/ id u64 [S], first i64 [S+1] (views) /view/
 * first i64 [V+1] (tokens), hash u64 [V] /token/ value u16 [T,W] (bf16 bits), coord u16 [T,3] (R§5.4: class and
 * registers (0,0,1), patches (column,row,0)) A "view" here is one variant of one view: view v in variant k is view
 * v*variants + k of its sample; variant 0 is not augmented. */
#pragma once
#include "core/base.h"

typedef struct {
    char      path[512];
    uint64_t  encoder;
    int       width, size, special, variants;
    bool      foreground;
    char      shard[256]; /* file name of the shard, without folder */
    int64_t   n_samples, n_views, n_tokens;
    uint64_t *id;         /* [n_samples] */
    int64_t  *view_first; /* [n_samples+1] */
    int64_t  *first;      /* [n_views+1] */
    uint64_t *hash;       /* [n_views] */
    void     *file;
} token_file;

typedef struct tokens_writer tokens_writer;

/* As latents_make_room. */
bool           tokens_make_room(const char *path, const uint64_t *id, int64_t n, status *st);
tokens_writer *tokens_create(const char *path, const token_file *meta /* encoder .. shard */, status *st);
/* Views of the sample that comes next, then the sample itself. token (n,width), coord (n,3). */
bool           tokens_append_view(tokens_writer *w, int64_t n, const float *token, const int32_t *coord, status *st);
bool           tokens_end_sample(tokens_writer *w, uint64_t id, status *st);
bool           tokens_finish(tokens_writer *w, status *st);
void           tokens_abandon(tokens_writer *w);

bool    tokens_open(token_file *t, const char *path, status *st);
void    tokens_close(token_file *t);
int64_t tokens_most(const token_file *t); /* of one view, at most */
/* View `view` of sample i: malloc'ed (n,width) and (n,3), verified against the hash. */
bool  tokens_read(const token_file *t, int64_t i, int64_t view, int64_t *n, float **token, int32_t **coord, status *st);
/* All *.h5 files of a folder; encoder, width, size, variants and foreground must agree. Not all stay open. */
bool  tokens_open_all(const char *folder, token_file **out, int *n_out, status *st);
void  tokens_close_all(token_file *t, int n);
/* As shard_pack_all. */
char *tokens_pack_all(const token_file *t, int n, int64_t *bytes);
token_file *tokens_unpack_all(const char *packed, int64_t bytes, int *n);
