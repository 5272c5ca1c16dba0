/* A library to preload: what a power cut could take. It follows what a process writes and syncs below
 * $POWER_FOLDER/step-* and says in $POWER_LOG, one line each, where a name is given to something that is not on disk
 * yet:
 *   - a file is renamed whose bytes were not fsynced since they were written;
 *   - a folder is renamed that has such files, or names in it that were not fsynced;
 *   - an old checkpoint is removed while the new one's name is not fsynced;
 *   - the process ends with any of that open.
 * Each rename it looked at is a line "seen ...". With POWER_FORGETS=1 an fsync counts for nothing: all must be found.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST = 4096 };

static struct {
    char path[MOST][PATH_MAX]; /* files and folders with something that is not on disk */
    int  n;
    bool placed; /* a step-N has its name, and the run's folder is not synced */
} open_things;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void say(const char *fmt, const char *a, const char *b) {
    const char *log = getenv("POWER_LOG");
    FILE       *f = log ? REAL(fopen)(log, "a") : NULL;
    if (!f) abort();
    fprintf(f, fmt, a, b);
    fclose(f);
}

/* The path without links and dots; its last part need not exist. False: not below the folder's steps. */
static bool ours(const char *path, char out[PATH_MAX]) {
    const char *root = getenv("POWER_FOLDER");
    char        folder[PATH_MAX], real[PATH_MAX];
    if (!root || strlen(path) >= PATH_MAX) return false;
    strcpy(folder, path);
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
    const char *name = slash ? slash + 1 : path;
    if (!realpath(slash ? (*folder ? folder : "/") : ".", real)) return false;
    if (snprintf(out, PATH_MAX, "%s/%s", real, name) >= PATH_MAX) return false;
    size_t n = strlen(root);
    return !strncmp(out, root, n) && !strncmp(out + n, "/step-", 6);
}

static int find(const char *path) {
    int i = 0;
    while (i < open_things.n && strcmp(open_things.path[i], path)) i++;
    return i;
}

static void set_open(const char *path) {
    pthread_mutex_lock(&lock);
    int i = find(path);
    if (i == MOST) abort();
    if (i == open_things.n) strcpy(open_things.path[open_things.n++], path);
    pthread_mutex_unlock(&lock);
}

static void remove_at(int i) {
    memmove(open_things.path[i], open_things.path[--open_things.n], PATH_MAX);
}

/* The path itself, and with `below` all under it. True when there was anything. */
static bool any_open(const char *path, bool below, bool forget) {
    bool   any = false;
    size_t n = strlen(path);
    pthread_mutex_lock(&lock);
    for (int i = open_things.n - 1; i >= 0; i--) {
        const char *p = open_things.path[i];
        if (strncmp(p, path, n) || (p[n] && !(below && p[n] == '/'))) continue;
        any = true;
        if (forget) remove_at(i);
    }
    pthread_mutex_unlock(&lock);
    return any;
}

static void parent_open(const char *path) {
    char parent[PATH_MAX], real[PATH_MAX];
    strcpy(parent, path);
    *strrchr(parent, '/') = 0;
    if (ours(parent, real)) set_open(real); /* the run's folder itself is `placed`'s business */
}

static void fd_written(int fd) {
    char link[64], path[PATH_MAX], real[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return;
    path[n] = 0;
    if (ours(path, real)) set_open(real);
}

/* ---- what is followed ------------------------------------------------------------------------------------------ */

int fsync(int fd) {
    char        link[64], path[PATH_MAX];
    const char *root = getenv("POWER_FOLDER");
    int         rc = REAL(fsync)(fd);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (rc || n <= 0 || getenv("POWER_FORGETS")) return rc;
    path[n] = 0;
    any_open(path, false, true);
    if (root && !strcmp(path, root)) open_things.placed = false;
    return rc;
}

int open(const char *path, int flags, ...) {
    char    real[PATH_MAX];
    va_list ap;
    va_start(ap, flags);
    int mode = flags & O_CREAT ? va_arg(ap, int) : 0;
    va_end(ap);
    int fd = REAL(open)(path, flags, mode);
    if (fd >= 0 && (flags & (O_WRONLY | O_RDWR)) && ours(path, real)) set_open(real);
    return fd;
}

FILE *fopen(const char *path, const char *how) {
    char  real[PATH_MAX];
    FILE *f = REAL(fopen)(path, how);
    if (f && *how != 'r' && ours(path, real)) set_open(real);
    return f;
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) {
    fd_written(fd);
    return REAL(pwrite)(fd, data, n, at);
}
ssize_t write(int fd, const void *data, size_t n) {
    fd_written(fd);
    return REAL(write)(fd, data, n);
}
int ftruncate(int fd, off_t size) {
    fd_written(fd);
    return REAL(ftruncate)(fd, size);
}

static void look(const char *from, const char *to) {
    char        a[PATH_MAX], b[PATH_MAX];
    struct stat s;
    if (!ours(from, a) || !ours(to, b) || stat(a, &s)) return;
    say("seen %s to %s\n", a, b);
    size_t n = strlen(b);
    bool   removal = n > 5 && !strcmp(b + n - 5, ".part");
    if (removal && open_things.placed) say("removed: %s to %s before the new name is on disk\n", a, b);
    if (!removal && any_open(a, S_ISDIR(s.st_mode), true)) say("renamed: %s to %s before it is on disk\n", a, b);
    if (S_ISDIR(s.st_mode) && !removal) open_things.placed = true;
    parent_open(b);
}

int rename(const char *from, const char *to) {
    look(from, to);
    return REAL(rename)(from, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    look(from, to);
    return REAL(renameat2)(a, from, b, to, flags);
}

__attribute__((destructor)) static void at_end(void) {
    for (int i = 0; i < open_things.n; i++)
        if (!access(open_things.path[i], F_OK)) say("left: %s%s\n", open_things.path[i], "");
    if (open_things.placed) say("left: the name of the newest checkpoint%s%s\n", "", "");
}
