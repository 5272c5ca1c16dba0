/* d3s2 info: what a data set holds, what a machine has. */
#include "app/find.h"
#include "app/info_checkpoint.h"
#include "app/machine.h"
#include "app/sheet.h"
#include "app/verbs.h"
#include "core/device.h"
#include "data/latents.h"
#include "data/shard.h"
#include "data/tokens.h"
#include "kernels/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Also what stands in the way of using a GPU. */
static void print_gpus(void) {
    const char *why;
    device_info d = {0};
    int         n = device_count(&why);
    if (n == 0) printf("GPUs       none: %s\n", why);
    for (int i = 0; i < n && device_describe(i, &d); i++)
        printf("GPU %-6d %s, %.0f MB, %d multiprocessors, compute capability %d.%d, %s\n", i, d.name,
               (double)d.memory / (1 << 20), d.multiprocessors, d.major, d.minor, d.uuid);
    if (n > 0 && *why) printf("others     %s\n", why);
    if (n > 0)
        printf("CUDA       driver %d.%d, runtime %d.%d, NCCL %s\n", d.driver / 1000, d.driver % 1000 / 10,
               d.runtime / 1000, d.runtime % 1000 / 10, comm_device_version());
}

static bool print_device(void) {
    machine        m = machine_look();
    const backend *cuda = backend_find("cuda");
    const char    *tool = cuda ? cuda->built_for : NULL;
    printf("host       %s (%s)\nprocessor  %s\ncores      %d usable, %d threads of OpenMP\nmemory     %lld MB\nback "
           "ends  cpu, ref%s%s%s\n"
           "libraries  %s\n",
           m.host, m.system, m.cpu, m.cores, m.threads, (long long)m.memory_mb, cuda ? ", cuda" : "",
           tool ? ", built for " : "", tool ? tool : "", m.libraries);
    print_gpus();
    return true;
}

static int compare_i64(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* Ten equal steps from the least to the most. v is sorted. */
static void print_histogram(const int64_t *v, int64_t n) {
    enum { BARS = 10, WIDTH = 40 };
    int64_t count[BARS] = {0}, most = 1, span = v[n - 1] - v[0] + 1;
    int     bars = span < BARS ? (int)span : BARS;
    for (int64_t i = 0; i < n; i++) {
        int b = (int)((double)(v[i] - v[0]) * bars / (double)span);
        if (++count[b] > most) most = count[b];
    }
    for (int b = 0; b < bars; b++) {
        char    bar[WIDTH + 1];
        int64_t lo = v[0] + (span * b + bars - 1) / bars, hi = v[0] + (span * (b + 1) + bars - 1) / bars - 1;
        int     fill = (int)((count[b] * WIDTH + most - 1) / most);
        memset(bar, '#', sizeof bar);
        bar[fill] = 0;
        printf("    %8lld .. %-8lld %6lld  %s\n", (long long)lo, (long long)hi, (long long)count[b], bar);
    }
}

/* Shapes by a figure of their reports: `bound` are upper ends, the last class has the rest. */
static void print_classes(const shard *s, int n_shards, const char *figure, const double *bound,
                          const char *const *label, int n) {
    enum { MOST = 8, WIDTH = 40 };
    int64_t count[MOST] = {0}, most = 1;
    for (int k = 0; k < n_shards; k++)
        for (int64_t i = 0; i < s[k].n_samples; i++) {
            double x = shard_figure(&s[k], i, figure, -1);
            int    c = 0;
            while (c < n - 1 && !(x <= bound[c])) c++;
            if (x >= 0) count[c]++;
        }
    for (int c = 0; c < n; c++) most = count[c] > most ? count[c] : most;
    for (int c = 0; c < n; c++) {
        char bar[WIDTH + 1] = "";
        memset(bar, '#', (size_t)((count[c] * WIDTH + most - 1) / most));
        printf("    %-20s %6lld  %s\n", label[c], (long long)count[c], bar);
    }
}

static void print_quality(const shard *s, int n_shards) {
    static const double      parts[] = {1, 3, 7, 15, 31}, few[] = {0, 0.001, 0.01, 0.05, 0.2};
    /* shares; what they mean: docs/data.md */
    static const char *const share[][2] = {
        {"open_edge_share", "open edges  shapes by their share"},
        {"sheet_area_share", "sheets      shapes by their share of the surface"},
        {"doubt_voxel_share", "doubt       shapes by their share of doubtful signs"}};
    static const char *const parts_label[] = {"1", "2 .. 3", "4 .. 7", "8 .. 15", "16 .. 31", "32 and more"};
    static const char *const few_label[] = {"0", "up to 0.1 %", "up to 1 %", "up to 5 %", "up to 20 %", "more"};
    double                   all = 0, solid = 0, closed = 0;
    for (int k = 0; k < n_shards; k++)
        for (int64_t i = 0; i < s[k].n_samples; i++) {
            all += shard_figure(&s[k], i, "parts", 0);
            solid += shard_figure(&s[k], i, "solid_parts", 0);
            closed += shard_figure(&s[k], i, "closed_parts", 0);
        }
    if (all == 0) return; /* not made from meshes */
    printf("  parts       %.0f, solid parts %.1f %%, closed together %.1f %%; shapes by parts\n", all,
           100 * solid / all, 100 * closed / all);
    print_classes(s, n_shards, "parts", parts, parts_label, 6);
    for (size_t f = 0; f < sizeof share / sizeof *share; f++) {
        printf("  %s\n", share[f][1]);
        print_classes(s, n_shards, share[f][0], few, few_label, 6);
    }
}

typedef struct {
    const char *name;
    int64_t     n, tokens;
} category;

static int compare_category(const void *a, const void *b) {
    const category *x = a, *y = b;
    return x->n != y->n ? (x->n < y->n ? 1 : -1) : strcmp(x->name, y->name);
}

static void print_shards(const char *where, const shard *s, int n_shards) {
    int64_t n = 0, tiles = 0, views = 0, in = 0, sharp = 0, n_cat = 0, at = 0;
    for (int i = 0; i < n_shards; i++) n += s[i].n_samples, tiles += s[i].n_tiles, views += s[i].n_views;
    int64_t  *tokens = malloc(sizeof *tokens * (size_t)(n + 1));
    category *cat = calloc((size_t)(n + 1), sizeof *cat);
    CHECK(tokens && cat, "no memory for %lld samples", (long long)n);
    for (int i = 0; i < n_shards; i++)
        for (int64_t k = 0; k < s[i].n_samples; k++) {
            const char *name = s[i].category[k][0] ? s[i].category[k] : "(none)";
            int64_t     c = 0;
            tokens[at] = s[i].first[k + 1] - s[i].first[k];
            in += s[i].n_in[k], sharp += s[i].n_sharp[k];
            while (c < n_cat && strcmp(cat[c].name, name) != 0) c++;
            if (c == n_cat) cat[n_cat++].name = name;
            cat[c].n++;
            cat[c].tokens += tokens[at++];
        }
    printf("%s: %d shard%s, R = %d, tau = %g voxels\n", where, n_shards, n_shards == 1 ? "" : "s", s[0].meta.resolution,
           s[0].meta.tau_voxels);
    printf("  samples     %lld with %lld views\n", (long long)n, (long long)views);
    if (n) {
        qsort(tokens, (size_t)n, sizeof *tokens, compare_i64);
        printf("  tokens      %lld in all; least %lld, mean %.0f, median %lld, most %lld\n", (long long)tiles,
               (long long)tokens[0], (double)tiles / (double)n, (long long)tokens[n / 2], (long long)tokens[n - 1]);
        print_histogram(tokens, n);
        printf("  voxels      %lld, active %lld (%.1f %%), near sharp edges %lld (%.1f %% of the active)\n",
               (long long)tiles * TILE_CELLS, (long long)in, 100.0 * (double)in / (double)(tiles * TILE_CELLS),
               (long long)sharp, in ? 100.0 * (double)sharp / (double)in : 0);
        print_quality(s, n_shards);
        qsort(cat, (size_t)n_cat, sizeof *cat, compare_category);
        printf("  categories  %lld\n", (long long)n_cat);
        for (int64_t c = 0; c < n_cat && c < 40; c++)
            printf("    %-32s %6lld  mean %.0f tokens\n", cat[c].name, (long long)cat[c].n,
                   (double)cat[c].tokens / (double)cat[c].n);
        if (n_cat > 40) printf("    and %lld more\n", (long long)(n_cat - 40));
    }
    free(tokens);
    free(cat);
}

/* SHEET.png, and SHEET-2.png and so on for further folders. */
static void sheet_path(const char *name, int number, char path[PATH_CAP + 16]) {
    const char *dot = strrchr(name, '.');
    int         n = dot && !strchr(dot, '/') ? (int)(dot - name) : (int)strlen(name);
    if (number == 1)
        snprintf(path, PATH_CAP + 16, "%s", name);
    else
        snprintf(path, PATH_CAP + 16, "%.*s-%d%s", n, name, number, name + n);
}

/* Shards of one folder are one data set, the `number`th that is told of. */
static bool folder_info(const found *list, int n, int number, const options *o, status *st) {
    char folder[PATH_CAP], sheet[PATH_CAP + 16];
    folder_of(list[0].path, folder);
    shard *s;
    int    n_shards;
    if (!shard_open_all(n == 1 ? list[0].path : folder, &s, &n_shards, st)) return false;
    print_shards(n == 1 ? list[0].path : folder, s, n_shards);
    sheet_path(o->info.sheet, number, sheet);
    bool ok = !o->info.sheet[0] || sheet_write(sheet, s, n_shards, (int)o->info.columns, o->info.shapes, st);
    shard_close_all(s, n_shards);
    return ok;
}

static bool latents_info(const char *path, status *st) {
    latents l;
    if (!latents_open(&l, path, st)) return false;
    printf("%s: latents of %s, R = %d, %d channels, %lld samples, %lld tokens, VAE %016llx\n", path, l.shard,
           l.resolution, l.channels, (long long)l.n_samples, (long long)l.n_tiles, (unsigned long long)l.vae);
    latents_close(&l);
    return true;
}

static bool tokens_info(const char *path, status *st) {
    token_file t;
    if (!tokens_open(&t, path, st)) return false;
    printf(
        "%s: %s tokens of %s, width %d, images of %d pixels, %lld views (%d of each), %lld tokens, encoder %016llx\n",
        path, t.foreground ? "foreground" : "all", t.shard, t.width, t.size, (long long)t.n_views, t.variants,
        (long long)t.n_tokens, (unsigned long long)t.encoder);
    tokens_close(&t);
    return true;
}

static bool path_info(const char *path, const options *o, int *n_folders, status *st) {
    static const char *const kind[] = {"shard",      "selection",           "latents", "tokens",
                                       "checkpoint", "unfinished, ignored", "unknown"};
    found                   *list;
    int                      n;
    if (!find_below(path, &list, &n, st)) return false;
    bool ok = true;
    for (int i = 0, j; i < n && ok; i = j) {
        char here[PATH_CAP], there[PATH_CAP];
        folder_of(list[i].path, here);
        j = i + 1;
        if (o->command.dry_run) {
            printf("%s: %s\n", list[i].path, kind[list[i].kind]);
        } else if (list[i].kind == FOUND_SHARD || list[i].kind == FOUND_SELECTION) {
            for (; j < n && (list[j].kind == FOUND_SHARD || list[j].kind == FOUND_SELECTION); j++) {
                folder_of(list[j].path, there);
                if (strcmp(here, there) != 0) break;
            }
            ok = folder_info(list + i, j - i, ++*n_folders, o, st);
        } else if (list[i].kind == FOUND_LATENTS) {
            ok = latents_info(list[i].path, st);
        } else if (list[i].kind == FOUND_TOKENS) {
            ok = tokens_info(list[i].path, st);
        } else if (list[i].kind == FOUND_CHECKPOINT) {
            if (j < n) folder_of(list[j].path, there);
            bool last = j == n || list[j].kind != FOUND_CHECKPOINT || strcmp(here, there) != 0;
            ok = checkpoint_info(list[i].path, last, st); /* those of a run have the same options, or nearly */
        } else if (list[i].kind == FOUND_DAMAGED) {
            ok = status_set(st, ST_DATA, "%s", list[i].text);
        } else {
            printf("%s: %s\n", list[i].path, kind[list[i].kind]);
        }
    }
    free(list);
    return ok;
}

bool verb_info(app *a, status *st) {
    if (a->flag || a->opt->command.n_args == 0) return print_device();
    int n_folders = 0;
    for (int i = 0; i < a->opt->command.n_args; i++)
        if (!path_info(a->opt->command.arg[i], a->opt, &n_folders, st)) return false;
    return true;
}
