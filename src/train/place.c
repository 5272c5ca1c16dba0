#include "train/place.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/device.h"
#include "kernels/backend.h"

/* On the CPU address space, not memory: pages that are not touched cost nothing; the reference kernels take most
 * (neighbour rows of every voxel). On a GPU it is taken: the base is workspaces of matrix products and partial sums,
 * at most 288 MB for linear; what grows with the tokens, dq of attn_segment among it, is in gpu_per_tile. */
static const size_t CPU_BASE = (size_t)256 << 20, CPU_PER_TILE = (size_t)96 << 10, GPU_BASE = (size_t)512 << 20;

size_t place_scratch_bytes(device_kind dev, int64_t n_tiles, size_t gpu_per_tile) {
    return dev == DEV_CUDA ? GPU_BASE + (size_t)n_tiles * gpu_per_tile : CPU_BASE + (size_t)n_tiles * CPU_PER_TILE;
}

/* Which GPU each rank has, as all ranks see it. */
typedef struct {
    char host[64], uuid[48], name[128];
    int  gpu;
} seat;

static bool shared(const seat *all, int n, status *st) {
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++)
            if (all[i].uuid[0] && strcmp(all[i].uuid, all[k].uuid) == 0)
                return !status_set(st, ST_CONFIG,
                                   "ranks %d and %d on %s share one GPU (%s, %s): start one rank per GPU, or set "
                                   "train.device=cpu",
                                   k, i, all[i].host, all[i].name, all[i].uuid);
    return false;
}

/* Looks, without opening anything. */
static seat take_seat(const comm *c, const char **why) {
    int         rank, size, n = device_count(why);
    seat        s = {.gpu = -1};
    device_info d;
    comm_local(c, &rank, &size);
    gethostname(s.host, sizeof s.host - 1);
    if (n == 0) return s;
    /* A launcher may show each of its tasks a GPU of its own as the only one. */
    s.gpu = rank % n;
    if (device_describe(s.gpu, &d)) {
        snprintf(s.uuid, sizeof s.uuid, "%s", d.uuid);
        snprintf(s.name, sizeof s.name, "%s", d.name);
    }
    return s;
}

static bool open_gpu(const comm *c, const seat *s, bool alone, const char *why, status *st) {
    seat *all = malloc((size_t)c->size * sizeof *all);
    CHECK(all, "no memory for %d ranks", c->size);
    comm_all_gather(c, s, all, sizeof *s);
    if (s->gpu < 0)
        status_set(st, ST_CONFIG, "train.device=cuda, but %s has no GPU to use (%s): set train.device=cpu", s->host,
                   why);
    else if (alone)
        shared(all, c->size, st);
    free(all);
    if (!comm_agree(c, st)) return false;
    device_open(s->gpu);
    return true;
}

bool place_open(place *p, const options *o, const comm *c, bool alone, status *st) {
    const char *why = "";
    bool        on_gpu = o->train.device == opt_train_device_cuda;
    seat        s = {.gpu = -1};
    *p = (place){.gpu = -1};
    if (on_gpu || o->train.device == opt_train_device_auto) {
        s = take_seat(c, &why);
        int64_t without = s.gpu < 0;
        comm_max_i64(c, &without, 1);
        on_gpu |= !without;
    }
    if (on_gpu && !open_gpu(c, &s, alone, why, st)) return false;
    p->be = backend_find(on_gpu ? "cuda" : o->train.device == opt_train_device_ref ? "ref" : "cpu");
    if (on_gpu) {
        p->dev = DEV_CUDA;
        p->gpu = s.gpu;
        p->act = o->train.precision == opt_train_precision_f32 ? DT_F32 : DT_BF16;
        snprintf(p->text, sizeof p->text, "cuda, %s: %s (GPU %d of %d)", dtype_name(p->act), s.name, s.gpu,
                 device_count(NULL));
        return true;
    }
    if (o->train.precision == opt_train_precision_bf16)
        return status_set(st, ST_CONFIG, "train.precision=bf16 is for GPUs: set train.precision=f32 on the back end %s",
                          p->be->name);
    p->dev = DEV_CPU;
    p->act = DT_F32;
    snprintf(p->text, sizeof p->text, "%s, f32", p->be->name);
    return true;
}

const char *place_who(void) {
    static _Thread_local char text[96];
    char                      host[64] = "?";
    gethostname(host, sizeof host - 1);
    snprintf(text, sizeof text, "rank %d on %s", log_rank(), host);
    return text;
}

int place_spare_threads(const place *p, const comm *c) {
    enum { MOST = 8 };
    int rank, ranks, all = (int)sysconf(_SC_NPROCESSORS_ONLN), own = omp_get_num_procs(), n = MOST;
    comm_local(c, &rank, &ranks);
    if (p->dev == DEV_CPU) return 1;
    if (own >= all) own = all / ranks; /* not bound to cores of its own */
    if (n > own) n = own;
    if (n > omp_get_max_threads()) n = omp_get_max_threads();
    return n > 1 ? n : 1;
}

ctx place_ctx(const place *p) {
    ctx c = {.be = p->be, .act = p->act, .deterministic = true};
    if (p->be->open) p->be->open(&c);
    return c;
}

void place_ctx_free(ctx *c) {
    if (c->scratch.base) arena_free(&c->scratch);
    if (c->be && c->be->close) c->be->close(c);
    *c = (ctx){0};
}
