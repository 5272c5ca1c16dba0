/* Bits come from a word that is refilled eight bytes at a time; behind the end of the input zeros are read, and how
 * many is checked. A table of the next bits gives symbol and length at once; codes longer than its index go on in a
 * second table behind it. An entry has what follows ready to use:
 *
 *     bits 0-7    length of the code (in a second table: of its rest; where one follows: of the index)
 *     bits 8-15   extra bits, or log2 of the second table
 *     bits 16-27  literal; base of a length; (base - 1) >> extra of a distance; place of the second table */
#include "io/inflate.h"

#include <string.h>

enum { MAX_CODE = 15, LITERALS = 288, DISTANCES = 32, LENGTHS = 19 };
enum { LITERAL_INDEX = 10, DISTANCE_INDEX = 8, LENGTH_INDEX = 7, TABLE_ROOM = 2048 }; /* zlib's `enough`: 1334 */

#define IS_LITERAL UINT32_C(0x80000000)
#define IS_SPECIAL UINT32_C(0x40000000) /* end of block, second table or no code */
#define IS_END UINT32_C(0x20000000)
#define IS_TABLE UINT32_C(0x10000000)

typedef struct {
    const uint8_t *in, *end;
    uint64_t       bits;    /* above the n lowest there may be more, which are read again */
    unsigned       n;       /* at least 56 after a refill */
    size_t         n_zeros; /* bytes made up behind the end */
} reader;

static inline uint32_t value_of(uint32_t entry) {
    return entry >> 16 & 0xfff;
}

static inline void refill(reader *r) {
    if (r->end - r->in >= 8) {
        uint64_t w;
        memcpy(&w, r->in, 8);
        r->bits |= w << r->n;
        r->in += (63 - r->n) >> 3;
        r->n |= 56;
        return;
    }
    for (; r->n < 56; r->n += 8) {
        if (r->in < r->end)
            r->bits |= (uint64_t)*r->in++ << r->n;
        else
            r->n_zeros++;
    }
}

static inline uint32_t take(reader *r, unsigned n) {
    uint32_t v = (uint32_t)(r->bits & ((UINT64_C(1) << n) - 1));
    r->bits >>= n;
    r->n -= n;
    return v;
}

static inline bool overrun(const reader *r) {
    return r->n_zeros * 8 > r->n;
}

/* ---- tables --------------------------------------------------------------------------------------------------- */

static uint32_t length_entry(int s) {
    return IS_LITERAL | (uint32_t)s << 16;
}

static uint32_t literal_entry(int s) {
    if (s < 256) return IS_LITERAL | (uint32_t)s << 16;
    if (s == 256) return IS_SPECIAL | IS_END;
    if (s > 285) return IS_SPECIAL;
    if (s == 285) return UINT32_C(258) << 16;
    uint32_t k = (uint32_t)s - 257, extra = k < 8 ? 0 : k / 4 - 1;
    return (k < 8 ? 3 + k : 3 + ((4 + k % 4) << extra)) << 16 | extra << 8;
}

static uint32_t distance_entry(int s) {
    uint32_t k = (uint32_t)s, extra = k < 4 ? 0 : k / 2 - 1;
    return s > 29 ? IS_SPECIAL : (k < 4 ? k : 2 + k % 2) << 16 | extra << 8;
}

static unsigned reversed(unsigned code, int n) {
    unsigned out = 0;
    for (int i = 0; i < n; i++) out |= (code >> i & 1) << (n - 1 - i);
    return out;
}

/* Table of canonical codes; false when the lengths are not those of a code. A code of one symbol may be incomplete. */
static bool build(const uint8_t *length, int n, int index, uint32_t (*entry)(int), uint32_t *table) {
    unsigned count[MAX_CODE + 1] = {0}, next[MAX_CODE + 1] = {0};
    int      left = 1, longest = 0, room = 1 << index;
    uint16_t code[LITERALS];
    uint8_t  deep[1 << LITERAL_INDEX] = {0}; /* bits of the second table of each index */
    for (int s = 0; s < n; s++) count[length[s]]++;
    count[0] = 0;
    for (int l = 1; l <= MAX_CODE; l++) {
        left = 2 * left - (int)count[l];
        if (left < 0) return false;
        next[l] = (next[l - 1] + count[l - 1]) << 1;
        if (count[l]) longest = l;
    }
    if (left > 0 && longest > 1) return false;
    for (int i = 0; left > 0 && i < room; i++) table[i] = IS_SPECIAL;
    for (int s = 0; s < n; s++) {
        if (!length[s]) continue;
        code[s] = (uint16_t)reversed(next[length[s]]++, length[s]);
        int rest = length[s] - index, at = code[s] & (room - 1);
        if (rest > deep[at]) deep[at] = (uint8_t)rest;
    }
    for (int s = 0, used = room; s < n; s++) {
        if (!length[s]) continue;
        int      rest = length[s] - index, at = code[s] & (room - 1);
        uint32_t e = entry(s);
        if (rest <= 0) {
            for (int i = code[s]; i < room; i += 1 << length[s]) table[i] = e | length[s];
            continue;
        }
        if (deep[at]) { /* the first symbol of a second table makes it */
            if (used + (1 << deep[at]) > TABLE_ROOM) return false;
            table[at] = IS_SPECIAL | IS_TABLE | (uint32_t)used << 16 | (uint32_t)deep[at] << 8 | (uint32_t)index;
            used += 1 << deep[at];
            deep[at] = 0;
        }
        uint32_t *second = table + value_of(table[at]);
        for (int i = code[s] >> index; i < 1 << (table[at] >> 8 & 255); i += 1 << rest) second[i] = e | (uint32_t)rest;
    }
    return true;
}

typedef struct {
    uint32_t literal[TABLE_ROOM], distance[TABLE_ROOM];
} tables;

static bool fixed_tables(tables *t) {
    uint8_t length[LITERALS], five[DISTANCES];
    for (int s = 0; s < LITERALS; s++) length[s] = s < 144 ? 8 : s < 256 ? 9 : s < 280 ? 7 : 8;
    memset(five, 5, sizeof five);
    return build(length, LITERALS, LITERAL_INDEX, literal_entry, t->literal) &&
           build(five, DISTANCES, DISTANCE_INDEX, distance_entry, t->distance);
}

static bool read_tables(reader *r, tables *t) {
    static const uint8_t order[LENGTHS] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint8_t              length[LITERALS + DISTANCES] = {0}, of_lengths[LENGTHS] = {0};
    refill(r);
    int n_literal = 257 + (int)take(r, 5), n_distance = 1 + (int)take(r, 5), n_length = 4 + (int)take(r, 4);
    if (n_literal > 286 || n_distance > 30) return false;
    for (int i = 0; i < n_length; i++) {
        refill(r);
        of_lengths[order[i]] = (uint8_t)take(r, 3);
    }
    if (!build(of_lengths, LENGTHS, LENGTH_INDEX, length_entry, t->distance)) return false;
    for (int i = 0, n = n_literal + n_distance; i < n;) {
        refill(r);
        uint32_t e = t->distance[r->bits & ((1 << LENGTH_INDEX) - 1)], s = value_of(e);
        if (overrun(r) || !(e & IS_LITERAL)) return false;
        take(r, e & 255);
        if (s < 16) {
            length[i++] = (uint8_t)s;
            continue;
        }
        uint8_t again = s == 16 && i > 0 ? length[i - 1] : 0;
        int     times = s == 16 ? 3 + (int)take(r, 2) : s == 17 ? 3 + (int)take(r, 3) : 11 + (int)take(r, 7);
        if ((s == 16 && i == 0) || times > n - i) return false;
        while (times-- > 0) length[i++] = again;
    }
    return length[256] && build(length, n_literal, LITERAL_INDEX, literal_entry, t->literal) &&
           build(length + n_literal, n_distance, DISTANCE_INDEX, distance_entry, t->distance);
}

/* ---- blocks --------------------------------------------------------------------------------------------------- */

/* Writes up to INFLATE_SLACK - 1 bytes more. */
static inline void copy_match(uint8_t *out, size_t distance, size_t n) {
    const uint8_t *from = out - distance, *stop = out + n;
    if (distance >= 16) {
        for (; out < stop; out += 16, from += 16) memcpy(out, from, 16);
    } else if (distance == 1) {
        memset(out, *from, n);
    } else {
        while (out < stop) *out++ = *from++;
    }
}

static inline uint32_t look_up(reader *r, const uint32_t *table, int index) {
    uint32_t e = table[r->bits & ((1u << index) - 1)];
    if (e & IS_TABLE) {
        take(r, e & 255);
        e = table[value_of(e) + (r->bits & ((1u << (e >> 8 & 255)) - 1))];
    }
    return e;
}

/* A block of codes; the output may be up to three literals too long before that is seen. */
static bool read_codes(reader *input, const tables *t, const uint8_t *start, uint8_t **at, const uint8_t *end) {
    uint8_t *out = *at;
    reader   own = *input, *r = &own; /* in registers: bytes written may not change it */
    for (;;) {
        refill(r);
        uint32_t e = look_up(r, t->literal, LITERAL_INDEX);
        for (int k = 0; k < 3 && e & IS_LITERAL; k++) { /* 45 bits at most */
            take(r, e & 255);
            *out++ = (uint8_t)value_of(e);
            if (k < 2) e = look_up(r, t->literal, LITERAL_INDEX);
        }
        if (out > end || overrun(r)) return false;
        if (e & IS_LITERAL) continue;
        take(r, e & 255);
        if (e & IS_SPECIAL) {
            *at = out;
            *input = own;
            return e & IS_END && !overrun(r);
        }
        refill(r);
        size_t n = value_of(e) + take(r, e >> 8 & 255);
        e = look_up(r, t->distance, DISTANCE_INDEX);
        if (e & IS_SPECIAL) return false;
        take(r, e & 255);
        unsigned extra = e >> 8 & 255;
        size_t   distance = ((size_t)value_of(e) << extra) + take(r, extra) + 1;
        if (overrun(r) || distance > (size_t)(out - start) || n > (size_t)(end - out)) return false;
        copy_match(out, distance, n);
        out += n;
    }
}

static bool read_stored(reader *r, uint8_t **at, const uint8_t *end) {
    take(r, r->n & 7);
    if (overrun(r)) return false;
    r->in -= r->n / 8 - r->n_zeros;
    r->bits = r->n = 0;
    r->n_zeros = 0;
    if (r->end - r->in < 4) return false;
    size_t n = (size_t)(r->in[0] | r->in[1] << 8), check = (size_t)(r->in[2] | r->in[3] << 8);
    r->in += 4;
    if (n != (check ^ 0xffff) || n > (size_t)(r->end - r->in) || n > (size_t)(end - *at)) return false;
    memcpy(*at, r->in, n);
    r->in += n;
    *at += n;
    return true;
}

bool inflate_zlib(const uint8_t *in, size_t n_in, uint8_t *out, size_t n_out) {
    if (n_in < 2 || (in[0] & 15) != 8 || (in[0] << 8 | in[1]) % 31 || in[1] & 32) return false;
    tables   t;
    reader   r = {.in = in + 2, .end = in + n_in};
    uint8_t *at = out, *end = out + n_out;
    for (bool last = false, ok; !last;) {
        refill(&r);
        last = take(&r, 1);
        switch (take(&r, 2)) {
        case 0:
            ok = read_stored(&r, &at, end);
            break;
        case 1:
            ok = fixed_tables(&t) && read_codes(&r, &t, out, &at, end);
            break;
        case 2:
            ok = read_tables(&r, &t) && read_codes(&r, &t, out, &at, end);
            break;
        default:
            ok = false;
        }
        if (!ok) return false;
    }
    return at == end && !overrun(&r);
}
