#include "app/plot.h"

#include <math.h>

#include "app/html.h"
#include "io/atomic_file.h"

enum { WIDTH = 640, HEIGHT = 380, LEFT = 70, RIGHT = 22, TOP = 34, BOTTOM = 46, LEGEND_LINE = 17 };

typedef struct {
    double x0, x1, y0, y1; /* log2 of x; y or its log10 */
    bool   log_y;
} view;

static double y_of(bool log_y, double y) {
    return log_y ? log10(y) : y;
}
static double to_x(const view *v, double x) {
    return LEFT + (WIDTH - LEFT - RIGHT) * (log2(x) - v->x0) / (v->x1 - v->x0);
}
static double to_y(const view *v, double y) {
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y_of(v->log_y, y) - v->y0) / (v->y1 - v->y0);
}

static bool drawn(const plot_line *l, int i, bool log_y) {
    return l->x[i] > 0 && isfinite(l->x[i]) && isfinite(l->y[i]) && (!log_y || l->y[i] > 0);
}

static bool view_of(const plot_frame *f, const plot_line *lines, int n, view *v) {
    bool any = false;
    *v = (view){.log_y = f->log_y};
    for (int l = 0; l < n; l++)
        for (int i = 0; i < lines[l].n; i++) {
            if (!drawn(&lines[l], i, f->log_y)) continue;
            double x = log2(lines[l].x[i]), y = y_of(f->log_y, lines[l].y[i]);
            v->x0 = any ? fmin(v->x0, x) : x, v->x1 = any ? fmax(v->x1, x) : x;
            v->y0 = any ? fmin(v->y0, y) : y, v->y1 = any ? fmax(v->y1, y) : y;
            any = true;
        }
    if (v->x1 - v->x0 < 1) v->x0 -= 0.5, v->x1 += 0.5;
    double margin = fmax(0.05 * (v->y1 - v->y0), f->log_y ? 0.05 : 1e-9);
    v->y0 -= margin, v->y1 += margin;
    if (!f->log_y && f->least < f->most) v->y0 = f->least, v->y1 = f->most;
    return any;
}

static void y_tick(html *h, const view *v, double y) {
    html_add(h, "<line stroke=\"#ddd\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT, WIDTH - RIGHT, to_y(v, y),
             to_y(v, y));
    double unit = y >= 1e9 ? 1e9 : y >= 1e6 ? 1e6 : y >= 1e4 ? 1e3 : 1;
    html_add(h, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.4g%s</text>\n", LEFT - 6, to_y(v, y) + 4, y / unit,
             unit == 1e9   ? " G"
             : unit == 1e6 ? " M"
             : unit == 1e3 ? " k"
                           : "");
}

static void grid(html *h, const view *v, const plot_frame *f) {
    int each = (int)ceil((v->x1 - v->x0) / 12);
    for (int e = (int)ceil(v->x0); e <= (int)floor(v->x1); e += each) {
        double x = to_x(v, exp2(e));
        html_add(h, "<line stroke=\"#ddd\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>", x, x, TOP, HEIGHT - BOTTOM);
        html_add(h, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f</text>\n", x, HEIGHT - BOTTOM + 16, exp2(e));
    }
    if (v->log_y) {
        for (int e = (int)floor(v->y0); e <= (int)ceil(v->y1); e++)
            for (int k = 0; k < (v->y1 - v->y0 > 3 ? 1 : 3); k++) {
                double y = (k == 0 ? 1 : k == 1 ? 2 : 5) * pow(10, e);
                if (log10(y) >= v->y0 && log10(y) <= v->y1) y_tick(h, v, y);
            }
    } else {
        double size = (v->y1 - v->y0) / 6, tick = pow(10, floor(log10(size)));
        tick *= size / tick > 5 ? 10 : size / tick > 2 ? 5 : size / tick > 1 ? 2 : 1;
        for (int64_t i = (int64_t)ceil(v->y0 / tick - 1e-9); (double)i * tick <= v->y1 + 1e-9 * tick; i++)
            y_tick(h, v, (double)i * tick);
    }
    html_add(h, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8);
    html_text(h, f->x_label);
    html_add(h, "</text>\n<text transform=\"translate(14 %d) rotate(-90)\" text-anchor=\"middle\">",
             (TOP + HEIGHT - BOTTOM) / 2);
    html_text(h, f->y_label);
    html_add(h, "</text>\n<text font-size=\"14\" x=\"%d\" y=\"20\">", LEFT);
    html_text(h, f->title);
    html_add(h, "</text>\n");
}

bool plot_write(const char *path, const plot_frame *f, const plot_line *lines, int n_lines, status *st) {
    static const char *const color[] = {"#2563a8", "#c2571a", "#2f7d4f", "#7a4fa3", "#888888", "#b03060"};
    enum { COLORS = sizeof color / sizeof *color };
    html h = {0};
    view v;
    int  named = 0;
    if (!view_of(f, lines, n_lines, &v)) return status_set(st, ST_DATA, "%s: no values to draw", path);
    for (int l = 0; l < n_lines; l++) named += lines[l].name != NULL;
    int height = HEIGHT + named * LEGEND_LINE + 6;
    html_add(&h,
             "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
             "font-family=\"sans-serif\" font-size=\"12\" fill=\"#444\">\n<rect width=\"100%%\" height=\"100%%\" "
             "fill=\"#fff\"/>\n",
             WIDTH, height, WIDTH, height);
    grid(&h, &v, f);
    for (int l = 0, at = 0; l < n_lines; l++) {
        const plot_line *s = &lines[l];
        const char      *c = color[s->color % COLORS], *dash = s->dashed ? " stroke-dasharray=\"5 4\"" : "";
        html_add(&h, "<polyline fill=\"none\" stroke-width=\"1.8\" stroke=\"%s\"%s points=\"", c, dash);
        for (int i = 0; i < s->n; i++)
            if (drawn(s, i, f->log_y)) html_add(&h, "%.1f,%.1f ", to_x(&v, s->x[i]), to_y(&v, s->y[i]));
        html_add(&h, "\"/>\n");
        for (int i = 0; i < s->n && s->dots; i++)
            if (drawn(s, i, f->log_y))
                html_add(&h, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\"/>\n", to_x(&v, s->x[i]),
                         to_y(&v, s->y[i]), c);
        if (!s->name) continue;
        int y = HEIGHT + at++ * LEGEND_LINE;
        html_add(&h,
                 "<polyline fill=\"none\" stroke-width=\"1.8\" stroke=\"%s\"%s points=\"%d,%d %d,%d\"/><text x=\"%d\" "
                 "y=\"%d\">",
                 c, dash, LEFT, y + 6, LEFT + 28, y + 6, LEFT + 36, y + 10);
        html_text(&h, s->name);
        html_add(&h, "</text>\n");
    }
    html_add(&h, "</svg>\n");
    bool ok = atomic_write(path, h.text, h.n, st);
    html_free(&h);
    return ok;
}
