#include "app/sheet.h"
#include "io/image.h"

#include <stdlib.h>
#include <string.h>

/* im (RGBA) into the cell at (x0,y0) of a white RGB sheet, by the mean of the pixels that each of its pixels covers. */
static void place(image *sheet, int x0, int y0, const image *im) {
    int side = im->width > im->height ? im->width : im->height;
    for (int y = 0; y < SHEET_CELL; y++)
        for (int x = 0; x < SHEET_CELL; x++) {
            int64_t sum[3] = {0}, n = 0;
            int     u0 = x * side / SHEET_CELL, u1 = (x + 1) * side / SHEET_CELL;
            int     v0 = y * side / SHEET_CELL, v1 = (y + 1) * side / SHEET_CELL;
            for (int v = v0; v < (v1 > v0 ? v1 : v0 + 1); v++)
                for (int u = u0; u < (u1 > u0 ? u1 : u0 + 1); u++, n++) {
                    bool           in = u < im->width && v < im->height;
                    const uint8_t *p = in ? im->pixel + 4 * ((int64_t)v * im->width + u) : NULL;
                    for (int c = 0; c < 3; c++) sum[c] += in ? (p[c] * p[3] + 255 * (255 - p[3])) / 255 : 255;
                }
            for (int c = 0; c < 3; c++)
                sheet->pixel[3 * ((int64_t)(y0 + y) * sheet->width + x0 + x) + c] = (uint8_t)(sum[c] / n);
        }
}

static bool read_view(const shard *s, int64_t i, image *im, status *st) {
    uint8_t *png = NULL;
    int64_t  size;
    float    camera[VIEW_CAMERA_FLOATS];
    bool     ok = shard_read_view(s, i, 0, &png, &size, camera, st) && image_decode(png, size, s->path, im, st);
    free(png);
    if (!ok || im->channels == 4) return ok;
    image_free(im);
    return status_set(st, ST_DATA, "%s: sample %lld: its view is not RGBA", s->path, (long long)i);
}

bool sheet_write(const char *path, const shard *s, int n_shards, int columns, int64_t most, status *st) {
    int64_t with = 0, taken = 0, at = 0;
    for (int k = 0; k < n_shards; k++)
        for (int64_t i = 0; i < s[k].n_samples; i++) with += s[k].view_first[i + 1] > s[k].view_first[i];
    int64_t n = with < most ? with : most, rows = (n + columns - 1) / columns;
    if (n == 0) return status_set(st, ST_DATA, "%s: no stored view for a contact sheet", s[0].path);
    if (n < columns) columns = (int)n;
    image sheet = {columns * SHEET_CELL, (int)rows * SHEET_CELL, 3, NULL};
    sheet.pixel = malloc((size_t)sheet.width * (size_t)sheet.height * 3);
    CHECK(sheet.pixel, "no memory for a sheet of %d x %d", sheet.width, sheet.height);
    memset(sheet.pixel, 255, (size_t)sheet.width * (size_t)sheet.height * 3);
    bool ok = true;
    for (int k = 0; k < n_shards && ok; k++)
        for (int64_t i = 0; i < s[k].n_samples && ok; i++) {
            image im = {0};
            if (s[k].view_first[i + 1] == s[k].view_first[i] || at++ * n / with < taken) continue;
            ok = read_view(&s[k], i, &im, st);
            if (ok) place(&sheet, (int)(taken % columns) * SHEET_CELL, (int)(taken / columns) * SHEET_CELL, &im);
            if (ok) taken++;
            image_free(&im);
        }
    ok = ok && image_write_png(path, &sheet, st);
    image_free(&sheet);
    return ok;
}
