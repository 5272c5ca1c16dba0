#include "data/shard.h"

#include <jansson.h>
#include <string.h>

double shard_figure(const shard *s, int64_t i, const char *name, double missing) {
    json_t *report = json_loads(s->report[i], JSON_DISABLE_EOF_CHECK, NULL), *v = json_object_get(report, name);
    double  x = json_is_number(v) ? json_number_value(v) : missing;
    json_decref(report);
    return x;
}
