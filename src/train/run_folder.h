/* The folder of one training run:
 *   config.yaml     the resolved configuration of the latest start
 *   version.txt     program version and how it was started, one line per start
 *   metrics.jsonl   one JSON object per logged step;  events/  the same for TensorBoard
 *   step-N/         checkpoints (io/checkpoint_file.h)
 *   lock            held while a job works here
 * A start that is refused leaves all of it as it was. */
#pragma once
#include "dist/comm.h"
#include "io/atomic_file.h"
#include "io/options.h"

typedef struct {
    char path[PATH_CAP];
    int  lock;    /* file descriptor, -1: not held (other ranks) */
    bool made;    /* the folder is new */
    bool started; /* run_folder_start has been here */
} run_folder;

/* Collective: rank 0 makes and locks the folder. */
bool run_folder_open(run_folder *r, const options *o, const comm *c, status *st);
/* Collective, when nothing stands against the run: config.yaml and version.txt. */
bool run_folder_start(run_folder *r, const options *o, const comm *c, status *st);
/* Also removes a new folder in which nothing was started. */
void run_folder_close(run_folder *r);
