#include "core/host_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { PATH = 4096 };

static size_t least(size_t a, size_t b) {
    return a < b ? a : b;
}

/* The number behind `key` in a file of lines "key number", in units of `unit` bytes; false when there is none. */
static bool number_of(const char *path, const char *key, size_t unit, size_t *out) {
    char   line[256];
    FILE  *f = fopen(path, "r");
    bool   found = false;
    size_t n = strlen(key);
    while (f && !found && fgets(line, sizeof line, f)) {
        char              *end, *at = line + n;
        unsigned long long v;
        if (strncmp(line, key, n) != 0) continue;
        v = strtoull(at, &end, 10);
        found = end > at; /* "max" is no number */
        *out = (size_t)v * unit;
    }
    if (f) fclose(f);
    return found;
}

/* What one group leaves; SIZE_MAX: it has no limit. */
static size_t left_in_group(const char *folder) {
    char   path[PATH + 32];
    size_t most, used, file = 0, shared = 0;
    snprintf(path, sizeof path, "%s/memory.max", folder);
    if (!number_of(path, "", 1, &most)) return SIZE_MAX;
    snprintf(path, sizeof path, "%s/memory.current", folder);
    if (!number_of(path, "", 1, &used)) return SIZE_MAX;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    if (number_of(path, "file ", 1, &file) && number_of(path, "shmem ", 1, &shared)) used -= least(used, file - shared);
    return most > used ? most - used : 0;
}

/* The line "0::/path" of this process' groups, up to the root of them. */
static size_t left_in_groups(const char *root) {
    char   path[PATH], line[PATH / 2], *end;
    size_t left = SIZE_MAX, top;
    bool   found = false;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "r");
    while (f && !found && fgets(line, sizeof line, f)) found = !strncmp(line, "0::/", 4);
    if (f) fclose(f);
    if (!found) return SIZE_MAX;
    line[strcspn(line, "\n")] = 0;
    top = (size_t)snprintf(path, sizeof path, "%s/sys/fs/cgroup", root);
    if (top + strlen(line) >= sizeof path) return SIZE_MAX;
    strcpy(path + top, line + 3);
    for (;;) {
        left = least(left, left_in_group(path));
        end = strrchr(path + top, '/');
        if (!end) return left;
        *end = 0;
    }
}

size_t host_memory_left_under(const char *root) {
    char   path[PATH];
    size_t left = SIZE_MAX;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    number_of(path, "MemAvailable:", 1024, &left);
    return least(left, left_in_groups(root));
}

size_t host_memory_left(void) {
    struct rlimit space;
    size_t        left = host_memory_left_under(""), pages;
    if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY &&
        number_of("/proc/self/statm", "", (size_t)sysconf(_SC_PAGESIZE), &pages))
        left = least(left, space.rlim_cur > pages ? space.rlim_cur - pages : 0);
    return left;
}
