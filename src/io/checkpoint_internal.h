/* Shared by the files that write, read and choose checkpoints. */
#pragma once
#include "io/checkpoint_file.h"

bool    ckpt_part_path(const char *folder, int part, char path[PATH_CAP], status *st);
bool    ckpt_step_folder(const char *run_folder, int64_t step, char folder[PATH_CAP], status *st);
/* What interrupted saves left in the run's folder: every step-N.part. */
bool    ckpt_remove_leftovers(const char *run_folder, status *st);
int64_t ckpt_chunks(int64_t count); /* hashes of a range of count floats */
void    ckpt_guard_take(const ckpt_guard *g);
void    ckpt_guard_give(const ckpt_guard *g);
/* Sorts by slab and first; every slab must be covered from 0 without hole or overlap. */
bool    ckpt_check_cover(const char *folder, ckpt_range *range, int n, status *st);

char *ckpt_manifest_text(const ckpt_manifest *m); /* malloc'ed JSON with checksum */
bool  ckpt_manifest_parse(ckpt_manifest *m, const char *name, const char *text, int64_t n, status *st);
