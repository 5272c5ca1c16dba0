#include "nn/rig.h"

#include "kernels/backend.h"

void rig_open(rig *r, const char *backend_name, size_t mb) {
    size_t bytes = mb << 20;
    *r = (rig){.step = arena_new("step", bytes),
               .book = arena_new("book", bytes),
               .host = arena_new("host", bytes),
               .weights = arena_new("weights", bytes)};
    r->c = (ctx){.be = backend_find(backend_name), .scratch = arena_new("scratch", bytes), .deterministic = true};
    CHECK(r->c.be, "no back end %s", backend_name);
    r->t = (tape){.c = &r->c, .step = &r->step, .book = &r->book, .recording = true};
}

void rig_close(rig *r) {
    arena *all[] = {&r->step, &r->book, &r->host, &r->weights, &r->c.scratch};
    for (int i = 0; i < 5; i++) arena_free(all[i]);
}
