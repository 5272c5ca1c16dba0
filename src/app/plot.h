/* A plot of lines as an SVG file of its own: axes, grid, legend. */
#pragma once
#include "core/base.h"

typedef struct {
    const char   *name; /* in the legend; NULL: not there */
    const double *x, *y;
    int           n;     /* points with a y that is not finite (or not positive, with log_y) are left out */
    int           color; /* lines with equal numbers have one colour */
    bool          dashed, dots;
} plot_line;

typedef struct {
    const char *title, *x_label, *y_label;
    bool        log_y;       /* x is always logarithmic, with the powers of two that fit */
    double      least, most; /* of y, without log_y; least = most: by the lines */
} plot_frame;

/* Nothing to draw is an error. */
bool plot_write(const char *path, const plot_frame *f, const plot_line *lines, int n_lines, status *st);
