/* What attn_segment_fused.cu keeps where: shape and shared memory of a block, its barriers, what its threads know, and
 * dq between two chunks of keys. */
#pragma once
#include <stddef.h>

#include "kernels/cuda/attn_segment.cuh"
#include "kernels/cuda/dev/mbarrier.cuh"

struct fused {
    static constexpr int D = 32, GROUPS = 3, WARPS = 4 * GROUPS, THREADS = 32 * WARPS;
    static constexpr int MT = 2, KEYS = 64 * MT * GROUPS; /* tiles of 64 keys of a warpgroup; keys of a chunk */
    static constexpr int ROWS = 64, STEP = 32;            /* of a tile; of a warpgroup's products */
    static constexpr int STAGES = 4, AHEAD = 2;           /* of the ring of rows; tiles on their way */
    static constexpr int BUFFERS = GROUPS;                /* of dS */
    static constexpr int PAIR = 2;                        /* blocks of a cluster, whose dk and dv become one sum */
    /* Bytes: a tile's q or dout; q, dout, stat; 64 keys' k; their dS for a tile; dS of a tile. */
    static constexpr int TILE = ROWS * D * 2, STAGE = 2 * TILE + ROWS * 8, KEY_TILE = 64 * D * 2;
    static constexpr int DS_TILE = 64 * ROWS * 2, DS = MT * GROUPS * DS_TILE;
    static constexpr int WAITING = 128; /* uint2, a thread's low bits of dq of a tile */
    static constexpr int K_AT = BUFFERS * DS, RING_AT = K_AT + MT * GROUPS * KEY_TILE;
    static constexpr int OUT_AT = RING_AT + STAGES * STAGE; /* a warp's 16 rows of dq */
    static constexpr int BARS_AT = OUT_AT + WARPS * 16 * D * 2;
    static constexpr int BLOCK_AT = BARS_AT + 2 * (STAGES + BUFFERS) * MBARRIER_BYTES, BYTES = BLOCK_AT + 64;
    static_assert(STAGE % (16 * D) == 0, "tiles start with the permutation");
    static_assert(MT * GROUPS * KEY_TILE <= DS, "values wait in the room of dS");
    static_assert(BUFFERS == GROUPS, "a buffer's number tells whose turn it is");
};

/* Barriers. Of rows: a tile is there, all warps are done with it. Of dS: likewise, but the warps of dq are. */
struct fused_bars {
    uint32_t                            at;
    __device__ __forceinline__ uint32_t bar(int i) const { return at + i * MBARRIER_BYTES; }
    __device__ __forceinline__ uint32_t rows_full(int tile) const { return bar(tile % fused::STAGES); }
    __device__ __forceinline__ uint32_t rows_free(int tile) const { return bar(fused::STAGES + tile % fused::STAGES); }
    __device__ __forceinline__ uint32_t ds_full(int buffer) const { return bar(2 * fused::STAGES + buffer); }
    __device__ __forceinline__ uint32_t ds_free(int buffer) const {
        return bar(2 * fused::STAGES + fused::BUFFERS + buffer);
    }
};

/* What all threads of the block know. Tiles of rows are counted over all chunks, as the barriers' phases are. */
struct fused_block {
    int    g, q0, h0;               /* key head; first query and head */
    int    row0, end;               /* row of the segment that tile 0 would begin with; behind the last row */
    int    first, past;             /* tiles of this chunk and slab */
    int    key_tiles, n_keys, key0; /* of the chunk; key0: position of the first key */
    int    first_chunk, last_chunk;
    int    sum, more; /* place of dk and dv; whether another slab's are there */
    uint2 *low;       /* of dq of tile `first` */
};
static_assert(sizeof(fused_block) <= 64, "its room");

/* Scratch for what of dq waits outside of its rows, of one slab of each part of the rows at a time. Parts lie one after
 * the other in the order of their tiles; a segment's tiles begin with one of its own. */
struct fused_waiting {
    uint2 *low; /* (places, G, WAITING) */
    int    slabs;

    /* Of the first tile of a part, before which so many tiles and parts are; or of all, how many there are. */
    __host__ __device__ __forceinline__ int64_t place(int64_t tiles, int64_t parts) const {
        return tiles / slabs + parts;
    }
};

__device__ __forceinline__ int block_int(uint32_t shared, size_t field) {
    int x;
    asm volatile("ld.shared.b32 %0, [%1];\n" : "=r"(x) : "r"(shared + fused::BLOCK_AT + (uint32_t)field) : "memory");
    return x;
}
#define OF_BLOCK(field) block_int(shared, offsetof(fused_block, field))

/* threadIdx.x and blockIdx.x read once more, so that nobody keeps what follows from them in registers for long. */
__device__ __forceinline__ int thread_anew() {
    int x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}
__device__ __forceinline__ int block_anew() {
    int x;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(x));
    return x;
}

/* A thread's dq of two rows between two chunks: sign, exponent and 11 bits of the fraction. What is cut off comes back
 * as about half a unit, so that errors (2^-12, an eighth of the result's) have no direction. NaN and infinity come back
 * as NaN. */
struct waiting_dq {
    uint4    high[2]; /* of eight values each: 16 bits */
    uint32_t low[2];  /* the next four */

    __device__ __forceinline__ void pack(const float (&x)[4][4]) {
#pragma unroll
        for (int row = 0; row < 2; row++) {
            uint32_t word[4], bits[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t left = __float_as_uint(x[i][2 * row]), right = __float_as_uint(x[i][2 * row + 1]);
                word[i] = __byte_perm(left, right, 0x7632);
                bits[i] = __byte_perm(left, right, 0x5151);
            }
            high[row] = uint4{word[0], word[1], word[2], word[3]};
            low[row] = (__byte_perm(bits[0], bits[1], 0x5410) >> 4 & 0x0f0f0f0f) |
                       (__byte_perm(bits[2], bits[3], 0x5410) & 0xf0f0f0f0);
        }
    }
    __device__ __forceinline__ void add_to(float (&x)[4][4]) const {
#pragma unroll
        for (int row = 0; row < 2; row++) {
            const uint32_t word[4] = {high[row].x, high[row].y, high[row].z, high[row].w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                uint32_t bits = ((i < 2 ? low[row] << 4 : low[row]) & 0xf0f0f0f0) | 0x08080808;
                x[i][2 * row] += __uint_as_float(__byte_perm(word[i], bits, i % 2 ? 0x1066 : 0x1044));
                x[i][2 * row + 1] += __uint_as_float(__byte_perm(word[i], bits, i % 2 ? 0x3277 : 0x3255));
            }
        }
    }
};
