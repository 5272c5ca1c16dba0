/* What a thread is doing, in memory that another thread or process may read at any time: the main thread's record
 * is how a watchdog (train/watchdog.h) tells a rank that works from one that hangs, and what it prints of it.
 *
 * A thread writes to the record it has bound; without one every call is a load and a branch. Times are monotonic. */
#pragma once
#include "core/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    BEAT_START, /* everything before the first step */
    BEAT_DATA,
    BEAT_FORWARD,
    BEAT_BACKWARD,
    BEAT_REDUCE,
    BEAT_UPDATE,
    BEAT_CHECKPOINT,
    BEAT_EVAL,
    BEAT_SECTIONS
} beat_section;

enum { BEAT_WORDS = 5, BEAT_TEXT = 8 * BEAT_WORDS };

/* Single fields are whole, two of them may be of different moments. */
typedef struct beat beat;

typedef struct {
    beat_section section;
    int64_t      step, collectives, bytes; /* number of the last collective call, its bytes */
    bool         waiting;                  /* inside it, or for the GPU */
    bool         warm;                     /* a step is done: what takes long the first time is over */
    double       at;                       /* of the last sign of life */
    double       longest[BEAT_SECTIONS];   /* between two signs of life, so far */
    char         op[BEAT_TEXT], collective[BEAT_TEXT];
} beat_view;

size_t beat_size(void);
void   beat_init(beat *b);
void   beat_read(const beat *b, beat_view *out);

/* The record of the calling thread; NULL: none. */
void         beat_bind(beat *b);
/* Returns the section that it leaves, to go back to. */
beat_section beat_enter(beat_section s);
void         beat_step(int64_t step);
void         beat_warm(void);
/* The call or the segment that begins. */
void         beat_op(const char *name, int64_t number);
/* A collective call was made; `waiting`: the thread stays in it until beat_back. */
void         beat_collective(const char *name, int64_t bytes, bool waiting);
void         beat_wait(const char *what);
void         beat_back(void);

const char *beat_section_name(beat_section s);

#ifdef __cplusplus
}
#endif
