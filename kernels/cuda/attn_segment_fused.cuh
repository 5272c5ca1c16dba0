/* What attn_segment_fused.cu keeps where: shape and shared memory of a block, its barriers, what its threads know, and
 * the two forms in which dq waits from chunk to chunk of the keys. */
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
    /* Bytes: a tile's q or dout; q, dout, stat; 64 keys' k; their dS for a tile; dS of a tile. */
    static constexpr int TILE = ROWS * D * 2, STAGE = 2 * TILE + ROWS * 8, KEY_TILE = 64 * D * 2;
    static constexpr int DS_TILE = 64 * ROWS * 2, DS = MT * GROUPS * DS_TILE;
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
    int   q0, row0, end; /* first query; row of the segment that tile 0 would begin with; behind the last row */
    int   first, past;   /* tiles of this chunk and slab */
    int   key_tiles, n_keys, key0; /* of the chunk; key0: position of the first key */
    int   first_chunk, last_chunk;
    void *waiting; /* what of dq of tile `first` is in scratch */
    int   slab;    /* where there are any */
};
static_assert(sizeof(fused_block) <= 64, "its room");

__device__ __forceinline__ int block_int(uint32_t shared, size_t field) {
    int x;
    asm volatile("ld.shared.b32 %0, [%1];\n" : "=r"(x) : "r"(shared + fused::BLOCK_AT + (uint32_t)field) : "memory");
    return x;
}
#define OF_BLOCK(field) block_int(shared, offsetof(fused_block, field))

template <class T> __device__ __forceinline__ T *block_waiting(uint32_t shared) {
    T *x;
    asm volatile("ld.shared.b64 %0, [%1];\n"
                 : "=l"(x)
                 : "r"(shared + fused::BLOCK_AT + (uint32_t)offsetof(fused_block, waiting))
                 : "memory");
    return x;
}

__device__ __forceinline__ void prefetch_l2(const void *p) {
    asm volatile("prefetch.global.L2 [%0];\n" ::"l"(p));
}

/* Where the 64 bytes of dq of row r of the segment are. */
__device__ __forceinline__ bf16 *dq_row(const segment_problem<bf16> &a, uint32_t shared, int r) {
    int query = divide(r, a.by_hs), h = blockIdx.x % a.G * a.hs + r - query * a.hs;
    return row_at(a.dq, OF_BLOCK(q0) + query, a.q_bytes) + h * fused::D;
}

/* A thread's rows of a tile: this one and the one 8 further; how many there are from it on. */
struct fused_rows {
    int row, left;

    __device__ __forceinline__ fused_rows(uint32_t shared, int tile) {
        int thread = thread_anew();
        row = OF_BLOCK(row0) + tile * fused::ROWS + thread % 128 / 32 * 16 + thread % 32 / 4;
        left = OF_BLOCK(end) - row;
    }
    __device__ __forceinline__ uint4 *dq(const segment_problem<bf16> &a, uint32_t shared, int i) const {
        return reinterpret_cast<uint4 *>(dq_row(a, shared, row + 8 * i)) + threadIdx.x % 4;
    }
    /* Those of the tile that this warpgroup needs next. */
    static __device__ __forceinline__ void prefetch(const segment_problem<bf16> &a, uint32_t shared, int tile) {
        int next = OF_BLOCK(row0) + (tile + fused::GROUPS) * fused::ROWS + thread_anew() % 128;
        if (threadIdx.x % 128 < fused::ROWS && next < OF_BLOCK(end)) prefetch_l2(dq_row(a, shared, next));
    }
};

/* What was in dq before and is added to: `bits` from there, as the first chunk finds them. */
__device__ __forceinline__ void add_before(const segment_problem<bf16> &a, const uint4 (&bits)[2], float (&x)[4][4]) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
        uint32_t word[4] = {bits[row].x, bits[row].y, bits[row].z, bits[row].w};
        turn_quad(word, threadIdx.x % 32);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            x[i][2 * row] += bf16_lo(word[i]) * a.unscale;
            x[i][2 * row + 1] += bf16_hi(word[i]) * a.unscale;
        }
    }
}

/* A form says where dq of a tile waits: WORDS of scratch for each tile and key head, of a slab of each part's rows at a
 * time where SLABS; place(): of the first tile of a part before which so many tiles and parts are, or how many places
 * there are. Parts lie one after the other in the order of their tiles; a segment's tiles begin with one of its own.
 * Its `waiting` are the values of one thread of the warpgroup: fetched, added, kept. dq that is added to is fetched
 * with the first chunk, where nothing waits yet. */

/* In f32 in scratch: 128 bytes a row and head. */
struct fused_wide {
    typedef float4        word;
    static constexpr int  WORDS = fused::ROWS * fused::D / 4;
    static constexpr bool SLABS = false;
    word                 *scratch;

    __host__ __device__ __forceinline__ int64_t place(int64_t tiles, int64_t) const { return tiles; }

    struct waiting {
        float4 before[4], *partial;

        __device__ __forceinline__ void fetch(const segment_problem<bf16> &a, uint32_t shared, int tile, bool first) {
            partial = block_waiting<float4>(shared);
            partial += (int64_t)(tile - OF_BLOCK(first)) * a.G * WORDS + threadIdx.x % 128;
#pragma unroll
            for (int i = 0; i < 4; i++) before[i] = first ? float4{0, 0, 0, 0} : partial[i * 128];
            if (first && a.dq_add) {
                fused_rows rows(shared, tile);
#pragma unroll
                for (int i = 0; i < 2; i++)
                    if (8 * i < rows.left) before[i] = *reinterpret_cast<float4 *>(rows.dq(a, shared, i));
                rows.prefetch(a, shared, tile);
            }
            /* Those that this warpgroup needs next. */
            if (!first && threadIdx.x % 8 == 0 && tile + fused::GROUPS < OF_BLOCK(past))
#pragma unroll
                for (int i = 0; i < 4; i++) prefetch_l2(partial + (int64_t)fused::GROUPS * a.G * WORDS + i * 128);
        }
        __device__ __forceinline__ void finish(const segment_problem<bf16> &a, uint32_t, int, float (&x)[4][4],
                                               const float (&y)[4][4], bool first, bool last) {
            if (first && a.dq_add) {
                uint4 bits[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    bits[i] = uint4{__float_as_uint(before[i].x), __float_as_uint(before[i].y),
                                    __float_as_uint(before[i].z), __float_as_uint(before[i].w)};
                    before[i] = float4{0, 0, 0, 0};
                }
                add_before(a, bits, x);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                x[i][0] += y[i][0] + before[i].x, x[i][1] += y[i][1] + before[i].y;
                x[i][2] += y[i][2] + before[i].z, x[i][3] += y[i][3] + before[i].w;
                if (!last) partial[i * 128] = float4{x[i][0], x[i][1], x[i][2], x[i][3]};
            }
        }
    };
};

/* In 20 bits, 16 of them where the result will be, 4 in scratch: 16 bytes a row and head, and fewer by slabs. Sign,
 * exponent and 11 bits of the fraction; what is cut off comes back as about half a unit, so that errors (2^-12, an
 * eighth of the result's) have no direction. NaN and infinity come back as NaN. */
struct fused_compact {
    typedef uint2         word; /* a thread's low bits of a tile */
    static constexpr int  WORDS = 128;
    static constexpr bool SLABS = true;
    word                 *scratch;
    int                   slabs;

    __host__ __device__ __forceinline__ int64_t place(int64_t tiles, int64_t parts) const {
        return tiles / slabs + parts;
    }

    /* A thread's low bits of a tile. */
    static __device__ __forceinline__ uint2 *low_of(const segment_problem<bf16> &a, uint32_t shared, int tile) {
        return block_waiting<uint2>(shared) + (int64_t)(tile - OF_BLOCK(first)) * a.G * WORDS + thread_anew() % 128;
    }

    struct waiting {
        uint4    high[2]; /* of two rows, 16 bits of eight values each */
        uint32_t low[2];  /* the next four */

        __device__ __forceinline__ void fetch(const segment_problem<bf16> &a, uint32_t shared, int tile, bool first) {
            *this = {};
            if (first && !a.dq_add) return;
            fused_rows rows(shared, tile);
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (8 * i < rows.left) high[i] = *rows.dq(a, shared, i);
            rows.prefetch(a, shared, tile);
            if (first) return;
            uint2 *at = low_of(a, shared, tile), bits = *at;
            low[0] = bits.x, low[1] = bits.y;
            if (threadIdx.x % 16 == 0 && tile + fused::GROUPS < OF_BLOCK(past))
                prefetch_l2(at + (int64_t)fused::GROUPS * a.G * WORDS);
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
        __device__ __forceinline__ void finish(const segment_problem<bf16> &a, uint32_t shared, int tile,
                                               float (&x)[4][4], const float (&y)[4][4], bool first, bool last) {
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int e = 0; e < 4; e++) x[i][e] += y[i][e];
            if (!first)
                add_to(x);
            else if (a.dq_add)
                add_before(a, high, x);
            if (last) return;
            pack(x);
            *low_of(a, shared, tile) = uint2{low[0], low[1]};
            fused_rows rows(shared, tile);
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (8 * i < rows.left) *rows.dq(a, shared, i) = high[i];
        }
    };
};
