#include "data/file_pool.h"
#include "core/fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct file_pool {
    pooled_file *open[POOL_FILES];
    int          n_open, n_holders;
    int64_t      turn;
};

file_pool *file_pool_new(void) {
    file_pool *p = calloc(1, sizeof *p);
    CHECK(p, "no memory for a list of open files");
    p->n_holders = 1;
    return p;
}

void file_pool_release(file_pool *p) {
    if (p && --p->n_holders == 0) free(p);
}

void pooled_init(pooled_file *f, file_pool *pool) {
    *f = (pooled_file){.file = -1, .pool = pool};
    if (pool) pool->n_holders++;
}

void pooled_close(pooled_file *f) {
    file_pool *p = f->pool;
    if (f->file < 0) return;
    h5_file_close(f->file);
    f->file = -1;
    for (int i = 0; p && i < p->n_open; i++)
        if (p->open[i] == f) {
            p->open[i] = p->open[--p->n_open];
            break;
        }
}

void pooled_free(pooled_file *f) {
    pooled_close(f);
    file_pool_release(f->pool);
    f->pool = NULL;
}

static void make_place(file_pool *p) {
    pooled_file *oldest = p->open[0];
    if (p->n_open < POOL_FILES) return;
    for (int i = 1; i < p->n_open; i++)
        if (p->open[i]->used < oldest->used) oldest = p->open[i];
    pooled_close(oldest);
}

bool pooled_open(pooled_file *f, const char *path, status *st) {
    if (f->file < 0) {
        if (fault_at("data.open")) return status_set(st, ST_NO_INPUT, "%s: cannot open: %s", path, strerror(errno));
        if (f->pool) make_place(f->pool);
        if ((f->file = h5_file_open(path, st)) < 0) return false;
        f->opened++;
        if (f->pool) f->pool->open[f->pool->n_open++] = f;
    }
    if (f->pool) f->used = ++f->pool->turn;
    return true;
}
