#include "io/folder_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "io/atomic_file.h"

bool folder_lock_sign(int lock, const char *folder, status *st) {
    char host[64] = "?", text[128];
    gethostname(host, sizeof host - 1);
    int n = snprintf(text, sizeof text, "process %ld on %s", (long)getpid(), host);
    if (ftruncate(lock, 0) == 0 && pwrite(lock, text, (size_t)n, 0) == n) return true;
    return status_set(st, ST_IO, "%s/lock: write failed: %s", folder, strerror(errno));
}

int folder_lock(const char *folder, const char *mend, status *st) {
    char path[PATH_CAP], text[128] = "";
    if (!join_path(folder, "lock", path, st)) return -1;
    int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (lock < 0) {
        status_set(st, ST_IO, "%s: cannot be opened for writing: %s", path, strerror(errno));
        return -1;
    }
    if (flock(lock, LOCK_EX | LOCK_NB) == 0) return lock;
    if (errno != EWOULDBLOCK) {
        log_warn("%s: this file system has no locks (%s): take care that only one job uses the folder", path,
                 strerror(errno));
        return lock;
    }
    ssize_t n = read(lock, text, sizeof text - 1);
    text[n > 0 ? n : 0] = 0;
    close(lock);
    status_set(st, ST_CONFIG, "%s is in use by another job (%s): wait for it or %s", folder,
               text[0] ? text : "it has just begun", mend);
    return -1;
}
