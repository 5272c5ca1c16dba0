/* What `d3s2 report` finds below a folder. */
#pragma once
#include "app/results.h"

typedef enum { REPORT_METRICS, REPORT_RESULTS, REPORT_CONFIG, REPORT_STAGES, REPORT_KINDS } report_kind;

typedef struct {
    char    path[PATH_CAP];  /* of the file */
    char    where[PATH_CAP]; /* its folder, relative to the report's folder; "." for that itself */
    json_t *json;            /* REPORT_RESULTS: {"kind": "vae" | "dit" | "samples", ...} */
} report_file;

typedef struct {
    report_file *file[REPORT_KINDS];
    int          n[REPORT_KINDS];
} report_data;

/* metrics.jsonl, results.json, config.yaml, stages.jsonl in all folders, by name. ST_NO_INPUT when there is nothing. */
bool report_find(const char *folder, report_data *d, status *st);
void report_data_free(report_data *d);
