#include "train/saver.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/fault.h"

typedef enum { SAVE_NONE, SAVE_WRITING, SAVE_COMMITTING } save_phase;

struct saver {
    saver_config cfg;
    device_kind  dev;
    arena        room; /* for the copy; base NULL: the state is written from where it is */
    int64_t      saved;

    /* the save under way */
    save_phase    phase;
    int           n_slabs;
    ckpt_slab     slab[STATE_SLABS];
    ckpt_manifest m; /* rank 0 */
    char          part[PATH_CAP];
    int64_t       step;
    double        t0, stall, all_bytes;

    /* this rank's work in that phase; under `lock` while a thread is at it */
    pthread_t       thread;
    bool            threaded, ready;
    double          ready_at;
    status          st;
    pthread_mutex_t lock;
    pthread_cond_t  changed;
};

/* ---- memory ---------------------------------------------------------------------------------------------------- */

static size_t bytes_of(const state_slab *slab, int n) {
    size_t bytes = 0;
    for (int i = 0; i < n; i++) bytes += (size_t)slab[i].part.count * sizeof(float);
    return bytes;
}

size_t saver_bytes(const comm *c, const task *t, const optimizer *x, const run_state *s) {
    state_slab slab[STATE_SLABS];
    return bytes_of(slab, state_slabs(c, t, x, s, slab));
}

size_t saver_room(const comm *c, const task *t, const optimizer *x, const run_state *s, const options *o) {
    bool beside = o->train.checkpoint_async && o->train.checkpoint_every > 0;
    return beside || t->p->dev != DEV_CPU ? saver_bytes(c, t, x, s) + STATE_SLABS * 64 : 0; /* each begins a line */
}

/* Touched here, so that the first save does not wait for its pages. */
static arena take_room(size_t bytes) {
    arena a = arena_new_pinned("checkpoint (train.checkpoint_async=false takes none on the CPU)", bytes);
    if (a.pinned) return a;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < bytes; i += 4096) a.base[i] = 0;
    return a;
}

static void copy_host(char *to, const void *from, size_t bytes) {
    enum { PIECE = 4 << 20 };
#pragma omp parallel for schedule(static)
    for (size_t at = 0; at < bytes; at += PIECE)
        memcpy(to + at, (const char *)from + at, bytes - at < PIECE ? bytes - at : PIECE);
}

/* The slabs as the threads will find them; the host waits until they are there. */
static void copy_state(saver *v, const state_slab *slab, int n) {
    v->n_slabs = n;
    if (v->room.base) arena_reset(&v->room, 0);
    for (int i = 0; i < n; i++) {
        size_t bytes = (size_t)slab[i].part.count * sizeof(float);
        v->slab[i] = slab[i].part;
        if (!v->room.base) continue;
        float *to = arena_alloc(&v->room, bytes);
        v->slab[i].data = to;
        if (slab[i].dev == DEV_CPU)
            copy_host((char *)to, slab[i].part.data, bytes);
        else if (bytes > 0)
            device_copy(to, slab[i].part.data, bytes, STREAM_COMPUTE);
    }
    if (v->dev != DEV_CPU) {
        device_sync(STREAM_COMPUTE);
        comm_device_settled(v->cfg.c); /* the weights came by it */
    }
}

static void lock_files(void *l) {
    loader_lock(l);
}
static void unlock_files(void *l) {
    loader_unlock(l);
}

saver *saver_new(const saver_config *cfg, const task *t, const optimizer *x, const run_state *s) {
    saver *v = calloc(1, sizeof *v);
    CHECK(v, "no memory for checkpoints");
    v->cfg = *cfg;
    v->dev = t->p->dev;
    v->saved = -1;
    size_t bytes = saver_room(cfg->c, t, x, s, cfg->o);
    if (bytes > 0) v->room = take_room(bytes);
    pthread_mutex_init(&v->lock, NULL);
    pthread_cond_init(&v->changed, NULL);
    return v;
}

void saver_free(saver *v) {
    if (!v) return;
    CHECK(v->phase == SAVE_NONE, "a checkpoint is being written");
    if (v->room.base) arena_free(&v->room);
    pthread_mutex_destroy(&v->lock);
    pthread_cond_destroy(&v->changed);
    free(v);
}

int64_t saver_saved(const saver *v) {
    return v->saved;
}

/* ---- this rank's work ------------------------------------------------------------------------------------------ */

static void work(saver *v, status *st) {
    const options *o = v->cfg.o;
    ckpt_guard     guard = {.lock = lock_files, .unlock = unlock_files, .user = v->cfg.l};
    if (v->phase == SAVE_WRITING) {
        ckpt_write_part(v->part, v->cfg.c->rank, v->slab, v->n_slabs, &guard, st);
    } else if (ckpt_commit(v->part, v->cfg.c->size, &v->m, &guard, st)) {
        status pruning = {0};
        if (!ckpt_prune(v->cfg.run, (int)o->train.keep_last, o->train.keep_every, &pruning))
            log_warn("%s", pruning.text);
    }
}

static void *work_thread(void *user) {
    saver *v = user;
    status st = {0};
    work(v, &st);
    pthread_mutex_lock(&v->lock);
    v->st = st;
    v->ready = true;
    v->ready_at = now_seconds();
    pthread_cond_broadcast(&v->changed);
    pthread_mutex_unlock(&v->lock);
    return NULL;
}

/* Begins the work of a phase; `nothing`: this rank has none. Without a thread to be had it is done here. */
static void begin(saver *v, save_phase phase, bool nothing) {
    v->phase = phase;
    v->ready = nothing;
    v->st = (status){0};
    if (nothing) return;
    bool beside = v->cfg.o->train.checkpoint_async && !fault_at("ckpt.thread");
    v->threaded = beside && pthread_create(&v->thread, NULL, work_thread, v) == 0;
    if (!v->threaded) work_thread(v);
}

static bool is_ready(saver *v) {
    pthread_mutex_lock(&v->lock);
    bool ready = v->ready;
    pthread_mutex_unlock(&v->lock);
    return ready;
}

static void wait_ready(saver *v) {
    pthread_mutex_lock(&v->lock);
    while (!v->ready) pthread_cond_wait(&v->changed, &v->lock);
    pthread_mutex_unlock(&v->lock);
}

/* ---- all ranks ------------------------------------------------------------------------------------------------- */

static void end_save(saver *v) {
    v->phase = SAVE_NONE;
    ckpt_close(&v->m);
}

static void say_saved(const saver *v) {
    double seconds = v->ready_at - v->t0, rate = v->all_bytes / 1e9 / seconds;
    log_info("step %lld saved: %.1f MB in %.2f s, %.2f GB/s; training waited %.3f s", (long long)v->step,
             v->all_bytes / 1e6, seconds, rate, v->stall);
}

/* All ranks are through with the phase, or one has failed and all are through; st (may be NULL: a warning) gets what
 * failed. */
static void advance(saver *v, bool failed, status *st) {
    const comm *c = v->cfg.c;
    if (v->threaded) pthread_join(v->thread, NULL);
    v->threaded = false;
    if (failed) {
        comm_agree(c, &v->st);
        if (c->rank == 0) ckpt_abandon(v->part);
        if (st) *st = v->st;
        if (!st && c->rank == 0) log_warn("no checkpoint of step %lld: %s", (long long)v->step, v->st.text);
        end_save(v);
    } else if (v->phase == SAVE_WRITING) {
        begin(v, SAVE_COMMITTING, c->rank != 0);
    } else {
        v->saved = v->step;
        if (c->rank == 0) say_saved(v);
        end_save(v);
    }
}

void saver_tell(saver *v, double sum[SAVER_SUMS]) {
    bool ready = v && v->phase != SAVE_NONE && is_ready(v);
    sum[0] = ready;
    sum[1] = ready && !status_ok(&v->st);
}

static void hear(saver *v, const double sum[SAVER_SUMS], status *st) {
    if (v && v->phase != SAVE_NONE && sum[0] >= v->cfg.c->size) advance(v, sum[1] > 0, st);
}

void saver_hear(saver *v, const double sum[SAVER_SUMS]) {
    hear(v, sum, NULL);
}

/* To the end of the save; st as in advance. */
static void wait_for_end(saver *v, status *st) {
    while (v->phase != SAVE_NONE) {
        double sum[SAVER_SUMS];
        wait_ready(v);
        saver_tell(v, sum);
        comm_sum_f64(v->cfg.c, sum, SAVER_SUMS);
        hear(v, sum, st);
    }
}

bool saver_wait(saver *v, status *st) {
    wait_for_end(v, st);
    return !st || status_ok(st);
}

bool saver_start(saver *v, const task *t, const optimizer *x, const run_state *s, status *st) {
    const comm *c = v->cfg.c;
    state_slab  slab[STATE_SLABS];
    int         n = state_slabs(c, t, x, s, slab);
    double      t0 = now_seconds();
    wait_for_end(v, NULL);
    v->t0 = now_seconds();
    v->all_bytes = (double)bytes_of(slab, n);
    comm_sum_f64(c, &v->all_bytes, 1);
    if (c->rank == 0) ckpt_begin(v->cfg.run, s->step, (int64_t)v->all_bytes, v->part, st);
    if (!comm_agree(c, st)) return false;
    comm_bcast(c, v->part, sizeof v->part, 0);
    v->step = s->step;
    if (c->rank == 0) state_manifest(t, x, s, v->cfg.o, &v->m);
    copy_state(v, slab, n);
    fault_at("ckpt.copied");
    v->stall = now_seconds() - t0;
    begin(v, SAVE_WRITING, false);
    if (v->cfg.o->train.checkpoint_async) return true;
    return saver_wait(v, st);
}
