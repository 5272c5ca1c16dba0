/* What a reconstruction looks like: the stored view, the surface of the stored tiles and that of the decoded ones, in
 * one row, from the camera of the view (or from above the shape's left shoulder, where no view is stored). */
#pragma once
#include "app/shapes.h"

enum { EVAL_PICTURE = 288, EVAL_PICTURES_ACROSS = 3 };

/* PNG of EVAL_PICTURES_ACROSS squares. A surface without faces leaves its square white. */
bool eval_picture(const dataset *d, int64_t i, const mesh *truth, const mesh *own, const char *path, status *st);

/* All rows NAME.png of a folder under each other, two beside each other, as FOLDER/pictures.png. */
bool eval_pictures_join(const char *folder, char (*names)[96], int64_t n, status *st);
