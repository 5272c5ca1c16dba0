/* Files of this program in HDF5, mutated: shards, selections of their samples, latents, condition tokens. What is taken
 * is read whole. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/latents.h"
#include "data/selection.h"
#include "data/tokens.h"
#include "fuzz/fuzz.h"
#include "harness/harness.h"
#include "io/atomic_file.h"
#include "train/fixture.h"

static bool run_shard(void *user, const uint8_t *bytes, int64_t n) {
    shard       s;
    status      st = {0};
    const char *path = fuzz_file(bytes, n);
    (void)user;
    if (!shard_open(&s, path, &st)) {
        fuzz_refusal(&st, path);
        return false;
    }
    bool good = true;
    for (int64_t i = 0; i < s.n_samples && i < 100; i++) {
        sample x;
        status why = {0};
        if (shard_read_sample(&s, i, true, &x, &why))
            sample_free(&x);
        else
            fuzz_refusal(&why, path), good = false;
    }
    shard_close(&s);
    int64_t n_bad;
    status  why = {0};
    if (!shard_check(path, &n_bad, &why)) fuzz_refusal(&why, path), good = false;
    return good;
}

static bool run_latents(void *user, const uint8_t *bytes, int64_t n) {
    latents     l;
    status      st = {0};
    const char *path = fuzz_file(bytes, n);
    (void)user;
    if (!latents_open(&l, path, &st)) {
        fuzz_refusal(&st, path);
        return false;
    }
    bool good = true;
    for (int64_t i = 0; i < l.n_samples && i < 100; i++) {
        uint16_t *coord;
        float    *mean, *logvar;
        status    why = {0};
        if (latents_read(&l, i, &coord, &mean, &logvar, &why))
            free(coord), free(mean), free(logvar);
        else
            fuzz_refusal(&why, path), good = false;
    }
    latents_close(&l);
    return good;
}

static bool run_tokens(void *user, const uint8_t *bytes, int64_t n) {
    token_file  t;
    status      st = {0};
    const char *path = fuzz_file(bytes, n);
    (void)user;
    if (!tokens_open(&t, path, &st)) {
        fuzz_refusal(&st, path);
        return false;
    }
    bool good = true;
    for (int64_t i = 0; i < t.n_samples && i < 100; i++)
        for (int64_t v = 0; v < t.view_first[i + 1] - t.view_first[i] && v < 100; v++) {
            int64_t  k;
            float   *token;
            int32_t *coord;
            status   why = {0};
            if (tokens_read(&t, i, v, &k, &token, &coord, &why))
                free(token), free(coord);
            else
                fuzz_refusal(&why, path), good = false;
        }
    tokens_close(&t);
    return good;
}

static void write_tokens(const char *path) {
    token_file meta = {
        .encoder = 5, .width = 8, .size = 28, .special = 5, .variants = 1, .foreground = true, .shard = "part-0.h5"};
    status         st = {0};
    tokens_writer *w = tokens_create(path, &meta, &st);
    float          token[7 * 8];
    int32_t        coord[7 * 3] = {0};
    fill_rule(token, 7 * 8, 3, 2);
    CHECK(w && tokens_append_view(w, 7, token, coord, &st) && tokens_append_view(w, 5, token, coord, &st) &&
              tokens_end_sample(w, 11, &st) && tokens_finish(w, &st),
          "%s", st.text);
}

static void write_selection(const char *path, const char *of) {
    shard  s;
    status st = {0};
    CHECK(shard_open(&s, of, &st) && selection_write(path, of, &s, (const int64_t[]){0}, 1, &st), "%s", st.text);
    shard_close(&s);
}

enum { N_FILES = 4 };

int main(int argc, char **argv) {
    static const char *const files[N_FILES] = {"shards/part-0.h5", "latents/part-0.h5", "tokens.h5", "selection.h5"};
    uint8_t                 *bytes[N_FILES];
    int64_t                  size[N_FILES];
    char                     path[PATH_CAP], of[PATH_CAP];
    status                   st = {0};
    fixture_spec             spec = {.n_samples = 1, .per_shard = 1, .resolution = 16, .vae = 7};
    fixture_write(temp_folder(), &spec);
    snprintf(path, sizeof path, "%.400s/tokens.h5", temp_folder());
    write_tokens(path);
    snprintf(path, sizeof path, "%.400s/selection.h5", temp_folder());
    snprintf(of, sizeof of, "%.400s/shards/part-0.h5", temp_folder());
    write_selection(path, of);
    for (int i = 0; i < N_FILES; i++) {
        snprintf(path, sizeof path, "%.400s/%s", temp_folder(), files[i]);
        CHECK(read_whole_file(path, 1 << 20, &bytes[i], &size[i], &st), "%s", st.text);
    }
    fuzz_target t[N_FILES] = {{.name = "shard", .count = 500, .run = run_shard},
                              {.name = "latents", .count = 500, .run = run_latents},
                              {.name = "tokens", .count = 500, .run = run_tokens},
                              {.name = "selection", .count = 500, .run = run_shard}};
    for (int i = 0; i < N_FILES; i++) {
        t[i].seed = (const uint8_t **)(uintptr_t)&bytes[i];
        t[i].size = &size[i];
        t[i].n_seeds = 1;
        t[i].most = 2 * size[i];
    }
    fuzz_main(argc, argv, t, N_FILES);
    for (int i = 0; i < N_FILES; i++) free(bytes[i]);
    return 0;
}
