/* One row per shape, from the camera of its view. Generated ones: the view, the truth, the auto-encoder's
 * reconstruction and the generated mesh; of an auto-encoder's evaluation the pictures that it made. */
#include "app/report_page.h"
#include "data_prep/views.h"

#include <stdlib.h>
#include <string.h>

enum { PICTURE = 300 };

static const char *text_of(const json_t *j, const char *key) {
    const char *t = json_string_value(json_object_get(j, key));
    return t ? t : "";
}

static void caption(html *h, const report_file *f, const char *what, const char *file) {
    html_add(h, "<figcaption>");
    if (*file) {
        html_add(h, "<a href=\"");
        if (strcmp(f->where, ".") != 0) {
            html_text(h, f->where);
            html_add(h, "/");
        }
        html_text(h, file);
        html_add(h, "\">%s</a>", what);
    } else {
        html_add(h, "%s", what);
    }
    html_add(h, "</figcaption></figure>\n");
}

static void file_picture(html *h, const report_file *f, const char *name, const char *what) {
    char     folder[PATH_CAP], path[PATH_CAP];
    uint8_t *bytes;
    int64_t  n;
    status   quiet = {0};
    html_add(h, "<figure>");
    folder_of(f->path, folder);
    result_path(folder, name, "", path);
    if (*name && read_whole_file(path, 64 << 20, &bytes, &n, &quiet)) {
        html_png(h, bytes, n, what);
        free(bytes);
    }
    caption(h, f, what, "");
}

static void mesh_picture(html *h, const report_file *f, const char *name, const char *what, const camera *cam) {
    char           folder[PATH_CAP], path[PATH_CAP];
    mesh           m = {0};
    image          im = {0};
    uint8_t       *png = NULL;
    int64_t        n = 0;
    status         st = {0};
    render_options o = render_clay_options();
    html_add(h, "<figure>");
    folder_of(f->path, folder);
    result_path(folder, name, "", path);
    if (!*name || !mesh_read(path, &m, &st) || m.n_faces == 0)
        html_add(h, "<p>no mesh</p>");
    else if (render_mesh(&m, cam, PICTURE, PICTURE, &o, &im) && image_encode_png(&im, &png, &n, &st))
        html_png(h, png, n, what);
    else
        html_add(h, "<p>no picture</p>");
    free(png);
    image_free(&im);
    mesh_free(&m);
    caption(h, f, what, name);
}

/* That of the view; where it is unknown (a user's picture) from the front, a little above. */
static camera camera_of(const json_t *shape) {
    const json_t *list = json_object_get(shape, "camera");
    float         v[VIEW_CAMERA_FLOATS] = {0};
    for (size_t i = 0; i < VIEW_CAMERA_FLOATS; i++) v[i] = (float)json_number_value(json_array_get(list, i));
    camera cam = camera_unpack(v);
    return camera_known(&cam) ? cam : camera_orbit(30, 20, 40, 4.8, 1, PICTURE, PICTURE);
}

static void shape_title(html *h, const json_t *shape) {
    const json_t *chamfer = json_object_get(shape, "chamfer"), *sign = json_object_get(shape, "sign_accuracy");
    html_add(h, "<div class=shape><h3>");
    html_text(h, text_of(shape, "source"));
    html_add(h, "<small>");
    html_text(h, text_of(shape, "category"));
    html_add(h, " &middot; %lld tiles", (long long)json_integer_value(json_object_get(shape, "tokens")));
    if (json_is_number(sign)) html_add(h, " &middot; sign right %.1f %%", 100 * json_number_value(sign));
    if (json_is_number(chamfer)) html_add(h, " &middot; Chamfer %.4f", json_number_value(chamfer));
    html_add(h, "</small></h3>\n");
}

static void generated_row(html *h, const report_file *f, const json_t *shape) {
    camera cam = camera_of(shape);
    shape_title(h, shape);
    file_picture(h, f, text_of(shape, "image"), "view given");
    mesh_picture(h, f, text_of(shape, "truth"), "truth (stored tiles)", &cam);
    mesh_picture(h, f, text_of(shape, "reconstruction"), "auto-encoder", &cam);
    mesh_picture(h, f, text_of(shape, "mesh"), "generated", &cam);
    html_add(h, "</div>\n");
}

static void rebuilt_row(html *h, const report_file *f, const json_t *shape) {
    if (!*text_of(shape, "picture")) return;
    shape_title(h, shape);
    file_picture(h, f, text_of(shape, "picture"), "stored view; truth (stored tiles); auto-encoder");
    html_add(h, "</div>\n");
}

static void section(html *h, const report_file *f, const char *what,
                    void (*row)(html *h, const report_file *f, const json_t *shape)) {
    html_add(h, "<h2>%s: ", what);
    html_text(h, f->where);
    html_add(h, "</h2>\n");
    json_t *shapes = json_object_get(f->json, "shapes"), *shape;
    size_t  k;
    json_array_foreach(shapes, k, shape) row(h, f, shape);
}

void page_pictures(html *h, const report_data *d) {
    for (int i = 0; i < d->n[REPORT_RESULTS]; i++) {
        const report_file *f = &d->file[REPORT_RESULTS][i];
        const char        *kind = text_of(f->json, "kind");
        const json_t      *first = json_array_get(json_object_get(f->json, "shapes"), 0);
        if (strcmp(kind, "samples") == 0) section(h, f, "Generated", generated_row);
        if (strcmp(kind, "vae") == 0 && *text_of(first, "picture")) section(h, f, "Reconstructed", rebuilt_row);
    }
}
