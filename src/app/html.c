#include "app/html.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void reserve(html *h, int64_t more) {
    if (h->n + more + 1 <= h->cap) return;
    h->cap = 2 * h->cap + more + 4096;
    h->text = realloc(h->text, (size_t)h->cap);
    CHECK(h->text, "no memory for a page of %lld bytes", (long long)h->cap);
}

void html_add(html *h, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    reserve(h, n);
    vsnprintf(h->text + h->n, (size_t)n + 1, fmt, again);
    va_end(again);
    h->n += n;
}

void html_text(html *h, const char *text) {
    for (const char *c = text; *c; c++) {
        switch (*c) {
        case '<':
            html_add(h, "&lt;");
            break;
        case '>':
            html_add(h, "&gt;");
            break;
        case '&':
            html_add(h, "&amp;");
            break;
        case '"':
            html_add(h, "&quot;");
            break;
        case '\'':
            html_add(h, "&#39;");
            break;
        default:
            reserve(h, 1);
            h->text[h->n++] = *c;
            h->text[h->n] = 0;
        }
    }
}

void html_png(html *h, const uint8_t *png, int64_t n, const char *alt) {
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    html_add(h, "<img loading=\"lazy\" alt=\"");
    html_text(h, alt);
    html_add(h, "\" src=\"data:image/png;base64,");
    reserve(h, (n + 2) / 3 * 4);
    for (int64_t i = 0; i < n; i += 3) {
        uint32_t v =
            (uint32_t)png[i] << 16 | (i + 1 < n ? (uint32_t)png[i + 1] << 8 : 0) | (i + 2 < n ? png[i + 2] : 0);
        h->text[h->n++] = digit[v >> 18];
        h->text[h->n++] = digit[v >> 12 & 63];
        h->text[h->n++] = i + 1 < n ? digit[v >> 6 & 63] : '=';
        h->text[h->n++] = i + 2 < n ? digit[v & 63] : '=';
    }
    h->text[h->n] = 0;
    html_add(h, "\">");
}

void html_free(html *h) {
    free(h->text);
    *h = (html){0};
}

/* ---- chart ----------------------------------------------------------------------------------------------------- */

enum { LEFT = 62, RIGHT = 12, TOP = 12, BOTTOM = 34, WIDTH = 640, HEIGHT = 280 };

typedef struct {
    double x0, x1, y0, y1; /* steps; log10 of the values */
} frame;

static double to_x(const frame *f, double step) {
    return LEFT + (WIDTH - LEFT - RIGHT) * (step - f->x0) / fmax(f->x1 - f->x0, 1);
}
static double to_y(const frame *f, double log_value) {
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (log_value - f->y0) / (f->y1 - f->y0);
}

static bool drawn(double v) {
    return isfinite(v) && v > 0;
}

static bool frame_of(const html_line *lines, int n_lines, frame *f) {
    bool any = false;
    for (int l = 0; l < n_lines; l++)
        for (int64_t i = 0; i < lines[l].n; i++) {
            if (!drawn(lines[l].value[i])) continue;
            double x = (double)lines[l].step[i], y = log10(lines[l].value[i]);
            f->x0 = any ? fmin(f->x0, x) : x, f->x1 = any ? fmax(f->x1, x) : x;
            f->y0 = any ? fmin(f->y0, y) : y, f->y1 = any ? fmax(f->y1, y) : y;
            any = true;
        }
    double margin = fmax(0.04 * (f->y1 - f->y0), 0.02);
    f->y0 -= margin, f->y1 += margin;
    return any;
}

static void y_line(html *h, const frame *f, double v, double *last) {
    double y = to_y(f, log10(v));
    html_add(h, "<line class=g x1=%d x2=%d y1=%.1f y2=%.1f />", LEFT, WIDTH - RIGHT, y, y);
    if (*last - y < 14) return; /* no room for its label */
    html_add(h, "<text x=%d y=%.1f text-anchor=end>%g</text>", LEFT - 6, y + 4, v);
    *last = y;
}

/* 1, 2, 5 over decades; equal steps when the values span less than a factor of four or so. */
static void grid_lines(html *h, const frame *f) {
    static const int mantissa[] = {1, 2, 5};
    double           last = 2 * HEIGHT, low = pow(10, f->y0), high = pow(10, f->y1);
    if (f->y1 - f->y0 > 0.6) {
        for (int e = (int)floor(f->y0); e <= (int)ceil(f->y1); e++)
            for (int k = 0; k < 3; k++) {
                double v = mantissa[k] * pow(10, e);
                if (v >= low && v <= high) y_line(h, f, v, &last);
            }
    } else {
        double size = (high - low) / 6, tick = pow(10, floor(log10(size)));
        tick *= size / tick > 5 ? 10 : size / tick > 2 ? 5 : size / tick > 1 ? 2 : 1;
        for (int64_t i = (int64_t)ceil(low / tick); (double)i * tick <= high; i++)
            y_line(h, f, (double)i * tick, &last);
    }
    double span = fmax(f->x1 - f->x0, 1), step = pow(10, floor(log10(span / 4)));
    while (span / step > 6) step *= span / step > 12 ? 5 : 2;
    if (step < 1) step = 1;
    for (double x = ceil(f->x0 / step) * step; x <= f->x1; x += step)
        html_add(h, "<line class=g x1=%.1f x2=%.1f y1=%d y2=%d /><text x=%.1f y=%d text-anchor=middle>%.0f</text>",
                 to_x(f, x), to_x(f, x), TOP, HEIGHT - BOTTOM, to_x(f, x), HEIGHT - BOTTOM + 16, x);
    html_add(h, "<text x=%d y=%d text-anchor=end>step</text>", WIDTH - RIGHT, HEIGHT - 4);
}

void html_chart(html *h, const char *title, const html_line *lines, int n_lines) {
    enum { MOST_POINTS = 1500 };
    static const char *const color[] = {"#2563a8", "#c2571a", "#2f7d4f", "#7a4fa3", "#888"};
    frame                    f = {0};
    html_add(h, "<figure class=chart><figcaption>");
    html_text(h, title);
    html_add(h, "</figcaption>");
    if (!frame_of(lines, n_lines, &f)) {
        html_add(h, "<p>No values to draw.</p></figure>\n");
        return;
    }
    html_add(h, "<svg viewBox=\"0 0 %d %d\" role=img>", WIDTH, HEIGHT);
    grid_lines(h, &f);
    int n_colors = 0;
    for (int l = 0; l < n_lines; l++) {
        const html_line *s = &lines[l];
        int64_t          stride = s->n / MOST_POINTS + 1;
        const char      *c = color[(s->faint ? n_colors : n_colors++) % 5];
        if (s->dots) {
            for (int64_t i = 0; i < s->n; i++)
                if (drawn(s->value[i]))
                    html_add(h, "<circle cx=%.1f cy=%.1f r=3 fill=\"%s\" />", to_x(&f, (double)s->step[i]),
                             to_y(&f, log10(s->value[i])), c);
        } else {
            html_add(h, "<polyline fill=none stroke=\"%s\"%s points=\"", c,
                     s->faint ? " stroke-opacity=0.25" : " stroke-width=1.6");
            for (int64_t i = 0; i < s->n; i += stride)
                if (drawn(s->value[i]))
                    html_add(h, "%.1f,%.1f ", to_x(&f, (double)s->step[i]), to_y(&f, log10(s->value[i])));
            html_add(h, "\" />");
        }
    }
    html_add(h, "</svg><div class=legend>");
    for (int l = 0, k = 0; l < n_lines; l++)
        if (!lines[l].faint) {
            html_add(h, "<span style=\"color:%s\">%s ", color[k++ % 5], lines[l].dots ? "&#9679;" : "&mdash;");
            html_text(h, lines[l].name);
            html_add(h, "</span>");
        }
    html_add(h, "</div></figure>\n");
}

void html_begin(html *h, const char *title) {
    html_add(h, "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>"
                "<meta name=viewport content=\"width=device-width, initial-scale=1\"><title>");
    html_text(h, title);
    html_add(
        h,
        "</title>\n<style>\n"
        ":root{color-scheme:light dark;--fg:#222;--dim:#666;--bg:#fff;--card:#f5f5f2;--line:#ddd}\n"
        "@media(prefers-color-scheme:dark){:root{--fg:#ddd;--dim:#999;--bg:#181818;--card:#232323;--line:#3a3a3a}}\n"
        "body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:1080px;margin:2em auto;"
        "padding:0 1.2em}\n"
        "h1{font-size:1.6em;font-weight:600}h2{font-size:1.2em;font-weight:600;margin-top:2.2em;border-bottom:1px "
        "solid "
        "var(--line)}h3{font-size:1em;margin-bottom:.4em}\n"
        "a{color:inherit}p.note{background:var(--card);border-left:3px solid #c2571a;padding:.6em 1em}\n"
        "table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92em}\n"
        "th,td{padding:.22em .8em;text-align:right;border-bottom:1px solid var(--line)}\n"
        "th:first-child,td:first-child{text-align:left}tr.all td{font-weight:600}th{color:var(--dim);font-weight:500}\n"
        ".wide{overflow-x:auto}.charts{display:flex;flex-wrap:wrap;gap:1em}\n"
        ".shape figure:only-of-type{grid-column:1/-1}figure{margin:0}figure.chart{flex:1 1 "
        "460px;background:var(--card);padding:.8em;border-radius:6px}\n"
        "svg text{font-size:11px;fill:var(--dim)}svg .g{stroke:var(--line)}svg{width:100%%}\n"
        ".legend span{margin-right:1.2em;font-size:.88em}\n"
        ".shape{display:grid;grid-template-columns:repeat(4,1fr);gap:.6em;background:var(--card);border-radius:6px;"
        "padding:.8em;margin:.7em 0}\n"
        ".shape h3{grid-column:1/-1;margin:0}.shape h3 small{color:var(--dim);font-weight:400;margin-left:.8em}\n"
        ".shape img{width:100%%;background:#fff;border-radius:4px;display:block}.shape figcaption{font-size:.85em;"
        "color:var(--dim)}\n"
        "pre{background:var(--card);padding:1em;overflow-x:auto;font-size:.82em}\n"
        "</style></head><body>\n");
}
