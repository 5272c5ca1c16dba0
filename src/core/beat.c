#include "core/beat.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

/* Texts are kept as words, so that reading one while it is written gives letters of both, and no more harm. */
typedef struct {
    _Atomic uint64_t word[BEAT_WORDS];
} beat_text;

struct beat {
    _Atomic int     section, waiting, warm;
    _Atomic int64_t step, collectives, bytes;
    _Atomic double  at, longest[BEAT_SECTIONS];
    beat_text       op, collective;
};

static _Thread_local beat *mine;

#define PUT(field, v) atomic_store_explicit(&(field), v, memory_order_relaxed)
#define GET(field) atomic_load_explicit(&(field), memory_order_relaxed)

static void put_text(beat_text *t, const char *s) {
    uint64_t w[BEAT_WORDS] = {0};
    memcpy(w, s, strnlen(s, BEAT_TEXT - 1));
    for (int i = 0; i < BEAT_WORDS; i++) PUT(t->word[i], w[i]);
}

static void get_text(const beat_text *t, char out[BEAT_TEXT]) {
    uint64_t w[BEAT_WORDS];
    for (int i = 0; i < BEAT_WORDS; i++) w[i] = GET(t->word[i]);
    memcpy(out, w, sizeof w);
    out[BEAT_TEXT - 1] = 0;
}

static void sign(beat *b) {
    double now = now_seconds(), gap = now - GET(b->at);
    int    s = GET(b->section);
    if (gap > GET(b->longest[s])) PUT(b->longest[s], gap);
    PUT(b->at, now);
}

size_t beat_size(void) {
    return sizeof(beat);
}

void beat_init(beat *b) {
    memset(b, 0, sizeof *b);
    PUT(b->at, now_seconds());
    PUT(b->step, -1);
}

void beat_read(const beat *b, beat_view *out) {
    out->section = (beat_section)GET(b->section);
    out->waiting = GET(b->waiting);
    out->warm = GET(b->warm);
    out->step = GET(b->step);
    out->collectives = GET(b->collectives);
    out->bytes = GET(b->bytes);
    out->at = GET(b->at);
    for (int i = 0; i < BEAT_SECTIONS; i++) out->longest[i] = GET(b->longest[i]);
    get_text(&b->op, out->op);
    get_text(&b->collective, out->collective);
}

void beat_bind(beat *b) {
    mine = b;
}

beat_section beat_enter(beat_section s) {
    if (!mine) return s;
    beat_section before = (beat_section)GET(mine->section);
    sign(mine);
    PUT(mine->section, s);
    put_text(&mine->op, "");
    return before;
}

void beat_step(int64_t step) {
    if (!mine) return;
    sign(mine);
    PUT(mine->step, step);
}

void beat_warm(void) {
    if (mine) PUT(mine->warm, 1);
}

void beat_op(const char *name, int64_t number) {
    if (!mine) return;
    char text[BEAT_TEXT];
    sign(mine);
    snprintf(text, sizeof text, "%s %lld", name, (long long)number);
    put_text(&mine->op, text);
}

void beat_collective(const char *name, int64_t bytes, bool waiting) {
    if (!mine) return;
    sign(mine);
    put_text(&mine->collective, name);
    PUT(mine->bytes, bytes);
    PUT(mine->waiting, waiting);
    PUT(mine->collectives, GET(mine->collectives) + 1);
}

void beat_wait(const char *what) {
    if (!mine) return;
    sign(mine);
    put_text(&mine->op, what);
    PUT(mine->waiting, 1);
}

void beat_back(void) {
    if (!mine) return;
    sign(mine);
    PUT(mine->waiting, 0);
}

const char *beat_section_name(beat_section s) {
    static const char *const name[BEAT_SECTIONS] = {"start",  "data",   "forward",    "backward",
                                                    "reduce", "update", "checkpoint", "eval"};
    return s >= 0 && s < BEAT_SECTIONS ? name[s] : "?";
}
