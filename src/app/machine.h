/* What this machine has and which libraries the program runs on. */
#pragma once
#include "core/base.h"

typedef struct {
    char    cpu[128], host[64], system[128];
    int     cores, threads; /* that this process may use; of one parallel region */
    int64_t memory_mb;
    char    libraries[256];
} machine;

machine machine_look(void);
