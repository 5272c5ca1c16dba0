#include "train/run_folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#ifndef D3S2_VERSION
#define D3S2_VERSION "0.1.0"
#endif
#ifndef D3S2_GIT_HASH
#define D3S2_GIT_HASH "unknown"
#endif

/* The lock is the kernel's, so a killed job leaves none behind; the text only says who holds it. */
static bool take_lock(run_folder *r, status *st) {
    char path[PATH_CAP], text[128] = "";
    if (!join_path(r->path, "lock", path, st)) return false;
    r->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (r->lock < 0) return status_set(st, ST_IO, "%s: cannot be opened for writing: %s", path, strerror(errno));
    if (flock(r->lock, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) {
            log_warn("%s: this file system has no locks (%s): take care that only one job uses the folder", path,
                     strerror(errno));
            return true;
        }
        ssize_t n = read(r->lock, text, sizeof text - 1);
        text[n > 0 ? n : 0] = 0;
        close(r->lock);
        r->lock = -1;
        return status_set(st, ST_CONFIG, "%s is in use by another job (%s): wait for it or choose another train.run",
                          r->path, text[0] ? text : "it has just begun");
    }
    return true;
}

static bool sign_lock(const run_folder *r, status *st) {
    char host[64] = "?", text[128];
    gethostname(host, sizeof host - 1);
    int n = snprintf(text, sizeof text, "process %ld on %s", (long)getpid(), host);
    if (ftruncate(r->lock, 0) == 0 && pwrite(r->lock, text, (size_t)n, 0) == n) return true;
    return status_set(st, ST_IO, "%s/lock: write failed: %s", r->path, strerror(errno));
}

static bool write_config(const run_folder *r, const options *o, status *st) {
    char  path[PATH_CAP];
    char *text = options_to_yaml(o);
    bool  ok = join_path(r->path, "config.yaml", path, st) && atomic_write(path, text, (int64_t)strlen(text), st);
    free(text);
    return ok;
}

static bool note_version(const run_folder *r, const comm *c, status *st) {
    char   path[PATH_CAP], when[32];
    time_t now = time(NULL);
    if (!join_path(r->path, "version.txt", path, st)) return false;
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
    FILE *f = fopen(path, "a");
    if (!f) return status_set(st, ST_IO, "%s: cannot be opened for writing: %s", path, strerror(errno));
    fprintf(f, "%s d3s2 %s git %s, %d ranks\n", when, D3S2_VERSION, D3S2_GIT_HASH, c->size);
    bool ok = !ferror(f);
    ok = fclose(f) == 0 && ok;
    return ok || status_set(st, ST_IO, "%s: write failed: %s", path, strerror(errno));
}

bool run_folder_open(run_folder *r, const options *o, const comm *c, status *st) {
    *r = (run_folder){.lock = -1};
    if (!o->train.run[0]) return status_set(st, ST_USAGE, "train.run is not given: where shall the run's files go?");
    snprintf(r->path, sizeof r->path, "%s", o->train.run);
    if (c->rank == 0) {
        r->made = access(r->path, F_OK) != 0;
        (void)(make_folder(r->path, st) && take_lock(r, st));
    }
    if (comm_agree(c, st)) return true;
    run_folder_close(r);
    return false;
}

bool run_folder_start(run_folder *r, const options *o, const comm *c, status *st) {
    r->started = true;
    if (c->rank == 0) (void)(sign_lock(r, st) && write_config(r, o, st) && note_version(r, c, st));
    return comm_agree(c, st);
}

void run_folder_close(run_folder *r) {
    char   path[PATH_CAP];
    status quiet = {0};
    if (r->made && !r->started && r->lock >= 0 && join_path(r->path, "lock", path, &quiet)) {
        unlink(path);
        rmdir(r->path); /* fails when somebody has put something there */
    }
    if (r->lock >= 0) close(r->lock);
    r->lock = -1;
}
