#include "io/options.h"

#include <stdio.h>
#include <string.h>

#define OPTION_SECTION(s, h)
#define OPTION_INT(...)
#define OPTION_FLOAT(...)
#define OPTION_BOOL(...)
#define OPTION_STRING(s, k, d, h) {#s "." #k, offsetof(options, s.k)},
#define OPTION_PATHS(s, k, d, h) {#s "." #k, offsetof(options, s.k)},
#define OPTION_INTS(...)
#define OPTION_FLOATS(...)
#define OPTION_ENUM(...)
#define OPTION_END(s)
static const struct {
    const char *name;
    size_t      at;
} rows[] = {
#include "io/options.def"
};

/* Letters of the longest path in `value`, between commas, that the text begins with: itself, or what is below it. */
static size_t begins_with(const char *text, const char *value) {
    size_t longest = 0;
    for (const char *at = value; *at;) {
        size_t n = strcspn(at, ",");
        if (n > longest && !strncmp(text, at, n) && strchr(":/ ", text[n])) longest = n;
        at += n + (at[n] == ',');
    }
    return longest;
}

void options_name_path(const options *o, status *st) {
    char   names[256] = "";
    size_t used = 0, length = strlen(st->text), longest = 1;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t n = begins_with(st->text, (const char *)o + rows[i].at);
        if (n < longest) continue;
        if (strstr(st->text, rows[i].name)) return; /* it says so itself */
        if (n > longest) used = 0;
        longest = n;
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used ? " or " : "", rows[i].name);
        if (used >= sizeof names) return;
    }
    if (used && length + used + 4 <= sizeof st->text)
        snprintf(st->text + length, sizeof st->text - length, " (%s)", names);
}
