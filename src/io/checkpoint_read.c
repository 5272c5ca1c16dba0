#include "core/fault.h"
#include "core/rng.h"
#include "io/checkpoint_internal.h"
#include "io/h5.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_MANIFEST (1ll << 31)

void ckpt_close(ckpt_manifest *m) {
    for (int i = 0; i < m->n_ranges; i++) free(m->range[i].hash);
    free(m->range);
    free(m->part_bytes);
    free(m->param);
    free(m->config);
    *m = (ckpt_manifest){0};
}

static bool check_parts(const ckpt_manifest *m, status *st) {
    for (int p = 0; p < m->n_parts; p++) {
        char        path[PATH_CAP];
        struct stat info;
        if (!ckpt_part_path(m->folder, p, path, st)) return false;
        if (stat(path, &info))
            return status_set(st, ST_DATA, "%s: a part of the checkpoint is missing (%s): use another step", path,
                              strerror(errno));
        if (info.st_size != m->part_bytes[p])
            return status_set(st, ST_DATA,
                              "%s: has %lld bytes, the manifest says %lld: the checkpoint is damaged, use "
                              "another step",
                              path, (long long)info.st_size, (long long)m->part_bytes[p]);
    }
    return true;
}

bool ckpt_open(const char *folder, ckpt_manifest *m, status *st) {
    char     path[PATH_CAP];
    uint8_t *text;
    int64_t  n;
    *m = (ckpt_manifest){0};
    if (!join_path(folder, "manifest.json", path, st)) return false;
    strcpy(m->folder, folder);
    if (!read_whole_file(path, MAX_MANIFEST, &text, &n, st)) return false;
    bool ok = ckpt_manifest_parse(m, path, (const char *)text, n, st) &&
              ckpt_check_cover(folder, m->range, m->n_ranges, st) && check_parts(m, st);
    free(text);
    if (!ok) ckpt_close(m);
    return ok;
}

int64_t ckpt_slab_count(const ckpt_manifest *m, const char *slab) {
    int64_t n = 0;
    for (int i = 0; i < m->n_ranges; i++)
        if (!strcmp(m->range[i].slab, slab)) n += m->range[i].count;
    return n;
}

/* The parameter that has this element of a slab, NULL where slabs are not cut into parameters. */
static const char *param_at(const ckpt_manifest *m, const char *slab, int64_t element) {
    const char *name = NULL;
    if (!strcmp(slab, "clip_norms")) return NULL;
    for (int i = 0; i < m->n_params && m->param[i].offset <= element; i++) name = m->param[i].name;
    return name;
}

static bool bad_chunk(const ckpt_manifest *m, const ckpt_range *r, const char *path, int64_t first, int64_t count,
                      status *st) {
    const char *from = param_at(m, r->slab, first), *to = param_at(m, r->slab, first + count - 1);
    return status_set(
        st, ST_DATA,
        "%s: slab %s, elements %lld..%lld (%.90s to %.90s) do not match their checksum: the checkpoint is "
        "damaged",
        path, r->slab, (long long)first, (long long)(first + count - 1), from ? from : "no tensor",
        to ? to : "no tensor");
}

/* Elements lo..hi of one stored range to out, chunk by chunk through `chunk` [CKPT_CHUNK]; out NULL only
 * checks. */
static bool read_stored(const ckpt_manifest *m, const ckpt_range *r, int64_t lo, int64_t hi, float *chunk, float *out,
                        status *st) {
    char path[PATH_CAP], name[32];
    if (!ckpt_part_path(m->folder, r->part, path, st)) return false;
    hid_t f = h5_file_open(path, st);
    if (f < 0) return false;
    snprintf(name, sizeof name, "range/%d", r->index);
    hid_t set = h5_table_open(f, name, H5T_NATIVE_FLOAT, 0, r->count, NULL, st);
    bool  ok = set >= 0;
    for (int64_t k = lo / CKPT_CHUNK; ok && k * CKPT_CHUNK < hi; k++) {
        int64_t at = k * CKPT_CHUNK, n = r->count - at < CKPT_CHUNK ? r->count - at : CKPT_CHUNK;
        ok = h5_table_rows(set, H5T_NATIVE_FLOAT, at, n, chunk, st);
        if (ok && hash_bytes(chunk, (size_t)n * sizeof(float), 0) != r->hash[k])
            ok = bad_chunk(m, r, path, r->first + at, n, st);
        int64_t from = lo > at ? lo : at, to = hi < at + n ? hi : at + n;
        if (ok && out) memcpy(out + (from - lo), chunk + (from - at), (size_t)(to - from) * sizeof(float));
    }
    if (set >= 0) H5Dclose(set);
    H5Fclose(f);
    return ok;
}

bool ckpt_read_range(const ckpt_manifest *m, const char *slab, int64_t first, int64_t count, float *out, status *st) {
    int64_t total = ckpt_slab_count(m, slab);
    if (first < 0 || count < 0 || first > total - count)
        return status_set(st, ST_CONFIG,
                          "%s: slab %s has %lld elements, %lld..%lld are wanted: the checkpoint is of another "
                          "model",
                          m->folder, slab, (long long)total, (long long)first, (long long)(first + count));
    if (count == 0) return true;
    float *chunk = malloc(CKPT_CHUNK * sizeof *chunk);
    CHECK(chunk, "no memory for a chunk of a checkpoint");
    bool ok = true;
    for (int i = 0; ok && i < m->n_ranges; i++) {
        const ckpt_range *r = &m->range[i];
        if (strcmp(r->slab, slab) || r->first >= first + count || r->first + r->count <= first) continue;
        int64_t lo = first > r->first ? first - r->first : 0;
        int64_t hi = first + count < r->first + r->count ? first + count - r->first : r->count;
        ok = read_stored(m, r, lo, hi, chunk, out + (r->first + lo - first), st);
    }
    free(chunk);
    return ok;
}

bool ckpt_verify(const ckpt_manifest *m, status *st) {
    float *chunk = malloc(CKPT_CHUNK * sizeof *chunk);
    CHECK(chunk, "no memory for a chunk of a checkpoint");
    bool ok = true;
    for (int i = 0; ok && i < m->n_ranges; i++)
        ok = read_stored(m, &m->range[i], 0, m->range[i].count, chunk, NULL, st);
    free(chunk);
    return ok;
}

/* ---- choosing
 * ----------------------------------------------------------------------------------------------------- */

/* N of a folder name "step-N" as this program writes it, or -1. */
static int64_t step_of(const char *name) {
    char    again[40];
    int64_t step = strncmp(name, "step-", 5) ? -1 : strtoll(name + 5, NULL, 10);
    snprintf(again, sizeof again, "step-%" PRId64, step);
    return step >= 0 && !strcmp(again, name) ? step : -1;
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x > y ? -1 : x < y;
}

/* Steps of the step-N folders, newest first; malloc'ed. */
static bool list_steps(const char *run_folder, int64_t **steps, int *n, status *st) {
    char **names;
    int    all;
    *n = 0;
    *steps = NULL;
    if (!list_folder(run_folder, "", &names, &all, st)) return false;
    *steps = malloc(((size_t)all + 1) * sizeof **steps);
    CHECK(*steps, "no memory for %d names", all);
    for (int i = 0; i < all; i++)
        if (step_of(names[i]) >= 0) (*steps)[(*n)++] = step_of(names[i]);
    free_names(names, all);
    qsort(*steps, (size_t)*n, sizeof **steps, newest_first);
    return true;
}

bool ckpt_step_folder(const char *run_folder, int64_t step, char folder[PATH_CAP], status *st) {
    char name[40];
    snprintf(name, sizeof name, "step-%" PRId64, step);
    return join_path(run_folder, name, folder, st);
}

bool ckpt_latest(const char *run_folder, bool verify, ckpt_manifest *m, status *st) {
    int64_t *steps;
    int      n;
    *m = (ckpt_manifest){0};
    if (!list_steps(run_folder, &steps, &n, st)) return false;
    bool   found = false;
    status why = {0};
    for (int i = 0; !found && i < n; i++) {
        char   folder[PATH_CAP];
        status bad = {0};
        if (!ckpt_step_folder(run_folder, steps[i], folder, st)) break;
        found = ckpt_open(folder, m, &bad);
        if (found && verify && !ckpt_verify(m, &bad)) {
            ckpt_close(m);
            found = false;
        }
        if (found && i > 0) log_warn("continuing from %s, the newest good checkpoint", folder);
        if (!found) {
            log_warn("checkpoint %s is not usable: %s", folder, bad.text);
            status_set(&why, ST_DATA, "%s", bad.text);
        }
    }
    free(steps);
    if (found) return true;
    if (n == 0)
        return status_set(st, ST_NO_INPUT, "%s: holds no checkpoint (step-N): train first, or name another folder",
                          run_folder);
    return status_set(st, ST_DATA,
                      "%s: none of its %d checkpoints is usable: remove them or choose another folder; the "
                      "newest: %.280s",
                      run_folder, n, why.text);
}

bool ckpt_open_any(const char *path, bool verify, ckpt_manifest *m, status *st) {
    char        manifest[PATH_CAP];
    struct stat info;
    *m = (ckpt_manifest){0};
    if (stat(path, &info) == 0 && S_ISREG(info.st_mode))
        return status_set(st, ST_NO_INPUT,
                          "%s: is a file, a checkpoint is a folder (RUN or RUN/step-N): weights in safetensors become "
                          "one by `d3s2 import`",
                          path);
    if (!join_path(path, "manifest.json", manifest, st)) return false;
    if (access(manifest, F_OK)) return ckpt_latest(path, verify, m, st);
    if (!ckpt_open(path, m, st)) return false;
    if (!verify || ckpt_verify(m, st)) return true;
    ckpt_close(m);
    return false;
}

/* A folder under removal no longer looks like a checkpoint. */
static bool remove_step(const char *folder, status *st) {
    char part[PATH_CAP];
    if (!atomic_part_name(folder, part, st) || !remove_tree(part, st)) return false;
    fault_at("ckpt.before_prune");
    if (rename(folder, part)) return status_set(st, ST_IO, "%s: cannot remove: %s", folder, strerror(errno));
    fault_at("ckpt.prune");
    return remove_tree(part, st);
}

bool ckpt_remove_leftovers(const char *run_folder, status *st) {
    char **names, path[PATH_CAP];
    int    n;
    if (!list_folder(run_folder, ".part", &names, &n, st)) return false;
    bool ok = true;
    for (int i = 0; ok && i < n; i++) {
        char stem[300];
        snprintf(stem, sizeof stem, "%.*s", (int)strlen(names[i]) - 5, names[i]);
        if (step_of(stem) >= 0) ok = join_path(run_folder, names[i], path, st) && remove_tree(path, st);
    }
    free_names(names, n);
    return ok;
}

bool ckpt_prune(const char *run_folder, int keep_last, int64_t keep_every, status *st) {
    int64_t *steps;
    int      n;
    bool     ok = true, have_good = false;
    if (!ckpt_remove_leftovers(run_folder, st) || !list_steps(run_folder, &steps, &n, st)) return false;
    for (int i = 0; ok && i < n; i++) {
        char folder[PATH_CAP];
        ok = ckpt_step_folder(run_folder, steps[i], folder, st);
        bool keep = ckpt_stays(i, steps[i], keep_last, keep_every);
        if (ok && !have_good) {
            ckpt_manifest m;
            status        ignored = {0};
            have_good = ckpt_open(folder, &m, &ignored);
            if (have_good) ckpt_close(&m);
            keep = true; /* up to and with the newest good one nothing goes: a damaged one may still be of use
                            to someone */
        }
        if (ok && !keep) ok = remove_step(folder, st);
    }
    free(steps);
    return ok;
}

/* ---- fitting a model
 * ---------------------------------------------------------------------------------------------- */

static const char *shape_text(const ckpt_param *p, char out[160]) {
    int at = snprintf(out, 160, "[");
    for (int d = 0; d < p->rank && at < 130; d++)
        at += snprintf(out + at, 160 - (size_t)at, "%s%lld", d ? "," : "", (long long)p->shape[d]);
    snprintf(out + at, 160 - (size_t)at, "]");
    return out;
}

bool ckpt_match(const ckpt_manifest *m, const ckpt_param *want, int n, status *st) {
    char a[160], b[160];
    for (int i = 0; i < n || i < m->n_params; i++) {
        if (i >= m->n_params)
            return status_set(st, ST_CONFIG,
                              "%s: has no parameter %s %s of this model: the configuration differs from the checkpoint",
                              m->folder, want[i].name, shape_text(&want[i], a));
        const ckpt_param *have = &m->param[i];
        if (i >= n)
            return status_set(
                st, ST_CONFIG,
                "%s: has parameter %s %s, which this model lacks: the configuration differs from the checkpoint",
                m->folder, have->name, shape_text(have, a));
        if (strcmp(have->name, want[i].name))
            return status_set(
                st, ST_CONFIG,
                "%s: parameter %d is %s %s, in this model %s %s: the configuration differs from the checkpoint",
                m->folder, i, have->name, shape_text(have, a), want[i].name, shape_text(&want[i], b));
        if (have->rank != want[i].rank || memcmp(have->shape, want[i].shape, (size_t)have->rank * sizeof *have->shape))
            return status_set(
                st, ST_CONFIG,
                "%s: parameter %s has shape %s, in this model %s: the configuration differs from the checkpoint",
                m->folder, have->name, shape_text(have, a), shape_text(&want[i], b));
        if (have->offset != want[i].offset)
            return status_set(st, ST_CONFIG,
                              "%s: parameter %s starts at %lld, in this model at %lld: another program version "
                              "wrote it",
                              m->folder, have->name, (long long)have->offset, (long long)want[i].offset);
    }
    return true;
}

int64_t ckpt_number_of(const ckpt_manifest *m, const char *name, int64_t missing) {
    for (int i = 0; i < m->n_numbers; i++)
        if (!strcmp(m->number[i].name, name)) return m->number[i].value;
    return missing;
}
