/* Tiles of 4^3 cells in shared memory so that three offsets along x share what is read. Eight cells with one x, two
 * along y and four along z, are an 8x8 matrix of ldmatrix; at six x they meet all offsets along x of the four in the
 * tile. They are read two at a time; what lies between two pairs is put together from registers:
 *
 *     x of the cells         0 1 2 3 4 5       (1 to 4: in the tile)
 *     read                   |-| |-| |-|
 *     of two pairs             |-| |-|
 *
 * Slots are those of dev/conv_index.cuh, 64 bytes at 64 * ((X*6 + Y)*6 + Z), chunk c at place c ^ plane_twist(Y,Z): the
 * parity of Z picks a half of 128 bytes and the twist another quarter of it for each Y and Z/2 of the eight cells,
 * wherever they begin. */
#pragma once
#include "kernels/cuda/dev/conv_slots.cuh"

namespace {

enum {
    HALO_EDGE = SIDE + 2,
    LINE_BYTES = HALO_EDGE * 64,
    PLANE_BYTES = HALO_EDGE * LINE_BYTES,
    PAIRS_READ = HALO_EDGE / 2
};

CONV_HD int plane_twist(int Y, int Z) {
    return (Y & 1) << 1 | (Z >> 1 & 1);
}
/* Byte of a chunk of halo cell (X,Y,Z). */
CONV_HD int plane_chunk(int X, int Y, int Z, int chunk) {
    return X * PLANE_BYTES + Y * LINE_BYTES + Z * 64 + ((chunk ^ plane_twist(Y, Z)) << 4);
}

__device__ __forceinline__ void plane_slots(uint32_t *slot) {
    for (int i = threadIdx.x; i < SLOT_TABLE; i += blockDim.x) {
        const int s = i < SLOTS ? i : SLOTS - 1;
        int       t, cell;
        halo_source<SIDE>(s, &t, &cell);
        slot[i] = slot_word(t, cell, s * 64 | plane_twist(s / HALO_EDGE % HALO_EDGE, s % HALO_EDGE) << 4);
    }
}

/* Where a lane reads at the lowest of three offsets along y, from each of three along z. */
struct plane_entry {
    uint32_t z[3];

    /* X: 0 or 1; y, z: of a cell of the tile. */
    __device__ __forceinline__ plane_entry(int X, int y, int z0, int chunk) {
#pragma unroll
        for (int d = 0; d < 3; d++) z[d] = plane_chunk(X, y, z0 + d, chunk);
    }
    /* Of pair i of planes, dy and dz from 0 to 2; `turn`: 2 for the other two chunks of the four. */
    __device__ __forceinline__ uint32_t at(uint32_t tile, int i, int dy, int dz, int turn) const {
        return ((tile + z[dz]) ^ (dy << 1 & 2 ^ turn) << 4) + i * 2 * PLANE_BYTES + dy * LINE_BYTES;
    }
};

} // namespace
