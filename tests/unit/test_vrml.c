/* VRML97 by its meshes: volumes and boxes of what the format describes, and what is refused. */
#include "data_prep/import.h"
#include "data_prep/vrml.h"
#include "harness/harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEAD "#VRML V2.0 utf8\n"
#define CUBE                                                                                                           \
    "IndexedFaceSet { coord DEF corners Coordinate { point [0 0 0, 1 0 0, 1 1 0, 0 1 0, 0 0 1, 1 0 1, 1 1 1, 0 1 1] }" \
    " coordIndex [3 2 1 0 -1, 4 5 6 7 -1, 0 1 5 4 -1, 2 3 7 6 -1, 1 2 6 5 -1, 3 0 4 7] }"

static vrml_scene read_good(const char *text) {
    vrml_scene s;
    char       why[160];
    if (!vrml_read(text, (int64_t)strlen(text), 100000, &s, why)) fail_msg("%s", why);
    assert_true(s.n_faces > 0 && s.n_vertices > 0 && s.n_materials > 0);
    for (int64_t i = 0; i < 3 * s.n_faces; i++) assert_in_range(s.face[i], 0, s.n_vertices - 1);
    for (int64_t i = 0; i < s.n_faces; i++) assert_in_range(s.material[i], 0, s.n_materials - 1);
    return s;
}

/* Signed: outward faces give a positive one. */
static double volume(const vrml_scene *s) {
    double v = 0;
    for (int64_t f = 0; f < s->n_faces; f++) {
        const float *a = s->position + 3 * s->face[3 * f], *b = s->position + 3 * s->face[3 * f + 1],
                    *c = s->position + 3 * s->face[3 * f + 2];
        for (int i = 0; i < 3; i++) {
            int j = (i + 1) % 3, k = (i + 2) % 3;
            v += (double)a[i] * ((double)b[j] * (double)c[k] - (double)b[k] * (double)c[j]) / 6;
        }
    }
    return v;
}

static void expect_volume(const char *text, double want, double tolerance) {
    vrml_scene s = read_good(text);
    double     v = volume(&s);
    if (!(fabs(v - want) <= tolerance)) fail_msg("volume %g, not %g, of %s", v, want, text);
    vrml_free(&s);
}

static void test_shapes(void **state) {
    (void)state;
    expect_volume(HEAD "Shape { geometry " CUBE " }", 1, 1e-6);
    expect_volume(HEAD "Shape { geometry Box { } }", 8, 1e-6);
    expect_volume(HEAD "Shape { geometry Box { size 1 2 3 } }", 6, 1e-6);
    double ring = 32 * sin(2 * M_PI / 32) / 2; /* area of a 32-gon */
    expect_volume(HEAD "Shape { geometry Cylinder { radius 2 height 3 } }", 4 * 3 * ring, 1e-4);
    expect_volume(HEAD "Shape { geometry Cone { bottomRadius 2 height 3 } }", 4 * ring, 1e-4);
    expect_volume(HEAD "Shape { geometry Sphere { radius 1 } }", 4 * M_PI / 3, 0.1);
    /* an L: six corners, one of them concave, as floor and lid */
    expect_volume(HEAD
                  "Shape { geometry IndexedFaceSet { convex FALSE coord Coordinate { point ["
                  "0 0 0 2 0 0 2 1 0 1 1 0 1 2 0 0 2 0 0 0 1 2 0 1 2 1 1 1 1 1 1 2 1 0 2 1] } coordIndex ["
                  "5 4 3 2 1 0 -1 6 7 8 9 10 11 -1 0 1 7 6 -1 1 2 8 7 -1 2 3 9 8 -1 3 4 10 9 -1 4 5 11 10 -1 5 0 6 11]"
                  " } }",
                  3, 1e-6);
    expect_volume(HEAD
                  "Shape { geometry IndexedFaceSet { ccw FALSE coord Coordinate { point [0 0 0 1 0 0 0 1 0 0 0 1] }"
                  " coordIndex [0 1 2 -1 0 3 1 -1 0 2 3 -1 1 3 2 -1] } }",
                  1.0 / 6, 1e-6); /* turned outward */
}

static void test_structure(void **state) {
    (void)state;
    /* scale along a turned axis, about a centre: the volume is scaled, the centre stays */
    expect_volume(HEAD
                  "Transform { scale 2 3 1 scaleOrientation 0 0 1 0.7 rotation 1 2 3 0.4 center 5 6 7 translation 9 9 9"
                  " children Shape { geometry " CUBE " } }",
                  6, 1e-4);
    vrml_scene s = read_good(HEAD "Transform { center .5 .5 .5 rotation 0 0 1 1.5707963 scale 1 1 4 children [ Shape { "
                                  "geometry " CUBE " } ] }");
    float      lo[3] = {9, 9, 9}, hi[3] = {-9, -9, -9};
    for (int64_t i = 0; i < 3 * s.n_vertices; i++) {
        lo[i % 3] = fminf(lo[i % 3], s.position[i]);
        hi[i % 3] = fmaxf(hi[i % 3], s.position[i]);
    }
    const float want_lo[3] = {0, 0, -1.5f}, want_hi[3] = {1, 1, 2.5f};
    expect_le(max_abs(lo, want_lo, 3) + max_abs(hi, want_hi, 3), 1e-5, "box of a turned, stretched cube");
    vrml_free(&s);
    /* reuse, within a line set too; unknown nodes, prototypes, routes, comments, commas, strings with brackets */
    expect_volume(HEAD
                  "PROTO Knob [ field SFColor c 1 0 0 ] { Shape { } } EXTERNPROTO Other [ ] \"x.wrl\"\n"
                  "WorldInfo { title \"a } { # ] \\\" b\" info [ \"x\", \"y\" ] } NavigationInfo { type [ \"ANY\" ] }\n"
                  "Shape { geometry IndexedLineSet { coord DEF c Coordinate { point [0 0 0, 1 0 0, 0 1 0, 0 0 1] } "
                  "coordIndex [0 1 -1] } }\n"
                  "DEF t Group { children [ Shape { geometry IndexedFaceSet { coord USE c solid TRUE creaseAngle 0.5 "
                  "coordIndex [0 2 1 -1 0 1 3 -1 0 3 2 -1 1 2 3 -1] } } Knob { c 0 1 0 } TimeSensor { } ] } # end\n"
                  "Transform { translation 1 1 1 children USE t } ROUTE a.b TO c.d\n",
                  2.0 / 6, 1e-6);
    /* the chosen child, and the nearest level */
    expect_volume(
        HEAD "Switch { whichChoice 1 choice [ Shape { geometry Box { } } Shape { geometry Box { size 1 1 1 } } ] }", 1,
        1e-6);
    expect_volume(HEAD "LOD { level [ Shape { geometry Box { size 1 1 1 } } Shape { geometry Box { } } ] range [ 5 ] }",
                  1, 1e-6);
}

static void test_colours(void **state) {
    (void)state;
    vrml_scene s = read_good(
        HEAD
        "Shape { appearance Appearance { material DEF red Material { diffuseColor 1 0 0 transparency .25 } } geometry "
        "Box { } }\n"
        "Shape { appearance Appearance { material USE red } geometry " CUBE " }\n"
        "Shape { geometry IndexedFaceSet { coord Coordinate { point [0 0 0 1 0 0 0 1 0] } coordIndex [0 1 2] "
        "color Color { color [1 0 0, 0 1 0, 0 0 1] } } }\n"
        "Shape { geometry IndexedFaceSet { coord Coordinate { point [0 0 0 1 0 0 0 1 0] } coordIndex [0 1 2 -1 2 1 0] "
        "colorPerVertex FALSE colorIndex [2 0] color Color { color [1 0 0, 0 1 0, 0 0 .5] } } }\n");
    assert_int_equal(s.n_faces, 12 + 12 + 1 + 2);
    assert_non_null(s.color);
    const float *d = s.diffuse + 4 * s.material[0];
    assert_true(d[0] == 1 && d[1] == 0 && d[3] == 0.75f);
    assert_int_equal(s.material[0], s.material[12]); /* one material, used twice */
    assert_true(s.diffuse[4 * s.material[24]] == 1 && s.diffuse[4 * s.material[24] + 1] == 1);
    const uint8_t want[][3] = {{255, 0, 0}, {0, 255, 0}, {0, 0, 255}, {0, 0, 128}, {255, 0, 0}};
    for (int k = 0; k < 3; k++) assert_memory_equal(s.color + 4 * s.face[3 * 24 + k], want[k], 3);
    for (int k = 0; k < 3; k++) assert_memory_equal(s.color + 4 * s.face[3 * 25 + k], want[3], 3);
    for (int k = 0; k < 3; k++) assert_memory_equal(s.color + 4 * s.face[3 * 26 + k], want[4], 3);
    assert_int_equal(s.color[0], 255); /* shapes without colours of their own are white */
    vrml_free(&s);
}

static void refused(const char *text, const char *word) {
    vrml_scene s;
    char       why[160];
    assert_false(vrml_read(text, (int64_t)strlen(text), 1000, &s, why));
    if (!strstr(why, word) || strchr(why, '\n')) fail_msg("\"%s\", not \"%s\", of %.200s", why, word, text);
    assert_true(s.position == NULL && s.face == NULL && s.n_faces == 0);
}

/* n times `part`, malloc'ed, between head and tail. */
static char *repeated(const char *head, const char *part, int n, const char *tail) {
    char *text = malloc(strlen(head) + (size_t)n * strlen(part) + strlen(tail) + 1), *at = text;
    assert_non_null(text);
    at = stpcpy(at, head);
    for (int i = 0; i < n; i++) at = stpcpy(at, part);
    strcpy(at, tail);
    return text;
}

static void test_refused(void **state) {
    (void)state;
    refused("", "#VRML V2.0");
    refused("#VRML V1.0 ascii\nSeparator { }", "#VRML V2.0");
    refused(HEAD, "no triangles");
    refused(HEAD "Shape { geometry Extrusion { } }", "Extrusion");
    refused(HEAD "Shape { geometry Box {", "line 2");
    refused(HEAD "Shape {\n geometry Box { size 1 2 } }", "line 3");
    refused(HEAD "Shape }", "no {");
    refused(HEAD "]", "a node is expected");
    refused(HEAD "DEF", "after DEF");
    refused(HEAD "WorldInfo { title \"never ends }", "no end");
    refused(HEAD "Shape { geometry IndexedFaceSet { coord Coordinate { point [0 0 0 1 0 0] } coordIndex [0 1 2] } }",
            "point 2 of 2");
    refused(HEAD "Shape { geometry IndexedFaceSet { coord Coordinate { point [0 0 0 1 0 0", "no end");
    refused(HEAD "Group { children USE nobody }", "no triangles");
    char *deep = repeated(HEAD, "Group { children ", 100000, "");
    refused(deep, "deeper");
    free(deep);
    /* each level doubles what the one before it holds: 2^40 boxes */
    char laughs[8192];
    int  n = snprintf(laughs, sizeof laughs, HEAD "DEF n0 Shape { geometry Box { } }\n");
    for (int i = 1; i <= 40; i++)
        n += snprintf(laughs + n, sizeof laughs - (size_t)n, "DEF n%d Group { children [ USE n%d USE n%d ] }\n", i,
                      i - 1, i - 1);
    refused(laughs, "over 1000 triangles");
    n = snprintf(laughs, sizeof laughs, HEAD "DEF n0 Group { }\n"); /* the same of nothing */
    for (int i = 1; i <= 40; i++)
        n += snprintf(laughs + n, sizeof laughs - (size_t)n, "DEF n%d Group { children [ USE n%d USE n%d ] }\n", i,
                      i - 1, i - 1);
    refused(laughs, "too many times");
    /* a node cannot hold itself: its name is not known before it has ended */
    refused(HEAD "DEF a Group { children USE a }", "no triangles");
}

/* As `d3s2 prep` sees it: in the child, with what does not belong to the format's beginning. */
static void test_import(void **state) {
    (void)state;
    char          path[512];
    import_limits l = {.seconds = 20, .mbytes = 512, .max_faces = 100000};
    scene         s;
    status        st = {0};
    snprintf(path, sizeof path, "%s/cube.WRL", temp_folder());
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(HEAD "Shape { appearance Appearance { material Material { diffuseColor 0 .5 1 } } geometry " CUBE " }", f);
    fclose(f);
    assert_true(import_knows(path));
    if (!import_scene(path, &l, &s, &st)) fail_msg("%s", st.text);
    assert_int_equal(s.m.n_faces, 12);
    assert_int_equal(s.m.n_vertices, 8);
    assert_true(s.material[s.m.material[3]].diffuse[1] == 0.5f);
    scene_free(&s);
    f = fopen(path, "w");
    fputs("#VRML V1.0 ascii\nSeparator { }", f);
    fclose(f);
    assert_false(import_scene(path, &l, &s, &st));
    assert_int_equal(st.code, ST_DATA);
    f = fopen(path, "w");
    fputs(HEAD
          "Shape { geometry IndexedFaceSet { coord Coordinate { point [0 0 0 1 0 -nan 0 1 0] } coordIndex [0 1 2] } }",
          f);
    fclose(f);
    st = (status){0};
    assert_false(import_scene(path, &l, &s, &st));
    assert_non_null(strstr(st.text, "not finite"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes), cmocka_unit_test(test_structure),
                                       cmocka_unit_test(test_colours), cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_import)};
    return cmocka_run_group_tests_name("vrml", tests, NULL, NULL);
}
