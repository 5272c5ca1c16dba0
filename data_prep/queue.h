/* One counter shared by all ranks: whoever is free takes the next mesh. A one-sided MPI window on rank 0; with one rank
 * (or without MPI) a plain counter. Open, close and the calls marked so are collective. */
#pragma once
#include "core/base.h"

typedef struct work_queue work_queue;

work_queue *queue_open(int64_t n, int rank, int size); /* collective; the same n everywhere */
void        queue_close(work_queue *q);                /* collective */
int64_t     queue_next(work_queue *q);                 /* 0..n-1, each once over all ranks; -1 when none is left */
void        queue_stop(work_queue *q);                 /* nobody gets another one */

/* Collective helpers over all ranks (of MPI_COMM_WORLD when size > 1). */
void queue_broadcast(void *data, int64_t bytes, int size); /* from rank 0 */
void queue_sum(int64_t *values, int n, int size);
/* Every rank leaves with the failure of the lowest failing rank, or with ST_OK. */
void queue_agree(status *st, int rank, int size);
