#include "core/rng.h"

#include <Random123/philox.h>
#include <math.h>
#include <string.h>
#include <xxhash.h>

/* Counter = (element block, step low, sample); key = (seed folded with purpose and step high). */
static philox4x32_ctr_t block(rng_key k, uint64_t i) {
    philox4x32_ctr_t c = {
        {(uint32_t)i, (uint32_t)(i >> 32) ^ (uint32_t)(k.step << 8), (uint32_t)k.sample, (uint32_t)(k.sample >> 32)}};
    uint64_t s = k.seed * 0x9E3779B97F4A7C15ull + (uint64_t)k.purpose * 0xD1B54A32D192ED03ull +
                 (k.step >> 24) * 0x8CB92BA72F3D8DD7ull;
    philox4x32_key_t key = {{(uint32_t)s, (uint32_t)(s >> 32)}};
    return philox4x32(c, key);
}

static double to_unit(uint32_t u) {
    return ((double)u + 0.5) * (1.0 / 4294967296.0);
}

uint32_t rng_u32(rng_key key, uint64_t i) {
    return block(key, i / 4).v[i % 4];
}
double rng_uniform(rng_key key, uint64_t i) {
    return to_unit(rng_u32(key, i));
}

/* Two words give two numbers. */
static void normal_pair(const uint32_t word[2], double out[2]) {
    double radius = sqrt(-2.0 * log(to_unit(word[0]))), angle = 6.283185307179586 * to_unit(word[1]);
    out[0] = radius * cos(angle);
    out[1] = radius * sin(angle);
}

double rng_normal(rng_key key, uint64_t i) {
    philox4x32_ctr_t r = block(key, i / 4);
    double           pair[2];
    normal_pair(r.v + (i & 2), pair);
    return pair[i & 1];
}

void rng_fill_normal(rng_key key, uint64_t first, int64_t n, float *out) {
    for (int64_t j = 0; j < n;) {
        uint64_t         i = first + (uint64_t)j;
        philox4x32_ctr_t r = block(key, i / 4);
        double           four[4];
        normal_pair(r.v, four);
        normal_pair(r.v + 2, four + 2);
        for (int lane = (int)(i % 4); lane < 4 && j < n; lane++, j++) out[j] = (float)four[lane];
    }
}

void rng_fill_uniform(rng_key key, uint64_t first, int64_t n, float lo, float hi, float *out) {
    for (int64_t j = 0; j < n; j++) out[j] = (float)(lo + ((double)hi - lo) * rng_uniform(key, first + (uint64_t)j));
}

void rng_permutation(rng_key key, int64_t n, int64_t *out) {
    for (int64_t i = 0; i < n; i++) out[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        uint64_t r = (uint64_t)rng_u32(key, (uint64_t)(2 * i)) << 32 | rng_u32(key, (uint64_t)(2 * i + 1));
        int64_t  j = (int64_t)(((unsigned __int128)r * (uint64_t)(i + 1)) >> 64), t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
}

uint64_t hash_text(const char *text) {
    return XXH3_64bits(text, strlen(text));
}
uint64_t hash_bytes(const void *data, size_t bytes, uint64_t seed) {
    return XXH3_64bits_withSeed(data, bytes, seed);
}
