/* Values that are in range each by itself but do not go together. All faults are listed, so that one run of
 * the program is enough to mend a configuration. */
#pragma once
#include "io/options.h"

enum { CONFIG_FAULTS = 32 };

typedef struct {
    int  n;
    char text[CONFIG_FAULTS][200];
} config_faults;

/* True when there is none. *st gets all of them in one line (ST_CONFIG), `all` (may be NULL) one by one. */
bool config_check(const options *o, config_faults *all, status *st);
