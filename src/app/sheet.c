#include "app/sheet.h"

#include <stdlib.h>
#include <string.h>

image sheet_new(int width, int height) {
    image sheet = {width, height, 3, malloc((size_t)width * (size_t)height * 3)};
    CHECK(sheet.pixel, "no memory for a sheet of %d x %d", width, height);
    memset(sheet.pixel, 255, (size_t)width * (size_t)height * 3);
    return sheet;
}

void sheet_place(image *sheet, int x0, int y0, int cell, const image *im) {
    int side = im->width > im->height ? im->width : im->height;
    for (int y = 0; y < cell; y++)
        for (int x = 0; x < cell; x++) {
            int64_t sum[3] = {0}, n = 0;
            int     u0 = x * side / cell, u1 = (x + 1) * side / cell;
            int     v0 = y * side / cell, v1 = (y + 1) * side / cell;
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

bool sheet_view(const shard *s, int64_t i, image *im, float camera[VIEW_CAMERA_FLOATS], status *st) {
    uint8_t *png = NULL;
    int64_t  size;
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
    image sheet = sheet_new(columns * SHEET_CELL, (int)rows * SHEET_CELL);
    bool  ok = true;
    for (int k = 0; k < n_shards && ok; k++)
        for (int64_t i = 0; i < s[k].n_samples && ok; i++) {
            image im = {0};
            float camera[VIEW_CAMERA_FLOATS];
            if (s[k].view_first[i + 1] == s[k].view_first[i] || at++ * n / with < taken) continue;
            ok = sheet_view(&s[k], i, &im, camera, st);
            if (ok)
                sheet_place(&sheet, (int)(taken % columns) * SHEET_CELL, (int)(taken / columns) * SHEET_CELL,
                            SHEET_CELL, &im);
            if (ok) taken++;
            image_free(&im);
        }
    ok = ok && image_write_png(path, &sheet, st);
    image_free(&sheet);
    return ok;
}
