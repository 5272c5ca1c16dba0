#include "data_prep/pictures.h"
#include "core/rng.h"
#include "io/atomic_file.h"
#include "io/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void add(pictures *p, const char *path, const struct stat *info) {
    int64_t of[2] = {info->st_size, info->st_mtime};
    p->stamp = hash_bytes(of, sizeof of, hash_bytes(path, strlen(path), p->stamp));
    p->path = realloc(p->path, (size_t)(p->n + 1) * sizeof *p->path);
    CHECK(p->path && (p->path[p->n] = strdup(path)), "no memory for the name of a picture");
    p->n++;
}

static bool add_folder(pictures *p, const char *folder, status *st) {
    char **names;
    int    n;
    bool   ok = list_folder(folder, ".png", &names, &n, st);
    if (!ok) return false;
    for (int i = 0; i < n && ok; i++) {
        char        path[PATH_CAP];
        struct stat info;
        ok = join_path(folder, names[i], path, st);
        if (ok && stat(path, &info) == 0 && S_ISREG(info.st_mode)) add(p, path, &info);
    }
    free_names(names, n);
    if (ok && p->n > PICTURES_MOST)
        ok = status_set(st, ST_DATA, "%s: %d pictures of one mesh, at most %d are taken", folder, p->n, PICTURES_MOST);
    return ok;
}

bool pictures_find(const char *folder, const char *mesh_name, pictures *p, status *st) {
    char        path[PATH_CAP], one[PATH_CAP + 8];
    const char *base = base_name(mesh_name), *dot = strrchr(base, '.');
    const char *name = mesh_name[0] == '/' ? base : mesh_name; /* of a whole path its last part */
    struct stat info;
    *p = (pictures){0};
    int n = snprintf(path, sizeof path, "%s/%.*s", folder, (int)((dot ? dot : base + strlen(base)) - name), name);
    if (n < 0 || n >= (int)sizeof path) return status_set(st, ST_USAGE, "%.200s...: the path is too long", path);
    snprintf(one, sizeof one, "%s.png", path);
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        if (!add_folder(p, path, st)) return false;
    } else if (stat(one, &info) == 0 && S_ISREG(info.st_mode)) {
        add(p, one, &info);
    }
    return p->n > 0 || status_set(st, ST_NO_INPUT, "%s: no picture of it: neither %s nor a *.png in %s (prep.images)",
                                  mesh_name, one, path);
}

void pictures_free(pictures *p) {
    for (int i = 0; i < p->n; i++) free(p->path[i]);
    free(p->path);
    *p = (pictures){0};
}

static bool check(const char *path, const image *im, status *st) {
    if (im->channels != 4)
        return status_set(st, ST_DATA, "%s: has no alpha, which says what is foreground: save it as PNG with alpha",
                          path);
    if (im->width > PICTURE_SIDE || im->height > PICTURE_SIDE)
        return status_set(st, ST_DATA, "%s: %d x %d pixels: scale it down to at most %d a side", path, im->width,
                          im->height, PICTURE_SIDE);
    for (int64_t i = 0; i < (int64_t)im->width * im->height; i++)
        if (im->pixel[4 * i + 3]) return true;
    return status_set(st, ST_DATA, "%s: its alpha is 0 everywhere: it has no foreground", path);
}

bool pictures_read(const pictures *p, sample *out, status *st) {
    out->camera = calloc((size_t)p->n * VIEW_CAMERA_FLOATS, sizeof *out->camera);
    out->png = calloc((size_t)p->n, sizeof *out->png);
    out->png_size = calloc((size_t)p->n, sizeof *out->png_size);
    CHECK(out->camera && out->png && out->png_size, "no memory for %d views", p->n);
    bool ok = true;
    for (int i = 0; i < p->n && ok; i++) {
        image im;
        /* Encoded anew: palettes and 16 bits become 8 bits RGBA, texts and profiles go. */
        ok = image_read(p->path[i], &im, st);
        if (!ok) break;
        ok = check(p->path[i], &im, st) && image_encode_png(&im, &out->png[i], &out->png_size[i], st);
        out->n_views += ok;
        out->camera[i * VIEW_CAMERA_FLOATS + 20] = (float)im.width;
        out->camera[i * VIEW_CAMERA_FLOATS + 21] = (float)im.height;
        image_free(&im);
    }
    return ok;
}
