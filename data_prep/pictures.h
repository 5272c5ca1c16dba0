/* Views of a mesh from the user's own pictures, in place of rendered ones. Of mesh "a/chair.glb" these are
 * FOLDER/a/chair/
 * *.png in the order of their names or, when there is no such folder, FOLDER/a/chair.png. RGBA; alpha is the
 * foreground. Their cameras are unknown: zeros but for width and height. */
#pragma once
#include "data/shard.h"

enum { PICTURES_MOST = 1000, PICTURE_SIDE = 4096 };

typedef struct {
    char   **path; /* [n] */
    int      n;
    uint64_t stamp; /* of names, sizes and times */
} pictures;

/* None, or more than PICTURES_MOST, is ST_NO_INPUT or ST_DATA naming the place; stamp is set in every case. */
bool pictures_find(const char *folder, const char *mesh_name, pictures *p, status *st);
void pictures_free(pictures *p);
/* Fills n_views, camera, png, png_size of *out (which has none yet); sample_free also after a failure, which names the
 * file: unreadable, without alpha, without foreground, too large. */
bool pictures_read(const pictures *p, sample *out, status *st);
