/* Shared by the files of attn_select: what its kernels get, and who does what.
 *   attn_select.cu        entries and the choice of a form
 *   attn_select_fwd.cu    bf16: forward, and the packing of keys and values
 *   attn_select_dq.cu     bf16: backward for the queries
 *   attn_select_lists.cu  for both forms: which queries selected a block, and the plan of the next two
 *   attn_select_keys.cu   bf16: backward for the keys
 *   attn_select_groups.cu the same by warpgroups, for heads of up to 32 columns on Hopper
 *   attn_select_loops.cu  float32, and bf16 rows that are not made of 16-byte chunks */
#pragma once
#include "kernels/cuda/dev/select_tiles.cuh"

struct select_view {
    const void    *q, *k, *v, *o, *dout; /* o: what forward wrote */
    void          *out, *dq, *dk, *dv;
    float         *lse;
    const float2  *given; /* (N,H): the caller's stat, or NULL */
    float2        *stat;  /* (N,H): loops: {lse, sum of dout*out}, which backward for the queries leaves for the keys;
                             bf16: `given`, or the same of what forward wrote */
    bool           dq_add;
    const int32_t *block, *first;
    int64_t        N;
    int            H, G, D, hs, K, NB;
    float          scale;
};

/* Queries of each (key head g, block b), ascending: query[first[l] .. first[l+1]-1], l = g*NB + b. */
struct select_lists {
    int32_t *query, *first;
    int      n; /* G*NB */
};
select_lists select_make_lists(ctx *c, const select_view &a);

template <class T> void select_loops_fwd(ctx *c, const select_view &a);
template <class T> void select_loops_bwd(ctx *c, const select_view &a, const select_lists &lists);

/* Keys and values of one key head in tiles of 16 keys, each block's from a tile of its own on. Tiles of a block are
 * neighbours; block b starts at tile select_tile_of(first[b], b). A tile is 64 * groups chunks of 16 bytes of keys,
 * then as many of values (groups: of 32 channels, filled up with zeros), as the lanes of a warp load them: chunk
 * [group][half][lane]. */
__host__ __device__ inline int select_tile_of(int first, int block) {
    return first / 16 + block; /* never closer than the tiles of the blocks before */
}
static inline int64_t select_n_tiles(const select_view &a) {
    return a.N / 16 + a.NB;
}
static inline int select_groups(int D) {
    return D <= 32 ? 1 : D <= 64 ? 2 : 4;
}

struct select_packed {
    uint4  *kv;
    int64_t n_tiles; /* of a key head */
    float  *square;  /* (G) largest squared length of a key */
    int    *ticket;  /* runs of queries that are taken (select_walk.cuh); for one kernel */
};
/* Keys: the chunk 8quad .. of key lane/4 + 8*half. Values: the same if by_key; else as operand of P V
 * (attn_select_fwd.cu). */
select_packed select_pack(ctx *c, const select_view &a, bool by_key);

void select_tiles_fwd(ctx *c, const select_view &a);
void select_find_stat(ctx *c, const select_view &a); /* for the two below */
void select_tiles_dq(ctx *c, const select_view &a, const select_packed &p);
void select_tiles_dkv(ctx *c, const select_view &a, const select_packed &p, const select_lists &lists);
bool select_dkv_wants_packed(const ctx *c, const select_view &a); /* else p is not read */
