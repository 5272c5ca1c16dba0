#include "app/eval_picture.h"
#include "app/sheet.h"
#include "data_prep/views.h"

#include <string.h>

static bool add_surface(image *row, int at, const mesh *m, const camera *cam, status *st) {
    render_options o = render_clay_options();
    image          im = {0};
    if (m->n_faces == 0) return true;
    if (!render_mesh(m, cam, EVAL_PICTURE, EVAL_PICTURE, &o, &im))
        return status_set(st, ST_CONFIG, "no memory to render %lld faces", (long long)m->n_faces);
    sheet_place(row, at * EVAL_PICTURE, 0, EVAL_PICTURE, &im);
    image_free(&im);
    return true;
}

bool eval_picture(const dataset *d, int64_t i, const mesh *truth, const mesh *own, const char *path, status *st) {
    const data_entry *e = &d->entry[i];
    image             row = sheet_new(EVAL_PICTURES_ACROSS * EVAL_PICTURE, EVAL_PICTURE), im = {0};
    float             packed[VIEW_CAMERA_FLOATS];
    camera            cam = {0};
    bool              ok = true;
    if (e->views > 0) {
        ok = sheet_view(&d->shards[e->shard], e->at, &im, packed, st);
        if (ok) sheet_place(&row, 0, 0, EVAL_PICTURE, &im);
        if (ok) cam = camera_unpack(packed);
        image_free(&im);
    }
    if (!camera_known(&cam)) cam = camera_framing(truth, 30, 25, 50, VIEW_FILL, 1, EVAL_PICTURE, EVAL_PICTURE);
    ok = ok && add_surface(&row, 1, truth, &cam, st) && add_surface(&row, 2, own, &cam, st) &&
         image_write_png(path, &row, st);
    image_free(&row);
    return ok;
}

bool eval_pictures_join(const char *folder, char (*names)[96], int64_t n, status *st) {
    enum { COLUMNS = 2 };
    int   width = EVAL_PICTURES_ACROSS * EVAL_PICTURE, columns = n < COLUMNS ? (int)n : COLUMNS;
    image all = sheet_new(columns * width, (int)((n + columns - 1) / columns) * EVAL_PICTURE);
    char  path[PATH_CAP];
    bool  ok = true;
    for (int64_t i = 0; i < n && ok; i++) {
        image row = {0};
        result_path(folder, names[i], ".png", path);
        ok = image_read(path, &row, st);
        if (ok && (row.width != width || row.height != EVAL_PICTURE || row.channels != 3))
            ok = status_set(st, ST_DATA, "%s: %d x %d pixels of %d numbers: remove the file and run again", path,
                            row.width, row.height, row.channels);
        for (int y = 0; y < row.height && ok; y++)
            memcpy(all.pixel + 3 * (((int64_t)(i / columns) * EVAL_PICTURE + y) * all.width + i % columns * width),
                   row.pixel + 3 * (int64_t)y * width, 3 * (size_t)width);
        image_free(&row);
    }
    result_path(folder, "pictures.png", "", path);
    ok = ok && image_write_png(path, &all, st);
    image_free(&all);
    return ok;
}
