/* A contact sheet: one small picture of each of some shapes, from the views that are stored. */
#pragma once
#include "data/shard.h"
#include "io/image.h"

enum { SHEET_CELL = 128 };

/* White RGB. */
image sheet_new(int width, int height);
/* An RGBA picture into the square at (x0,y0), by the mean of the pixels that each of its pixels covers. */
void  sheet_place(image *sheet, int x0, int y0, int cell, const image *im);
/* The first view of sample i, which has one, and its camera. */
bool  sheet_view(const shard *s, int64_t i, image *im, float camera[VIEW_CAMERA_FLOATS], status *st);

/* At most `most` shapes, evenly over all shards, `columns` in a row; those without a view are left out. PNG on white.
 * ST_DATA when there is no view at all. */
bool sheet_write(const char *path, const shard *s, int n_shards, int columns, int64_t most, status *st);
