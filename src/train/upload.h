/* Batches on the GPU: the used part of a batch's host memory is copied as it is, and its tensors move over to the copy.
 * Two places take turns, so that the next batch travels (STREAM_COPY) while this one is computed with (STREAM_COMPUTE);
 * the streams wait for each other, the host for neither. On the CPU a batch is used where it is, and all of this does
 * nothing. */
#pragma once
#include "core/move.h"
#include "train/task.h"

enum { UPLOAD_PLACES = 2 };

typedef struct {
    device_kind        dev;
    arena              place[UPLOAD_PLACES];
    const micro_batch *in[UPLOAD_PLACES];       /* who is there, from start to done */
    device_event      *released[UPLOAD_PLACES]; /* compute has left it */
    int                turn; /* where the next batch goes if nobody is there: the place that was left first */
} uploads;

/* `bytes`: of the host memory of the largest batch; made again with more it grows. */
void upload_room(uploads *u, device_kind dev, size_t bytes);
void upload_free(uploads *u);

/* Starts the copy. A batch that has been started may be given again. One place has to be free. */
void upload_start(uploads *u, const task *t, micro_batch *b);
/* Compute waits for the copy (and starts it, if nobody did). */
void upload_use(uploads *u, const task *t, micro_batch *b);
/* Everything that reads the batch has been enqueued. Its host memory may be written to when b->uploaded is reached. */
void upload_done(uploads *u, const micro_batch *b);

/* Batches that were started and that nobody will use after all. */
void upload_forget(uploads *u);

/* For dry passes: the tensors say that they are on dev, at addresses that nobody may touch. */
void upload_pretend(device_kind dev, const task *t, micro_batch *b);

/* Waits for b->uploaded without being counted as a wait of a step: for threads beside it, and for the end. */
void upload_wait(const micro_batch *b);

/* Without turns, for passes that are waited for: the used part of host memory to `copy`, which grows, in the stream of
 * ops. tensor_move with what is returned moves the tensors over. */
memory_move  upload_once(device_kind dev, const arena *host, arena *copy);
/* What upload_once would return, at addresses that nobody may touch: for dry passes; *bytes: of the copy, on the CPU of
 * the tables themselves. */
memory_move  upload_once_pretend(device_kind dev, const arena *host, size_t *bytes);
/* The values of x (f32) in host memory: its own, or a copy in `host`; the host waits for that. */
const float *download_f32(const tensor *x, arena *host);

/* f64 values that the losses of a step leave in device memory, on their way to the host. */
typedef struct {
    device_kind dev;
    double     *value; /* [most], pinned for a GPU */
    uint8_t (*into)[2];
    int64_t n, most;
} loss_values;

void    values_init(loss_values *v, device_kind dev, int64_t most);
void    values_free(loss_values *v);
/* Enqueues the copies of tensors value[0..n-1], b->n_values in all. */
void    values_take(loss_values *v, const micro_batch *b, const tensor *value, int n);
/* More values, into no sum; the place of the first in v->value. */
int64_t values_take_plain(loss_values *v, const tensor *x);
/* After the host has waited: adds them up in the order they were taken, and forgets them. */
void    values_add(loss_values *v, double sum[TASK_SUMS]);
