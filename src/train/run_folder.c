#include "train/run_folder.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "io/folder_lock.h"

#ifndef D3S2_VERSION
#define D3S2_VERSION "0.1.0"
#endif
#ifndef D3S2_GIT_HASH
#define D3S2_GIT_HASH "unknown"
#endif

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
        (void)(make_folder(r->path, st) && (r->lock = folder_lock(r->path, "choose another train.run", st)) >= 0);
    }
    if (comm_agree(c, st)) return true;
    run_folder_close(r);
    return false;
}

/* What goes on under other options says so: config.yaml holds the new ones from now on. */
static void tell_changes(const run_folder *r, const options *o) {
    char     path[PATH_CAP], *line;
    uint8_t *text;
    int64_t  n;
    status   none = {0};
    if (!join_path(r->path, "config.yaml", path, &none) || access(path, F_OK) != 0 ||
        !read_whole_file(path, 1 << 20, &text, &n, &none))
        return;
    options *before = malloc(sizeof *before);
    CHECK(before, "no memory for the options");
    options_default(before);
    if (options_read_stored(before, path, (const char *)text, n, &none)) {
        char *changes = options_changes(before, o, ""), *at = changes;
        while (at && *at && (line = strsep(&at, "\n"))) log_info("changed since the last start: %s", line);
        free(changes);
    }
    free(before);
    free(text);
}

bool run_folder_start(run_folder *r, const options *o, const comm *c, status *st) {
    r->started = true;
    if (c->rank == 0) tell_changes(r, o);
    if (c->rank == 0)
        (void)(folder_lock_sign(r->lock, r->path, st) && write_config(r, o, st) && note_version(r, c, st));
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
