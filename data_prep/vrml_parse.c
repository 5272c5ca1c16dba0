#include "data_prep/vrml_tree.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_NODES = 4000000 };

typedef struct {
    const char *start, *at, *end; /* *end is 0 */
    vrml_tree  *t;
    int64_t     n_nodes;
    bool        failed;
} parser;

static bool fail(parser *p, const char *what) {
    int64_t line = 1;
    if (p->failed) return false;
    p->failed = true;
    for (const char *c = p->start; c < p->at && c < p->end; c++) line += *c == '\n';
    snprintf(p->t->why, 160, "line %lld of the VRML: %s", (long long)line, what);
    return false;
}

static bool no_memory(parser *p) {
    p->failed = true;
    snprintf(p->t->why, 160, "out of memory");
    return false;
}

/* ---- words ----------------------------------------------------------------------------------------------------- */

static void skip_space(parser *p) {
    for (; p->at < p->end; p->at++) {
        unsigned char c = (unsigned char)*p->at;
        if (c == '#')
            while (p->at < p->end && *p->at != '\n' && *p->at != '\r') p->at++;
        else if (c > 32 && c != ',')
            return;
        if (p->at >= p->end) return;
    }
}

static bool is_word(char c) {
    return (unsigned char)c > 32 && !strchr("\"#',.[\\]{}", c) && c != 127;
}

static bool starts_number(char c) {
    return (c >= '0' && c <= '9') || c == '-' || c == '+' || c == '.';
}

static char peek(parser *p) {
    skip_space(p);
    return p->at < p->end ? *p->at : 0;
}

/* The next word without moving, cut to the buffer; "" when something else follows. */
static int64_t peek_word(parser *p, char out[64]) {
    int64_t n = 0;
    out[0] = 0;
    if (starts_number(peek(p))) return 0;
    while (p->at + n < p->end && (is_word(p->at[n]) || (n > 0 && p->at[n] == '.'))) n++;
    snprintf(out, 64, "%.*s", (int)(n < 63 ? n : 63), p->at);
    return n;
}

static bool take_word(parser *p, char out[64]) {
    int64_t n = peek_word(p, out);
    p->at += n;
    return n > 0;
}

static bool take(parser *p, char c) {
    if (peek(p) != c) return false;
    p->at++;
    return true;
}

static bool take_number(parser *p, float *v) {
    char *end;
    if (!starts_number(peek(p))) return false;
    *v = strtof(p->at, &end);
    if (end == p->at) return fail(p, "a number is expected");
    p->at = end;
    return true;
}

static bool take_string(parser *p) {
    for (p->at++; p->at < p->end && *p->at != '"'; p->at++)
        if (*p->at == '\\' && p->at + 1 < p->end) p->at++;
    if (p->at >= p->end) return fail(p, "a text has no end");
    p->at++;
    return true;
}

/* ---- values ---------------------------------------------------------------------------------------------------- */

/* Past the bracket that closes the one that was just taken; brackets of both kinds nest. */
static bool skip_block(parser *p) {
    int64_t depth = 1;
    while (depth > 0) {
        char c = peek(p);
        if (c == 0) return fail(p, "a bracket has no partner");
        if (c == '"') {
            if (!take_string(p)) return false;
            continue;
        }
        p->at++;
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    }
    return true;
}

/* The value of a field that nobody wants. Bare words other than these begin the next field. */
static bool skip_value(parser *p) {
    for (;;) {
        char  c = peek(p), word[64];
        float number;
        if (c == '"') {
            if (!take_string(p)) return false;
        } else if (starts_number(c)) {
            if (!take_number(p, &number)) return false;
            while (p->at < p->end && is_word(*p->at)) p->at++; /* 0xFF of an image, 1e */
        } else if (c == '[') {
            p->at++;
            return skip_block(p);
        } else if (!peek_word(p, word)) {
            return true;
        } else if (!strcmp(word, "TRUE") || !strcmp(word, "FALSE") || !strcmp(word, "NULL")) {
            return take_word(p, word);
        } else if (!strcmp(word, "USE") || !strcmp(word, "IS")) {
            return take_word(p, word) && (take_word(p, word) || fail(p, "a name is expected"));
        } else {
            const char *before = p->at;
            if (!strcmp(word, "DEF") && (!take_word(p, word) || !take_word(p, word)))
                return fail(p, "a name is expected after DEF");
            take_word(p, word);
            if (take(p, '{')) return skip_block(p);
            p->at = before;
            return true;
        }
    }
}

static bool grow(parser *p, void **v, int64_t n, int64_t *room, size_t size) {
    if (n < *room) return true;
    int64_t more = 2 * *room + 256;
    void   *bigger = realloc(*v, (size_t)more * size);
    if (!bigger) return no_memory(p);
    *v = bigger;
    *room = more;
    return true;
}

static bool take_numbers(parser *p, float *v, int n) {
    if (starts_number(peek(p))) {
        for (int i = 0; i < n; i++)
            if (!take_number(p, &v[i])) return fail(p, "a number is missing");
        return true;
    }
    return skip_value(p); /* IS, in a prototype */
}

static bool take_floats(parser *p, vrml_floats *f) {
    f->n = 0;
    bool many = take(p, '[');
    while (starts_number(peek(p))) {
        if (!grow(p, (void **)&f->v, f->n, &f->room, sizeof *f->v) || !take_number(p, &f->v[f->n])) return false;
        f->n++;
    }
    return !many || take(p, ']') || fail(p, "a list of numbers has no end");
}

static bool take_ints(parser *p, vrml_ints *l) {
    l->n = 0;
    bool many = take(p, '[');
    while (starts_number(peek(p))) {
        char *end;
        long  v = strtol(p->at, &end, 10);
        if (end == p->at) return fail(p, "a whole number is expected");
        p->at = end;
        if (!grow(p, (void **)&l->v, l->n, &l->room, sizeof *l->v)) return false;
        l->v[l->n++] = v < 0 ? -1 : v > INT32_MAX ? INT32_MAX : (int32_t)v;
    }
    return !many || take(p, ']') || fail(p, "a list of numbers has no end");
}

static bool take_bool(parser *p, bool *v) {
    char word[64];
    peek_word(p, word);
    if (!strcmp(word, "TRUE") || !strcmp(word, "FALSE")) {
        *v = word[0] == 'T';
        return take_word(p, word);
    }
    return skip_value(p);
}

/* ---- nodes ----------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    vrml_kind   kind;
} kinds[] = {{"Group", VRML_GROUP},
             {"Anchor", VRML_GROUP},
             {"Billboard", VRML_GROUP},
             {"Collision", VRML_GROUP},
             {"LOD", VRML_GROUP},
             {"Switch", VRML_GROUP},
             {"Transform", VRML_TRANSFORM},
             {"Shape", VRML_SHAPE},
             {"Appearance", VRML_APPEARANCE},
             {"Material", VRML_MATERIAL},
             {"IndexedFaceSet", VRML_FACES},
             {"IndexedLineSet", VRML_LINES},
             {"PointSet", VRML_LINES},
             {"Coordinate", VRML_COORDINATE},
             {"Color", VRML_COORDINATE},
             {"Box", VRML_BOX},
             {"Cone", VRML_CONE},
             {"Cylinder", VRML_CYLINDER},
             {"Sphere", VRML_SPHERE}};

static vrml_node *new_node(parser *p, vrml_kind kind, const char *type, const char *name) {
    vrml_node *n = p->n_nodes++ < MOST_NODES ? calloc(1, sizeof *n) : NULL;
    if (!n) {
        no_memory(p);
        return NULL;
    }
    *n = (vrml_node){.kind = kind,
                     .older = p->t->newest,
                     .rotation = {0, 0, 1, 0},
                     .orientation = {0, 0, 1, 0},
                     .scale = {1, 1, 1},
                     .choice = -2,
                     .number = -1};
    snprintf(n->name, sizeof n->name, "%s", name);
    p->t->newest = n;
    if (!strcmp(type, "LOD")) n->choice = -3;
    if (!strcmp(type, "Switch")) n->choice = -1;
    if (kind == VRML_BOX || kind == VRML_CONE || kind == VRML_CYLINDER) n->scale[1] = 2; /* height; a box is 2 2 2 */
    if (kind == VRML_BOX) n->scale[0] = n->scale[2] = 2;
    if (kind == VRML_MATERIAL) n->scale[0] = n->scale[1] = n->scale[2] = 0.8f;
    return n;
}

static vrml_node *find_name(const parser *p, const char *name) {
    vrml_node *n = p->t->newest;
    while (n && !(n->ended && n->name[0] && strcmp(n->name, name) == 0)) n = n->older;
    return n;
}

static bool take_node(parser *p, vrml_node **out, int depth);

static bool add_link(parser *p, vrml_link **first, vrml_link **last, vrml_node *to) {
    vrml_link *l = calloc(1, sizeof *l);
    if (!l) return no_memory(p);
    l->to = to;
    if (*last)
        (*last)->next = l;
    else
        *first = l;
    *last = l;
    return true;
}

static bool take_children(parser *p, vrml_node *n, int depth) {
    bool many = take(p, '[');
    do {
        vrml_node *child;
        char       word[64];
        if (many && take(p, ']')) return true;
        if (!many && !peek_word(p, word)) return fail(p, "a node is expected");
        if (!take_node(p, &child, depth)) return false;
        if (child && !add_link(p, &n->child, &n->last, child)) return false;
    } while (many);
    return true;
}

/* Fields by kind; `field` is taken already. */
static bool take_field(parser *p, vrml_node *n, const char *field, int depth) {
    bool value;
#define IS(text) (strcmp(field, text) == 0)
    switch (n->kind) {
    case VRML_TRANSFORM:
        if (IS("translation")) return take_numbers(p, n->translation, 3);
        if (IS("rotation")) return take_numbers(p, n->rotation, 4);
        if (IS("scale")) return take_numbers(p, n->scale, 3);
        if (IS("center")) return take_numbers(p, n->center, 3);
        if (IS("scaleOrientation")) return take_numbers(p, n->orientation, 4);
        if (IS("children")) return take_children(p, n, depth);
        break;
    case VRML_GROUP:
        if (IS("children") || IS("level") || IS("choice")) return take_children(p, n, depth);
        if (IS("whichChoice")) {
            float which = -1;
            bool  ok = take_numbers(p, &which, 1);
            n->choice = which >= 0 && which < 1e6f ? (int32_t)which : -1;
            return ok;
        }
        break;
    case VRML_SHAPE:
        if (IS("appearance")) return take_node(p, &n->appearance, depth);
        if (IS("geometry")) return take_node(p, &n->geometry, depth);
        break;
    case VRML_APPEARANCE:
        if (IS("material")) return take_node(p, &n->appearance, depth);
        break;
    case VRML_MATERIAL:
        if (IS("diffuseColor")) return take_numbers(p, n->scale, 3);
        if (IS("transparency")) return take_numbers(p, &n->transparency, 1);
        break;
    case VRML_FACES:
        if (IS("coord")) return take_node(p, &n->coord, depth);
        if (IS("color")) return take_node(p, &n->color, depth);
        if (IS("coordIndex")) return take_ints(p, &n->coord_index);
        if (IS("colorIndex")) return take_ints(p, &n->color_index);
        if (IS("colorPerVertex") || IS("ccw")) {
            value = true;
            if (!take_bool(p, &value)) return false;
            if (field[1] == 'o')
                n->per_face = !value;
            else
                n->clockwise = !value;
            return true;
        }
        break;
    case VRML_LINES:
        if (IS("coord")) return take_node(p, &n->coord, depth);
        if (IS("color")) return take_node(p, &n->color, depth);
        break;
    case VRML_COORDINATE:
        if (IS("point") || IS("color")) return take_floats(p, &n->point);
        break;
    case VRML_BOX:
        if (IS("size")) return take_numbers(p, n->scale, 3);
        break;
    case VRML_CONE:
    case VRML_CYLINDER:
    case VRML_SPHERE:
        if (IS("radius") || IS("bottomRadius")) return take_numbers(p, &n->scale[0], 1);
        if (IS("height")) return take_numbers(p, &n->scale[1], 1);
        break;
    }
#undef IS
    return skip_value(p);
}

static bool take_body(parser *p, vrml_node *n, int depth) {
    char word[64];
    while (!take(p, '}')) {
        if (!take_word(p, word)) return fail(p, peek(p) ? "a field's name is expected" : "a node has no end");
        if (!strcmp(word, "ROUTE")) { /* ROUTE a.b TO c.d */
            for (int i = 0; i < 3; i++) take_word(p, word);
        } else if (!take_field(p, n, word, depth)) {
            return false;
        }
    }
    n->ended = true;
    return true;
}

static bool is_geometry(const char *type) {
    static const char *const known[] = {"Extrusion", "ElevationGrid", "Text", "Inline"};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (!strcmp(type, known[i])) return true;
    return false;
}

/* [DEF name] Type { ... } | USE name | NULL. *out is NULL for a node without geometry. */
static bool take_node(parser *p, vrml_node **out, int depth) {
    char type[64], name[64] = "";
    *out = NULL;
    if (depth > VRML_DEPTH) return fail(p, "nodes nest deeper than 128");
    if (!take_word(p, type)) return fail(p, "a node is expected");
    if (!strcmp(type, "NULL")) return true;
    if (!strcmp(type, "USE")) {
        if (!take_word(p, name)) return fail(p, "a name is expected after USE");
        *out = find_name(p, name);
        return true;
    }
    if (!strcmp(type, "IS")) return take_word(p, name) || fail(p, "a name is expected after IS");
    if (!strcmp(type, "DEF") && (!take_word(p, name) || !take_word(p, type)))
        return fail(p, "a name and a node are expected after DEF");
    if (!take(p, '{')) return fail(p, "a node has no {");
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(type, kinds[i].name) != 0) continue;
        vrml_node *n = new_node(p, kinds[i].kind, type, name);
        if (!n || !take_body(p, n, depth + 1)) return false;
        *out = n;
        return true;
    }
    if (is_geometry(type)) {
        p->t->n_unknown++;
        snprintf(p->t->unknown, sizeof p->t->unknown, "%s", type);
    }
    return skip_block(p);
}

/* PROTO name [ ... ] { ... }, EXTERNPROTO name [ ... ] "url", ROUTE a.b TO c.d. */
static bool take_statement(parser *p, const char *word) {
    char rest[64];
    take_word(p, rest);
    if (!strcmp(word, "ROUTE")) {
        for (int i = 0; i < 3; i++) take_word(p, rest);
        return true;
    }
    take_word(p, rest);
    if (take(p, '[') && !skip_block(p)) return false;
    if (!strcmp(word, "PROTO")) return !take(p, '{') || skip_block(p);
    return skip_value(p);
}

bool vrml_parse(const char *text, int64_t n, vrml_tree *t) {
    parser p = {.start = text, .at = text, .end = text + n, .t = t};
    while (peek(&p) && !p.failed) {
        char       word[64];
        vrml_node *node;
        if (!peek_word(&p, word)) return fail(&p, "a node is expected");
        if (!strcmp(word, "PROTO") || !strcmp(word, "EXTERNPROTO") || !strcmp(word, "ROUTE")) {
            if (!take_statement(&p, word)) return false;
        } else if (take_node(&p, &node, 0) && node) {
            add_link(&p, &t->root, &t->last, node);
        }
    }
    return !p.failed;
}

static void free_links(vrml_link *l) {
    while (l) {
        vrml_link *next = l->next;
        free(l);
        l = next;
    }
}

void vrml_tree_free(vrml_tree *t) {
    while (t->newest) {
        vrml_node *n = t->newest;
        t->newest = n->older;
        free_links(n->child);
        free(n->point.v);
        free(n->coord_index.v);
        free(n->color_index.v);
        free(n);
    }
    free_links(t->root);
    t->root = NULL;
}
