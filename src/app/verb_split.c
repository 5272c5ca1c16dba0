/* d3s2 split: which samples of a data set train and which evaluate, as two folders of selections (data/selection.h).
 * Shards are not touched. The result is made in OUTPUT.part and appears by one rename. */
#include "app/verbs.h"
#include "data/selection.h"
#include "data/split.h"
#include "io/atomic_file.h"
#include "io/folder_lock.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_SIDES = 2 };
static const char *const side_name[N_SIDES] = {"train", "heldout"};

typedef struct {
    const char *input;
    char        output[PATH_CAP], part[PATH_CAP], old[PATH_CAP];
    char        above[PATH_CAP]; /* from a folder in output to the folder of the shards */
    shard      *shards;
    int         n_shards;
    bool       *held; /* of all samples, shard by shard */
    int64_t     n[N_SIDES];
} split;

/* From a folder `depth` levels below `from` (whole paths both) to `to`. */
static bool way(const char *from, int depth, const char *to, char out[PATH_CAP], status *st) {
    size_t common = 0, n = 0;
    for (size_t i = 0;; i++) {
        bool a = from[i] == '/' || !from[i], b = to[i] == '/' || !to[i];
        if (a && b) common = i;
        if (from[i] != to[i] || !from[i]) break;
    }
    for (const char *p = from + common; *p; p++) depth += *p == '/' && p[1];
    for (; depth > 0 && n + 4 < PATH_CAP; depth--) n += (size_t)sprintf(out + n, n ? "/.." : "..");
    const char *rest = to + common; /* "" or "/..." */
    return snprintf(out + n, PATH_CAP - n, "%s", rest) < (int)(PATH_CAP - n) ||
           status_set(st, ST_USAGE, "%s: the way to it from %s is too long", to, from);
}

static bool name_output(split *s, const options *o, status *st) {
    char above[PATH_CAP], from[2 * PATH_CAP], *input = realpath(s->input, NULL), *parent = NULL;
    if (!input) return status_set(st, ST_NO_INPUT, "%s: %s", s->input, strerror(errno));
    int n_input = (int)strlen(s->input);
    while (n_input > 1 && s->input[n_input - 1] == '/') n_input--;
    int  n_output = o->split.output[0] ? snprintf(s->output, sizeof s->output, "%s", o->split.output)
                                       : snprintf(s->output, sizeof s->output, "%.*s/split", n_input, s->input);
    bool ok = true;
    for (size_t n = strlen(s->output); ok && n > 1 && s->output[n - 1] == '/'; n--) s->output[n - 1] = 0;
    if (n_output + (int)sizeof ".old.part" > PATH_CAP)
        ok = status_set(st, ST_USAGE, "%.200s...: the path is too long", s->output);
    if (ok) {
        const char *slash = strrchr(s->output, '/');
        snprintf(s->part, sizeof s->part, "%.*s.part", PATH_CAP - 12, s->output);
        snprintf(s->old, sizeof s->old, "%.*s.old.part", PATH_CAP - 12, s->output);
        folder_of(s->output, above);
        if (!o->command.dry_run) ok = make_folder(above, st);
        parent = realpath(above, NULL);
        snprintf(from, sizeof from, "%s/%s", parent ? parent : above, slash ? slash + 1 : s->output);
        ok = ok && way(from, 1, input, s->above, st); /* OUTPUT/train */
    }
    free(input), free(parent);
    return ok;
}

static bool choose(split *s, const options *o, status *st) {
    int64_t n = 0, at = 0;
    for (int k = 0; k < s->n_shards; k++) n += s->shards[k].n_samples;
    char **name = malloc((size_t)(n + 1) * sizeof *name);
    s->held = calloc((size_t)n + 1, sizeof *s->held);
    CHECK(name && s->held, "no memory for %lld names", (long long)n);
    for (int k = 0; k < s->n_shards; k++)
        for (int64_t i = 0; i < s->shards[k].n_samples; i++) name[at++] = s->shards[k].source[i];
    if (o->prep.heldout_count > 0) split_lowest(name, n, o->prep.heldout_count, s->held);
    for (int64_t i = 0; i < n; i++) {
        if (o->prep.heldout_count == 0) s->held[i] = split_in_share(name[i], o->prep.heldout_share);
        s->n[s->held[i]]++;
    }
    free(name);
    if (s->n[0] && s->n[1]) return true;
    return status_set(st, ST_USAGE, "%s: of %lld samples %lld would be held out: choose another share or count",
                      s->input, (long long)n, (long long)s->n[1]);
}

static bool write_side(const split *s, int side, status *st) {
    char    folder[PATH_CAP];
    int64_t first = 0;
    bool    ok = join_path(s->part, side_name[side], folder, st) && make_folder(folder, st);
    for (int k = 0; k < s->n_shards && ok; first += s->shards[k].n_samples, k++) {
        const shard *sh = &s->shards[k];
        const char  *base = base_name(sh->path);
        char         path[PATH_CAP], source[PATH_CAP];
        int64_t     *row = malloc((size_t)(sh->n_samples + 1) * sizeof *row), n = 0;
        CHECK(row, "no memory for %lld rows", (long long)sh->n_samples);
        for (int64_t i = 0; i < sh->n_samples; i++)
            if (s->held[first + i] == (side == 1)) row[n++] = i;
        if (n)
            ok = join_path(folder, base, path, st) && join_path(s->above, base, source, st) &&
                 selection_write(path, source, sh, row, n, st);
        free(row);
    }
    return ok;
}

static bool write_note(const split *s, const options *o, const char *folder, status *st) {
    char    path[PATH_CAP];
    json_t *j = json_pack("{s:s, s:I, s:f, s:I, s:I}", "format", "d3s2-split", "heldout_count",
                          (json_int_t)o->prep.heldout_count, "heldout_share", o->prep.heldout_share, side_name[0],
                          (json_int_t)s->n[0], side_name[1], (json_int_t)s->n[1]);
    char   *text = j ? json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(j);
    CHECK(text, "no memory for a note");
    bool ok = join_path(folder, "split.json", path, st) && atomic_write(path, text, (int64_t)strlen(text), st);
    free(text);
    return ok;
}

/* Only an earlier split may be replaced. */
static bool may_replace(const split *s, status *st) {
    char note[PATH_CAP];
    if (access(s->output, F_OK) != 0) return true;
    if (!join_path(s->output, "split.json", note, st)) return false;
    if (access(note, F_OK) == 0) return true;
    return status_set(st, ST_USAGE, "%s: is there and was not made by `d3s2 split`: choose another split.output",
                      s->output);
}

static bool publish(const split *s, status *st) {
    char folder[PATH_CAP], lock[PATH_CAP];
    bool again = access(s->output, F_OK) == 0;
    folder_of(s->output, folder);
    if (!join_path(s->part, "lock", lock, st) || !remove_tree(lock, st) || !remove_tree(s->old, st)) return false;
    if ((again && rename(s->output, s->old) != 0) || rename(s->part, s->output) != 0)
        return status_set(st, ST_IO, "%s: cannot be put in place: %s", s->output, strerror(errno));
    return sync_path(folder, st) && remove_tree(s->old, st);
}

static bool write_split(const split *s, const options *o, status *st) {
    char side[PATH_CAP];
    if (!may_replace(s, st) || !make_folder(s->part, st)) return false;
    int lock = folder_lock(s->part, "choose another split.output", st);
    if (lock < 0) return false;
    bool ok = folder_lock_sign(lock, s->part, st);
    for (int k = 0; k < N_SIDES && ok; k++) /* of a run that was killed */
        ok = join_path(s->part, side_name[k], side, st) && remove_tree(side, st) && write_side(s, k, st);
    ok = ok && write_note(s, o, s->part, st) && publish(s, st);
    if (!ok) remove_tree(s->part, &(status){0});
    close(lock);
    return ok;
}

static bool split_folder(const char *input, const options *o, status *st) {
    split s = {.input = input};
    bool  ok = name_output(&s, o, st) && shard_open_all(input, &s.shards, &s.n_shards, st) && choose(&s, o, st) &&
              (o->command.dry_run || write_split(&s, o, st));
    if (ok)
        printf("%s: %lld samples in %d shards: %lld to train on, %lld held out (%.1f %%): %s%s\n", input,
               (long long)(s.n[0] + s.n[1]), s.n_shards, (long long)s.n[0], (long long)s.n[1],
               100.0 * (double)s.n[1] / (double)(s.n[0] + s.n[1]), s.output,
               o->command.dry_run ? " (not written)" : "");
    shard_close_all(s.shards, s.n_shards);
    free(s.held);
    return ok;
}

bool verb_split(app *a, status *st) {
    const options *o = a->opt;
    if (o->command.n_args == 0)
        return status_set(st, ST_USAGE, "split needs a folder of shards: d3s2 split FOLDER... prep.heldout_share=0.05");
    if ((o->prep.heldout_count > 0) == (o->prep.heldout_share > 0))
        return status_set(st, ST_USAGE, "split needs prep.heldout_share or prep.heldout_count, one of them");
    if (o->split.output[0] && o->command.n_args > 1)
        return status_set(st, ST_USAGE, "split.output is for one folder, not for %d", o->command.n_args);
    for (int i = 0; i < o->command.n_args; i++)
        if (!split_folder(o->command.arg[i], o, st)) return false;
    return true;
}
