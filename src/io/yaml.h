/* The subset of YAML that configuration files use: sections (a mapping of mappings) whose keys hold a scalar
 * or a list of scalars. Anchors, aliases, tags, deeper nesting, several documents and repeated keys are
 * refused. */
#pragma once
#include "core/base.h"

typedef struct {
    const char  *file; /* for messages */
    int          line; /* of the key, from 1 */
    const char  *section, *key;
    bool         list;
    int          n;     /* values; 1 for a scalar */
    const char **value; /* [n] */
} yaml_entry;

/* Called for each entry in order; false stops, with *st filled. */
typedef bool (*yaml_sink)(const yaml_entry *e, void *user, status *st);

bool yaml_read(const char *file, const char *text, int64_t n, yaml_sink sink, void *user, status *st);
/* One value as it may stand behind `key:`, for the command line: sink gets it with line 0 and the section and
 * key given. */
bool yaml_read_value(const char *file, const char *section, const char *key, const char *text, yaml_sink sink,
                     void *user, status *st);
