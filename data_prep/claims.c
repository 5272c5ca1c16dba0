#define _GNU_SOURCE
#include "data_prep/claims.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

typedef struct {
    uint64_t hash;
    char    *name; /* NULL: free */
} claim;

struct claims {
    int     fd;
    char    path[512];
    int64_t read; /* bytes of the file that are in the table */
    claim  *table;
    int64_t n, room; /* room: a power of two */
};

static claim *place_of(claim *table, int64_t room, uint64_t hash) {
    uint64_t i = hash & (uint64_t)(room - 1);
    while (table[i].name && table[i].hash != hash) i = (i + 1) & (uint64_t)(room - 1);
    return &table[i];
}

static void grow(claims *c) {
    int64_t room = c->room ? 2 * c->room : 1024;
    claim  *table = calloc((size_t)room, sizeof *table);
    CHECK(table, "no memory for %lld shapes", (long long)room);
    for (int64_t i = 0; i < c->room; i++)
        if (c->table[i].name) *place_of(table, room, c->table[i].hash) = c->table[i];
    free(c->table);
    c->table = table;
    c->room = room;
}

static void add(claims *c, uint64_t hash, const char *name) {
    if (2 * c->n >= c->room) grow(c);
    claim *at = place_of(c->table, c->room, hash);
    if (at->name) return;
    *at = (claim){hash, strdup(name)};
    CHECK(at->name, "no memory for a name");
    c->n++;
}

/* Whole lines that others have appended; one without an end (a kill, a full disk) is passed over. */
static bool catch_up(claims *c, status *st) {
    off_t  end = lseek(c->fd, 0, SEEK_END);
    size_t n = end > c->read ? (size_t)(end - c->read) : 0;
    char  *text = malloc(n + 1), *line = text;
    CHECK(text, "no memory for %zu bytes of %s", n, c->path);
    if (end < 0 || pread(c->fd, text, n, c->read) != (ssize_t)n) {
        free(text);
        return status_set(st, ST_IO, "%s: cannot be read: %s", c->path, strerror(errno));
    }
    text[n] = 0;
    for (char *next; (next = strchr(line, '\n')); line = next + 1) {
        uint64_t hash;
        int      at = 0;
        *next = 0;
        if (sscanf(line, "%16" SCNx64 " %n", &hash, &at) == 1 && at == 17 && line[at]) add(c, hash, line + at);
    }
    c->read += line - text;
    free(text);
    return true;
}

claims *claims_open(const char *path, status *st) {
    claims *c = calloc(1, sizeof *c);
    CHECK(c, "no memory for the list of geometry");
    snprintf(c->path, sizeof c->path, "%s", path);
    c->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (c->fd >= 0) return c;
    status_set(st, ST_IO, "%s: cannot be opened for writing: %s", path, strerror(errno));
    free(c);
    return NULL;
}

void claims_close(claims *c) {
    if (!c) return;
    close(c->fd);
    for (int64_t i = 0; i < c->room; i++) free(c->table[i].name);
    free(c->table);
    free(c);
}

const char *claims_take(claims *c, uint64_t hash, const char *name, status *st) {
    const char *owner = NULL;
    if (strchr(name, '\n')) return NULL; /* cannot be noted */
    if (!c->room) grow(c);
    flock(c->fd, LOCK_EX); /* without locks two ranks may keep one geometry each */
    if (catch_up(c, st)) {
        claim *at = place_of(c->table, c->room, hash);
        if (at->name) {
            owner = strcmp(at->name, name) ? at->name : NULL;
        } else {
            /* behind half a line of a killed run begins a new one */
            char *line;
            off_t end = lseek(c->fd, 0, SEEK_END);
            int   n = asprintf(&line, "%s%016" PRIx64 " %s\n", end > c->read ? "\n" : "", hash, name);
            CHECK(n > 0, "no memory for a line");
            if (write(c->fd, line, (size_t)n) != n)
                status_set(st, ST_IO, "%s: write failed: %s", c->path, strerror(errno));
            free(line);
            catch_up(c, st);
        }
    }
    flock(c->fd, LOCK_UN);
    return owner;
}
