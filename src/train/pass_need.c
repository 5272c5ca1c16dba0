#include "train/pass_need.h"

#include <stdio.h>

#include "core/device.h"

static size_t gpu_used(size_t *all) {
    size_t free_bytes;
    device_memory(&free_bytes, all);
    return *all - free_bytes;
}

static size_t sum(const pass_memory *m) {
    return m->step->size + m->scratch->size + m->tables->size;
}

size_t pass_gpu_base(const pass_memory *m, size_t *all) {
    *all = 0;
    return m->dev == DEV_CPU ? 0 : gpu_used(all) - sum(m);
}

void pass_need_print(const char *what, const pass_need *x) {
    log_info("%s the largest sample, %lld tiles: %.1f MB for activations, %.0f scratch, %.0f tables", what,
             (long long)x->tiles, (double)x->activations / 1e6, (double)x->scratch / 1e6, (double)x->tables / 1e6);
}

void pass_taken_print(const char *what, const pass_need *x, const pass_memory *m, size_t base) {
    char gpu[160] = "";
    if (m->dev != DEV_CPU) {
        size_t all, used = gpu_used(&all);
        snprintf(gpu, sizeof gpu, ", %.0f scratch, %.0f tables, so %.0f of the GPU's %.0f; %.0f in use",
                 (double)m->scratch->size / 1e6, (double)m->tables->size / 1e6, (double)(base + sum(m)) / 1e6,
                 (double)all / 1e6, (double)used / 1e6);
    }
    log_info("%s %lld tiles: predicted %.1f MB for activations, used %.1f of %.1f%s", what, (long long)x->tiles,
             (double)x->activations / 1e6, (double)m->step->peak / 1e6, (double)m->step->size / 1e6, gpu);
}
