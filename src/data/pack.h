/* Tables of files as bytes, to go from the rank that read them to the others, and back. One function of each kind names
 * its fields once; it runs three times: counting, writing, reading. */
#pragma once
#include "data/file_pool.h"

typedef struct {
    char      *at, *end; /* of the bytes */
    int64_t    n;        /* bytes so far */
    bool       counting, reading;
    file_pool *pool; /* reading: of the files */
} packing;

/* The fields of one item, which is all zero when they are read; of what they point to nothing is changed otherwise. */
typedef void (*pack_item)(packing *p, void *item);

/* n items of `width` bytes, malloc'ed; *bytes gets their length. */
char *pack_list(const void *items, int n, size_t width, pack_item f, int64_t *bytes);
/* The items, malloc'ed. */
void *unpack_list(const char *packed, int64_t bytes, size_t width, pack_item f, int *n);

void   pack_bytes(packing *p, void *x, size_t bytes);
/* Returns the table; read: malloc'ed, never NULL. */
void  *pack_table(packing *p, void *x, int64_t count, size_t width);
char **pack_texts(packing *p, char **x, int64_t count);

#define PACK_FIELD(p, x) pack_bytes(p, &(x), sizeof(x))
#define PACK_TABLE(p, x, count) ((x) = pack_table(p, x, count, sizeof *(x)))
