#include "ops/op_profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/device.h"

/* A call whose time is known when the GPU has come so far. */
typedef struct {
    int           row;
    device_event *from, *to;
} open_call;

struct op_profile {
    bool            on, inside;
    device_kind     dev;
    int             n_rows, most_rows, n_calls, most_calls;
    op_profile_row *row;
    open_call      *call;
    double          t0;
    int             current; /* row of the call under way */
};

op_profile *op_profile_new(void) {
    op_profile *p = calloc(1, sizeof *p);
    CHECK(p, "no memory for a profile");
    return p;
}

void op_profile_free(op_profile *p) {
    if (!p) return;
    for (int i = 0; i < p->most_calls; i++) {
        device_event_free(p->call[i].from);
        device_event_free(p->call[i].to);
    }
    free(p->call);
    free(p->row);
    free(p);
}

void op_profile_switch(op_profile *p, bool on) {
    p->on = on;
}

static void shape_text(const op_tensors *l, char out[96]) {
    int n = 0, shown = l->n < 2 ? l->n : 2;
    out[0] = 0;
    for (int i = 0; i < shown; i++)
        for (int d = 0; d < l->at[i].t->n_dims && n < 80; d++)
            n += snprintf(out + n, (size_t)(96 - n), "%s%lld", d ? "x" : i ? " " : "", (long long)l->at[i].t->dim[d]);
}

static int find_row(op_profile *p, op_id op, const op_tensors *l) {
    char shape[96];
    shape_text(l, shape);
    for (int i = 0; i < p->n_rows; i++)
        if (p->row[i].op == op && strcmp(p->row[i].shape, shape) == 0) return i;
    if (p->n_rows == p->most_rows) {
        p->most_rows = p->most_rows ? 2 * p->most_rows : 64;
        p->row = realloc(p->row, (size_t)p->most_rows * sizeof *p->row);
        CHECK(p->row, "no memory for %d rows of a profile", p->most_rows);
    }
    p->row[p->n_rows] = (op_profile_row){.op = op};
    memcpy(p->row[p->n_rows].shape, shape, sizeof shape);
    return p->n_rows++;
}

static open_call *new_call(op_profile *p) {
    if (p->n_calls == p->most_calls) {
        int most = p->most_calls ? 2 * p->most_calls : 1024;
        p->call = realloc(p->call, (size_t)most * sizeof *p->call);
        CHECK(p->call, "no memory for %d calls of a profile", most);
        for (; p->most_calls < most; p->most_calls++)
            p->call[p->most_calls] = (open_call){-1, device_event_new(), device_event_new()};
    }
    return &p->call[p->n_calls];
}

void op_profile_enter(op_profile *p, op_id op, const void *args, device_kind dev) {
    char       copy[OP_ARGS_BYTES];
    op_tensors l;
    if (!p->on) return;
    memcpy(copy, args, op_table[op].args_bytes);
    op_list(op, copy, &l);
    p->dev = dev;
    p->inside = true;
    p->current = find_row(p, op, &l);
    p->row[p->current].calls++;
    p->row[p->current].bytes += op_list_bytes(&l);
    if (dev == DEV_CUDA) {
        open_call *k = new_call(p);
        k->row = p->current;
        device_event_record(k->from, STREAM_COMPUTE);
    }
    p->t0 = now_seconds();
}

void op_profile_leave(op_profile *p) {
    if (!p->inside) return;
    p->inside = false;
    if (p->dev == DEV_CUDA)
        device_event_record(p->call[p->n_calls++].to, STREAM_COMPUTE);
    else
        p->row[p->current].seconds += now_seconds() - p->t0;
}

static int longest_first(const void *a, const void *b) {
    double x = ((const op_profile_row *)a)->seconds, y = ((const op_profile_row *)b)->seconds;
    return (x < y) - (x > y);
}

const op_profile_row *op_profile_rows(op_profile *p, int *n) {
    if (p->n_calls) device_sync(STREAM_COMPUTE);
    for (int i = 0; i < p->n_calls; i++)
        p->row[p->call[i].row].seconds += device_event_seconds(p->call[i].from, p->call[i].to);
    p->n_calls = 0;
    if (p->n_rows) qsort(p->row, (size_t)p->n_rows, sizeof *p->row, longest_first);
    *n = p->n_rows;
    return p->row;
}
