/* A growing text for one page, with escaping and inline pictures. */
#pragma once
#include "core/base.h"

typedef struct {
    char   *text; /* malloc'ed, ends in a zero byte */
    int64_t n, cap;
} html;

void html_add(html *h, const char *fmt, ...) PRINTF_LIKE(2, 3);
void html_text(html *h, const char *text); /* escaped */
/* <img src="data:image/png;base64,..."> */
void html_png(html *h, const uint8_t *png, int64_t n, const char *alt);
void html_free(html *h);

typedef struct {
    const char    *name;
    const int64_t *step;
    const double  *value; /* what is not finite or not positive is left out */
    int64_t        n;
    bool           faint, dots;
} html_line;

/* A chart as inline SVG, logarithmic in y. Nothing to draw gives a sentence. */
void html_chart(html *h, const char *title, const html_line *lines, int n_lines);

/* The head of the page with its style, up to and including <body>. */
void html_begin(html *h, const char *title);
