/* The memory of a pass without recording, in words: what it will take, from a dry pass, and beside that what it took.
 */
#pragma once
#include "core/arena.h"

/* Where the network is: activations, scratch memory (on the CPU at most), tables and inputs. */
typedef struct {
    int64_t tiles;
    size_t  activations, scratch, tables;
} pass_need;

/* The arenas of the passes. */
typedef struct {
    device_kind  dev;
    const arena *step, *scratch, *tables;
} pass_memory;

/* Bytes of the GPU that are in use without the passes' memory, and *all of them; both 0 on the CPU. */
size_t pass_gpu_base(const pass_memory *m, size_t *all);
/* "encoding the largest sample, ...": before. */
void   pass_need_print(const char *what, const pass_need *x);
/* "encoding N tiles: predicted ...": afterwards. base: pass_gpu_base of before the memory grew. */
void   pass_taken_print(const char *what, const pass_need *x, const pass_memory *m, size_t base);
