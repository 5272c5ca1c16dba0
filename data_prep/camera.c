#include "data_prep/render.h"

#include <math.h>

/* World axes of the camera as rows: right, down, forward. */
static void axes_of(double azimuth, double elevation, int up_axis, double axis[3][3]) {
    double rad = 3.14159265358979323846 / 180, a = azimuth * rad, e = elevation * rad;
    double right[3] = {cos(a), 0, -sin(a)}, forward[3] = {-sin(a) * cos(e), -sin(e), -cos(a) * cos(e)};
    double down[3] = {forward[1] * right[2] - forward[2] * right[1], forward[2] * right[0] - forward[0] * right[2],
                      forward[0] * right[1] - forward[1] * right[0]};
    for (int i = 0; i < 3; i++) {
        const double *from = i == 0 ? right : i == 1 ? down : forward;
        axis[i][0] = from[0];
        axis[i][1] = up_axis == 2 ? -from[2] : from[1]; /* y up to z up: a quarter turn about x */
        axis[i][2] = up_axis == 2 ? from[1] : from[2];
    }
}

camera camera_framing(const mesh *m, double azimuth, double elevation, double focal_mm, double fill, int up_axis,
                      int width, int height) {
    CHECK(width > 0 && height > 0 && focal_mm > 0 && fill > 0 && fill <= 1, "%d x %d, %g mm, fill %g", width, height,
          focal_mm, fill);
    double axis[3][3], f = focal_mm / 36 * width, distance = 0, reach = 0;
    axes_of(azimuth, elevation, up_axis, axis);
    for (int64_t i = 0; i < m->n_vertices; i++) {
        double p[3];
        for (int r = 0; r < 3; r++) {
            p[r] = 0;
            for (int a = 0; a < 3; a++) p[r] += axis[r][a] * m->position[3 * i + a];
        }
        /* |x| f / (distance + z) <= fill * width / 2, and the same for y */
        distance = fmax(distance, fabs(p[0]) * f / (0.5 * fill * width) - p[2]);
        distance = fmax(distance, fabs(p[1]) * f / (0.5 * fill * height) - p[2]);
        reach = fmax(reach, fabs(p[2]));
    }
    distance = fmax(distance, reach * 1.05 + 1e-3);
    camera c = {.fx = (float)f,
                .fy = (float)f,
                .cx = 0.5f * (float)width,
                .cy = 0.5f * (float)height,
                .width = width,
                .height = height};
    for (int r = 0; r < 3; r++)
        for (int a = 0; a < 3; a++) c.world_to_camera[4 * r + a] = (float)axis[r][a];
    c.world_to_camera[11] = (float)distance;
    c.world_to_camera[15] = 1;
    c.near = (float)((distance - reach) * 0.99);
    c.far = (float)((distance + reach) * 1.01);
    return c;
}

camera camera_orbit(double azimuth, double elevation, double fov, double distance, int up_axis, int width, int height) {
    CHECK(width > 0 && height > 0 && fov > 0 && fov < 180 && distance > 0, "%d x %d, field of view %g, distance %g",
          width, height, fov, distance);
    double axis[3][3], f = 0.5 * width / tan(fov * 3.14159265358979323846 / 360), reach = sqrt(3);
    axes_of(azimuth, elevation, up_axis, axis);
    camera c = {.fx = (float)f,
                .fy = (float)f,
                .cx = 0.5f * (float)width,
                .cy = 0.5f * (float)height,
                .width = width,
                .height = height,
                .near = (float)fmax(distance - reach, 1e-3),
                .far = (float)(distance + reach)};
    for (int r = 0; r < 3; r++)
        for (int a = 0; a < 3; a++) c.world_to_camera[4 * r + a] = (float)axis[r][a];
    c.world_to_camera[11] = (float)distance;
    c.world_to_camera[15] = 1;
    return c;
}
