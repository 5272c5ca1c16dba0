#include "io/tensorboard.h"
#include "io/atomic_file.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct tensorboard {
    char  path[PATH_CAP];
    FILE *file;
};

/* ---- CRC32C
 * ------------------------------------------------------------------------------------------------------- */

static uint32_t       table[256];
static pthread_once_t table_once = PTHREAD_ONCE_INIT;

static void make_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c >> 1 ^ (0x82f63b78u & -(c & 1));
        table[i] = c;
    }
}

uint32_t crc32c(const void *data, int64_t n) {
    const uint8_t *p = data;
    uint32_t       c = 0xffffffffu;
    pthread_once(&table_once, make_table);
    for (int64_t i = 0; i < n; i++) c = c >> 8 ^ table[(c ^ p[i]) & 255];
    return ~c;
}

uint32_t crc32c_masked(const void *data, int64_t n) {
    uint32_t c = crc32c(data, n);
    return (c >> 15 | c << 17) + 0xa282ead8u;
}

/* ---- protobuf
 * ----------------------------------------------------------------------------------------------------- */

typedef struct {
    uint8_t *bytes;
    int64_t  n, cap;
} message;

static void put(message *m, const void *data, int64_t n) {
    if (m->n + n > m->cap) {
        m->cap = 2 * (m->n + n);
        m->bytes = realloc(m->bytes, (size_t)m->cap);
        CHECK(m->bytes, "no memory for an event of %lld bytes", (long long)m->cap);
    }
    memcpy(m->bytes + m->n, data, (size_t)n);
    m->n += n;
}

static void put_varint(message *m, uint64_t v) {
    uint8_t b[10];
    int     n = 0;
    do {
        b[n++] = (uint8_t)((v & 127) | (v > 127 ? 128 : 0));
        v >>= 7;
    } while (v);
    put(m, b, n);
}

enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

static void put_key(message *m, int field, int wire) {
    put_varint(m, (uint64_t)(field << 3 | wire));
}

static void put_int(message *m, int field, int64_t v) {
    put_key(m, field, WIRE_VARINT);
    put_varint(m, (uint64_t)v);
}

static void put_bytes(message *m, int field, const void *data, int64_t n) {
    put_key(m, field, WIRE_BYTES);
    put_varint(m, (uint64_t)n);
    put(m, data, n);
}

static void put_double(message *m, int field, double v) {
    put_key(m, field, WIRE_64);
    put(m, &v, 8);
}

static void put_float(message *m, int field, float v) {
    put_key(m, field, WIRE_32);
    put(m, &v, 4);
}

/* ---- events
 * ------------------------------------------------------------------------------------------------------- */

static bool write_record(tensorboard *t, const message *m, status *st) {
    uint64_t n = (uint64_t)m->n;
    uint32_t head = crc32c_masked(&n, 8), tail = crc32c_masked(m->bytes, m->n);
    fwrite(&n, 8, 1, t->file);
    fwrite(&head, 4, 1, t->file);
    fwrite(m->bytes, 1, (size_t)m->n, t->file);
    fwrite(&tail, 4, 1, t->file);
    if (fflush(t->file) || ferror(t->file)) {
        int err = errno;
        clearerr(t->file);
        return status_set(st, ST_IO, "%s: write failed: %s", t->path, strerror(err));
    }
    return true;
}

/* Event: 1 wall_time, 2 step, 3 file_version, 5 summary; Summary: 1 value; value is consumed. */
static bool write_event(tensorboard *t, int64_t step, const char *version, message *value, status *st) {
    struct timespec now;
    message         event = {0}, summary = {0};
    clock_gettime(CLOCK_REALTIME, &now);
    put_double(&event, 1, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    if (version) put_bytes(&event, 3, version, (int64_t)strlen(version));
    if (value) {
        put_int(&event, 2, step);
        put_bytes(&summary, 1, value->bytes, value->n);
        put_bytes(&event, 5, summary.bytes, summary.n);
        free(value->bytes);
    }
    bool ok = write_record(t, &event, st);
    free(event.bytes);
    free(summary.bytes);
    return ok;
}

tensorboard *tensorboard_open(const char *folder, status *st) {
    char host[65] = "host", name[160];
    gethostname(host, sizeof host - 1);
    if (!make_folder(folder, st)) return NULL;
    tensorboard *t = calloc(1, sizeof *t);
    CHECK(t, "no memory for an event file");
    snprintf(name, sizeof name, "events.out.tfevents.%lld.%s.%lld", (long long)time(NULL), host, (long long)getpid());
    if (!join_path(folder, name, t->path, st)) goto fail;
    t->file = fopen(t->path, "abe");
    if (!t->file) {
        status_set(st, ST_IO, "%s: cannot create: %s", t->path, strerror(errno));
        goto fail;
    }
    if (write_event(t, 0, "brain.Event:2", NULL, st)) return t;
fail:
    tensorboard_close(t);
    return NULL;
}

void tensorboard_close(tensorboard *t) {
    if (!t) return;
    if (t->file) fclose(t->file);
    free(t);
}

/* Value: 1 tag, 2 simple_value, 4 image */
bool tensorboard_scalar(tensorboard *t, int64_t step, const char *tag, double value, status *st) {
    message v = {0};
    put_bytes(&v, 1, tag, (int64_t)strlen(tag));
    put_float(&v, 2, (float)value);
    return write_event(t, step, NULL, &v, st);
}

/* Image: 1 height, 2 width, 3 colorspace (channels), 4 encoded_image_string */
bool tensorboard_image(tensorboard *t, int64_t step, const char *tag, int width, int height, int channels,
                       const uint8_t *png, int64_t png_bytes, status *st) {
    message v = {0}, im = {0};
    put_int(&im, 1, height);
    put_int(&im, 2, width);
    put_int(&im, 3, channels);
    put_bytes(&im, 4, png, png_bytes);
    put_bytes(&v, 1, tag, (int64_t)strlen(tag));
    put_bytes(&v, 4, im.bytes, im.n);
    free(im.bytes);
    return write_event(t, step, NULL, &v, st);
}
