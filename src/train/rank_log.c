#include "train/rank_log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "io/atomic_file.h"

enum { MOST_BYTES = 4 << 20, MINUTE = 60 };

int rank_log_open(const char *run, const comm *c, int64_t step) {
    char   folder[PATH_CAP], path[PATH_CAP], name[32], host[64] = "?";
    status st = {0};
    int    file = -1;
    snprintf(name, sizeof name, "rank-%d.txt", c->rank);
    if (join_path(run, "logs", folder, &st) && make_folder(folder, &st) && join_path(folder, name, path, &st)) {
        file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (file < 0) status_set(&st, ST_IO, "%s: cannot be opened for writing: %s", path, strerror(errno));
    }
    if (file < 0) {
        log_warn("%s", st.text);
        return -1;
    }
    gethostname(host, sizeof host - 1);
    log_tee(file, MOST_BYTES);
    log_to_tee("rank %d of %d, process %ld on %s, goes on after step %lld", c->rank, c->size, (long)getpid(), host,
               (long long)step);
    return file;
}

void rank_log_close(int file) {
    if (file < 0) return;
    log_tee(-1, 0);
    close(file);
}

void rank_log_times(const log_span *span, int64_t step, double *last) {
    double now = now_seconds(), n = span->steps > 0 ? (double)span->steps : 1;
    if (*last > 0 && now - *last < MINUTE) return;
    *last = now;
    log_to_tee(
        "step %lld: a step took data %.4f, forward %.4f, backward %.4f, reduce %.4f, update %.4f s, %.0f tokens here",
        (long long)step, span->times.data / n, span->times.forward / n, span->times.backward / n,
        span->times.reduce / n, span->times.update / n, (double)span->own_tokens / n);
}
