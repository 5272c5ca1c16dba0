/* d3s2 check: reads everything below the given paths whole. */
#include "app/find.h"
#include "app/verbs.h"
#include "data/latents.h"
#include "data/shard.h"
#include "data/tokens.h"
#include "io/checkpoint_file.h"
#include "io/config_check.h"
#include "train/view_input.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool check_latents(const char *path, char what[64], status *st) {
    latents l;
    if (!latents_open(&l, path, st)) return false;
    bool ok = true;
    for (int64_t i = 0; i < l.n_samples && ok; i++) {
        uint16_t *coord;
        float    *mean, *logvar;
        ok = latents_read(&l, i, &coord, &mean, &logvar, st);
        if (!ok) break;
        for (int64_t k = 0; k < (l.first[i + 1] - l.first[i]) * l.channels && ok; k++)
            if (!isfinite(mean[k]) || !isfinite(logvar[k]))
                ok = status_set(st, ST_DATA, "%s: sample %lld holds values that are not finite: encode again", path,
                                (long long)i);
        free(coord);
        free(mean);
        free(logvar);
    }
    snprintf(what, 64, "%lld samples, %lld tokens", (long long)l.n_samples, (long long)l.n_tiles);
    latents_close(&l);
    return ok;
}

static bool check_tokens(const char *path, char what[64], status *st) {
    token_file t;
    if (!tokens_open(&t, path, st)) return false;
    bool ok = true;
    for (int64_t i = 0; i < t.n_samples && ok; i++)
        for (int64_t v = 0; v < t.view_first[i + 1] - t.view_first[i] && ok; v++) {
            int64_t  n;
            float   *token;
            int32_t *coord;
            ok = tokens_read(&t, i, v, &n, &token, &coord, st);
            if (!ok) break;
            for (int64_t k = 0; k < n * t.width && ok; k++)
                if (!isfinite(token[k]))
                    ok = status_set(st, ST_DATA,
                                    "%s: sample %lld holds values that are not finite: run `d3s2 tokens` again", path,
                                    (long long)i);
            free(token);
            free(coord);
        }
    snprintf(what, 64, "%lld views, %lld tokens", (long long)t.n_views, (long long)t.n_tokens);
    tokens_close(&t);
    return ok;
}

static bool check_checkpoint(const char *path, char what[64], status *st) {
    ckpt_manifest m;
    if (!ckpt_open(path, &m, st)) return false;
    snprintf(what, 64, "%.20s, step %lld, %d parts", m.model, (long long)m.step, m.n_parts);
    bool ok = ckpt_verify(&m, st);
    ckpt_close(&m);
    return ok;
}

static bool check_shard(const char *path, char what[64], status *st) {
    int64_t n_bad = 0;
    bool    ok = shard_check(path, &n_bad, st);
    shard   s;
    status  quiet = {0};
    if (shard_open(&s, path, &quiet)) {
        snprintf(what, 64, "%lld samples, %lld tiles", (long long)s.n_samples, (long long)s.n_tiles);
        shard_close(&s);
    }
    if (n_bad > 1 && st->text[0]) {
        char more[64];
        snprintf(more, sizeof more, " (%lld samples are bad)", (long long)n_bad);
        strncat(st->text, more, sizeof st->text - strlen(st->text) - 1);
    }
    return ok;
}

/* The samples themselves are checked where they are. */
static bool check_selection(const char *path, char what[64], status *st) {
    shard s;
    if (!shard_open(&s, path, st)) return false;
    snprintf(what, 64, "%lld samples, %lld tiles", (long long)s.n_samples, (long long)s.n_tiles);
    shard_close(&s);
    return true;
}

/* Names, types and ranges have been looked at when the words were read. */
static bool check_options(const app *a, status *st) {
    if (a->argc == 1)
        return status_set(st, ST_USAGE, "check needs a path or a configuration: d3s2 check PATH... | --config FILE");
    if (!config_check(a->opt, NULL, st)) return false;
    if (a->opt->train.model == opt_train_model_dit && !view_check(a->opt, st)) return false;
    printf("ok       configuration\n");
    return true;
}

bool verb_check(app *a, status *st) {
    static const char *const kind[] = {"shard",      "selection",  "latents", "tokens",
                                       "checkpoint", "unfinished", "unknown"};
    int                      n_bad = 0, n_all = 0;
    if (a->opt->command.n_args == 0) return check_options(a, st);
    for (int p = 0; p < a->opt->command.n_args; p++) {
        found *list;
        int    n;
        if (!find_below(a->opt->command.arg[p], &list, &n, st)) return false;
        for (int i = 0; i < n; i++) {
            status one = {0};
            char   what[64] = "";
            bool   ok = true;
            if (a->opt->command.dry_run)
                snprintf(what, sizeof what, "not read");
            else if (list[i].kind == FOUND_SHARD)
                ok = check_shard(list[i].path, what, &one);
            else if (list[i].kind == FOUND_SELECTION)
                ok = check_selection(list[i].path, what, &one);
            else if (list[i].kind == FOUND_LATENTS)
                ok = check_latents(list[i].path, what, &one);
            else if (list[i].kind == FOUND_TOKENS)
                ok = check_tokens(list[i].path, what, &one);
            else if (list[i].kind == FOUND_CHECKPOINT)
                ok = check_checkpoint(list[i].path, what, &one);
            else if (list[i].kind == FOUND_DAMAGED)
                ok = status_set(&one, ST_DATA, "%s", list[i].text);
            if (n_all++ == 0) printf("%-8s %-11s %-32s %s\n", "state", "kind", "content", "file");
            printf("%-8s %-11s %-32s %s\n",
                   !ok                          ? "WRONG"
                   : list[i].kind == FOUND_PART ? "ignored"
                                                : "ok",
                   kind[list[i].kind], what, list[i].path);
            if (!ok) printf("         %s\n", one.text);
            fflush(stdout);
            n_bad += !ok;
        }
        free(list);
    }
    if (n_bad) return status_set(st, ST_DATA, "%d of %d files are wrong; the table says what and where", n_bad, n_all);
    return true;
}
