#include "data/tile_cells.h"
#include "core/half.h"

#include <string.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

/* Eight bytes that are 0 or 1 to eight bits, the first byte lowest. */
static uint64_t pack(const uint8_t flag[8]) {
    uint64_t w;
    memcpy(&w, flag, 8);
    return w * UINT64_C(0x0102040810204080) >> 56;
}

int cells_mask(const uint16_t *value, uint64_t mask[TILE_WORDS]) {
    enum { ONE = 0x3c00 };
    int n = 0;
    for (int w = 0; w < TILE_WORDS; w++) {
        uint8_t  flag[64];
        uint64_t m = 0;
        for (int c = 0; c < 64; c++) flag[c] = (value[64 * w + c] & 0x7fff) < ONE;
        for (int b = 0; b < 8; b++) m |= pack(flag + 8 * b) << (8 * b);
        mask[w] = m;
        n += __builtin_popcountll(m);
    }
    return n;
}

int cells_sharp(const uint64_t mask[TILE_WORDS], const uint8_t *sharp) {
    int n = 0;
    for (int w = 0; w < TILE_WORDS; w++) {
        uint64_t bits;
        memcpy(&bits, sharp + 8 * w, 8);
        n += __builtin_popcountll(bits & mask[w]);
    }
    return n;
}

void cells_values(const uint16_t *value, float out[TILE_CELLS]) {
#ifdef __F16C__
    for (int c = 0; c < TILE_CELLS; c += 8)
        _mm256_storeu_ps(out + c, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(value + c))));
#else
    for (int c = 0; c < TILE_CELLS; c++) out[c] = f16_to_f32(value[c]);
#endif
}

void cells_active(const uint16_t *value, const uint64_t mask[TILE_WORDS], float *out) {
    float kept[TILE_CELLS + 8];
    int   n = 0;
#if defined(__AVX2__) && defined(__F16C__) && defined(__BMI2__)
    for (int w = 0; w < TILE_WORDS; w++)
        for (int b = 0; b < 64; b += 8) { /* the places of the set bits, as bytes, choose among eight floats */
            uint64_t bits = mask[w] >> b & 255, bytes = _pdep_u64(bits, UINT64_C(0x0101010101010101)) * 255;
            __m256i  from =
                _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)_pext_u64(UINT64_C(0x0706050403020100), bytes)));
            __m256 x = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(value + 64 * w + b)));
            _mm256_storeu_ps(kept + n, _mm256_permutevar8x32_ps(x, from));
            n += __builtin_popcountll(bits);
        }
#else
    for (int w = 0; w < TILE_WORDS; w++)
        for (int c = 0; c < 64; c++) { /* no branch: about half of the cells are active, in no order */
            kept[n] = f16_to_f32(value[64 * w + c]);
            n += mask[w] >> c & 1;
        }
#endif
    memcpy(out, kept, (size_t)n * sizeof *kept);
}
