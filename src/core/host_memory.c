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

/* Where the kernel says what a control group has: version 2, and version 1's controller of memory. */
typedef struct {
    const char *line, *mount; /* in the line of the group's path; where its files are */
    bool        first;        /* the line begins so */
    const char *most, *used, *file, *shared;
} group_kind;

static const group_kind kinds[] = {
    {"0::/", "/sys/fs/cgroup", true, "memory.max", "memory.current", "file ", "shmem "},
    {"memory:/", "/sys/fs/cgroup/memory", false, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache ",
     "total_shmem "},
};

/* What one group leaves; SIZE_MAX: it has no limit. */
static size_t left_in_group(const group_kind *k, const char *folder) {
    char   path[PATH + 32];
    size_t most, used, file = 0, shared = 0;
    snprintf(path, sizeof path, "%s/%s", folder, k->most);
    if (!number_of(path, "", 1, &most)) return SIZE_MAX;
    snprintf(path, sizeof path, "%s/%s", folder, k->used);
    if (!number_of(path, "", 1, &used)) return SIZE_MAX;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    if (number_of(path, k->file, 1, &file) && number_of(path, k->shared, 1, &shared) && file > shared)
        used -= least(used, file - shared);
    return most > used ? most - used : 0;
}

/* The group of this process that the kernel's list names so, and those above it, up to the root. */
static size_t left_in_groups(const group_kind *k, const char *root) {
    char   path[PATH], line[PATH / 2], *end, *group = NULL;
    size_t left = SIZE_MAX, top;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "r");
    while (f && !group && fgets(line, sizeof line, f)) {
        group = strstr(line, k->line);
        if (k->first && group != line) group = NULL;
    }
    if (f) fclose(f);
    if (!group) return SIZE_MAX;
    group += strlen(k->line) - 1;
    group[strcspn(group, "\n")] = 0;
    top = (size_t)snprintf(path, sizeof path, "%s%s", root, k->mount);
    if (top + strlen(group) >= sizeof path) return SIZE_MAX;
    strcpy(path + top, group);
    for (;;) {
        left = least(left, left_in_group(k, path));
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
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) left = least(left, left_in_groups(&kinds[i], root));
    return left;
}

size_t host_memory_left(void) {
    struct rlimit space;
    size_t        left = host_memory_left_under(""), pages;
    if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY &&
        number_of("/proc/self/statm", "", (size_t)sysconf(_SC_PAGESIZE), &pages))
        left = least(left, space.rlim_cur > pages ? space.rlim_cur - pages : 0);
    return left;
}
