#include "train/overlap.h"

bool overlap_of(const options *o, bool gpus, int nodes) {
    if (o->train.overlap == opt_train_overlap_auto) return !gpus || nodes > 1;
    return o->train.overlap == opt_train_overlap_on;
}

int64_t overlap_bucket_bytes(const options *o, bool gpus, int nodes) {
    return overlap_of(o, gpus, nodes) ? o->train.bucket_mb << 20 : INT64_MAX;
}
