/* Parsers of text from outside: YAML configurations, the header of safetensors, manifests of checkpoints, VRML. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data_prep/vrml.h"
#include "fuzz/fuzz.h"
#include "io/atomic_file.h"
#include "io/checkpoint_file.h"
#include "io/options.h"
#include "io/safetensors.h"
#include "harness/harness.h"

/* ---- YAML ------------------------------------------------------------------------------------------------------- */

/* What is taken dumps and reads back as the same; what is refused has changed nothing. */
static bool run_yaml(void *user, const uint8_t *bytes, int64_t n) {
    static options o, before, again;
    status         st = {0};
    (void)user;
    options_default(&o);
    before = o;
    if (!options_read_text(&o, "mutated.yaml", (const char *)bytes, n, &st)) {
        fuzz_refusal(&st, "mutated.yaml");
        CHECK(memcmp(&o, &before, sizeof o) == 0, "a refused file changed an option");
        return false;
    }
    char *text = options_to_yaml(&o);
    options_default(&again);
    CHECK(options_read_text(&again, "dump", text, (int64_t)strlen(text), &st), "the dump is refused: %s", st.text);
    CHECK(options_hash(&again) == options_hash(&o), "the dump reads back as other options");
    free(text);
    return true;
}

/* ---- safetensors ------------------------------------------------------------------------------------------------ */

static bool run_safetensors(void *user, const uint8_t *bytes, int64_t n) {
    safetensors s;
    status      st = {0};
    (void)user;
    const char *path = fuzz_file(bytes, n);
    if (!safetensors_open(&s, path, &st)) {
        fuzz_refusal(&st, path);
        return false;
    }
    for (int i = 0; i < s.n; i++) {
        status why = {0};
        CHECK(s.tensor[i].count >= 0 && s.tensor[i].count <= n, "%lld elements in %lld bytes",
              (long long)s.tensor[i].count, (long long)n);
        float *out = malloc((size_t)s.tensor[i].count * sizeof *out + 1);
        if (!safetensors_read(&s, &s.tensor[i], out, &why)) fuzz_refusal(&why, path);
        free(out);
    }
    safetensors_close(&s);
    return true;
}

/* ---- manifest ---------------------------------------------------------------------------------------------------- */

static char checkpoint[PATH_CAP];

static bool run_manifest(void *user, const uint8_t *bytes, int64_t n) {
    ckpt_manifest m = {0};
    status        st = {0};
    float         out[64];
    char          path[PATH_CAP];
    (void)user;
    snprintf(path, sizeof path, "%.400s/manifest.json", checkpoint);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(bytes, 1, (size_t)n, f) == (size_t)n && fclose(f) == 0, "%s cannot be written", path);
    if (!ckpt_open(checkpoint, &m, &st)) {
        fuzz_refusal(&st, checkpoint);
        return false;
    }
    for (int i = 0; i < 2; i++) {
        const char *slab = i ? "adam_m" : "params";
        int64_t     count = ckpt_slab_count(&m, slab);
        status      why = {0};
        CHECK(count >= 0, "%lld elements of %s", (long long)count, slab);
        if (count > 0 && !ckpt_read_range(&m, slab, 0, count < 64 ? count : 64, out, &why))
            fuzz_refusal(&why, checkpoint);
    }
    status why = {0};
    if (!ckpt_verify(&m, &why)) fuzz_refusal(&why, checkpoint);
    ckpt_close(&m);
    return true;
}

static void make_checkpoint(uint8_t **bytes, int64_t *n) {
    static float  w[48];
    ckpt_param    p[2] = {{.name = "a.weight", .rank = 2, .shape = {4, 8}, .offset = 0},
                          {.name = "a.bias", .rank = 1, .shape = {16}, .offset = 32}};
    ckpt_number   number = {.name = "updates", .value = 3};
    char          yaml[] = "train:\n  steps: 3\n", path[PATH_CAP];
    ckpt_slab     slab[2] = {{"params", w, 0, 48}, {"adam_m", w, 0, 48}};
    status        st = {0};
    ckpt_manifest m = {.step = 3, .seed = 1, .n_params = 2, .param = p, .config = yaml, .n_numbers = 1};
    m.number[0] = number;
    snprintf(m.model, sizeof m.model, "vae");
    CHECK(ckpt_save(temp_folder(), slab, 2, &m, &st), "%s", st.text);
    snprintf(checkpoint, sizeof checkpoint, "%.400s/step-3", temp_folder());
    snprintf(path, sizeof path, "%.400s/manifest.json", checkpoint);
    CHECK(read_whole_file(path, 1 << 20, bytes, n, &st), "%s", st.text);
}

/* ---- VRML -------------------------------------------------------------------------------------------------------- */

static bool run_vrml(void *user, const uint8_t *bytes, int64_t n) {
    vrml_scene s;
    char       why[160];
    (void)user;
    if (!vrml_read((const char *)bytes, n, 20000, &s, why)) {
        CHECK(why[0] && !strchr(why, '\n') && s.n_faces == 0 && !s.position, "refused with '%s'", why);
        return false;
    }
    CHECK(s.n_faces > 0 && s.n_faces <= 20000, "%lld faces", (long long)s.n_faces);
    for (int64_t i = 0; i < 3 * s.n_faces; i++)
        CHECK(s.face[i] >= 0 && s.face[i] < s.n_vertices, "vertex %d of %lld", s.face[i], (long long)s.n_vertices);
    for (int64_t i = 0; i < s.n_faces; i++)
        CHECK(s.material[i] >= 0 && s.material[i] < s.n_materials, "material %d of %lld", s.material[i],
              (long long)s.n_materials);
    vrml_free(&s);
    return true;
}

static const char *const scenes[] = {
    "#VRML V2.0 utf8\nTransform { translation 1 2 3 rotation 0 1 0 .5 children [ DEF s Shape { appearance Appearance { "
    "material DEF m Material { diffuseColor 1 0 0 } } geometry IndexedFaceSet { coord DEF c Coordinate { point [0 0 0, "
    "1 0 "
    "0, 1 1 0, 0 1 0] } coordIndex [0 1 2 3 -1] color Color { color [1 0 0, 0 1 0] } colorIndex [0 1 0 1 -1] } } USE s "
    "] }",
    "#VRML V2.0 utf8\nPROTO P [ field SFFloat x 1 ] { Shape { } }\nWorldInfo { title \"a { b\" }\nGroup { children [ "
    "Shape { "
    "geometry Box { size 1 2 3 } } Shape { geometry Cylinder { } } Shape { geometry Sphere { radius 2 } } ] }\n"
    "Switch { whichChoice 0 choice [ Shape { geometry Cone { height 3 } } ] } ROUTE a.b TO c.d",
    "#VRML V2.0 utf8\nShape { geometry IndexedFaceSet { ccw FALSE colorPerVertex FALSE coord Coordinate { point [0 0 0 "
    "2 0 0 "
    "2 1 0 1 1 0 1 2 0 0 2 0] } coordIndex [5 4 3 2 1 0 -1 0 1 2] color Color { color [0 0 1 1 1 0] } } }"};

static const char *vrml_words[] = {
    "DEF s ", "USE s ", "Shape { ", "geometry ", "children [ ",  "Group { ",
    "} ",     "] ",     "coord ",   "point [",   "coordIndex [", "-1 ",
    "#",      "\"",     "NULL ",    "TRUE ",     "IS x ",        "Transform { scale 0 0 0 "};
static const char *yaml_words[] = {"train:\n", "  steps: ", "[1, 2]", "{a: b}", "&x ",   "*x",       "<<: *x",
                                   "!!int ",   "|\n",       "\n",     "\t",     "vae: ", "---\n",    "\"",
                                   "'",        "- ",        "? ",     "true",   "~",     "\xc3\x28", "\xff"};
static const char *json_words[] = {
    "{",         "}",       "[",       "]",         "\"",        ",", ":", "null", "\"data_offsets\"",
    "\"shape\"", "\"F32\"", "\\u0000", "\"slabs\"", "\"parts\"", "-"};

int main(int argc, char **argv) {
    options  o;
    status   st = {0};
    uint8_t *manifest, *tensors;
    int64_t  manifest_size, tensors_size;
    options_default(&o);
    char       *dump = options_to_yaml(&o);
    const char *plain =
        "train: {steps: 3, lr: 1e-3}\nvae:\n  enc_widths: [8, 8, 16]\n  width: 32\ndata:\n  train: \"a # b\"\n";
    make_checkpoint(&manifest, &manifest_size);
    float             data[6] = {1, 2, 3, 4, 5, 6};
    safe_source       source[3] = {{.name = "a", .dtype = SAFE_F32, .rank = 2, .shape = {2, 3}, .data = data},
                                   {.name = "b", .dtype = SAFE_BF16, .rank = 1, .shape = {6}, .data = data},
                                   {.name = "c.empty", .dtype = SAFE_F16, .rank = 2, .shape = {0, 5}, .data = data}};
    const char *const meta[1][2] = {{"format", "pt"}};
    char              path[PATH_CAP];
    snprintf(path, sizeof path, "%.400s/t.safetensors", temp_folder());
    CHECK(safetensors_write(path, source, 3, meta, 1, &st) &&
              read_whole_file(path, 1 << 20, &tensors, &tensors_size, &st),
          "%s", st.text);
    const uint8_t *yaml_seed[2] = {(const uint8_t *)dump, (const uint8_t *)plain}, *scene_seed[3];
    int64_t        yaml_size[2] = {(int64_t)strlen(dump), (int64_t)strlen(plain)}, scene_size[3];
    for (int i = 0; i < 3; i++) {
        scene_seed[i] = (const uint8_t *)scenes[i];
        scene_size[i] = (int64_t)strlen(scenes[i]);
    }
#define WORDS(w) .word = w, .n_words = (int)(sizeof w / sizeof w[0])
    const fuzz_target targets[] = {{.name = "yaml",
                                    .seed = yaml_seed,
                                    .size = yaml_size,
                                    .n_seeds = 2,
                                    WORDS(yaml_words),
                                    .most = 32768,
                                    .count = 10000,
                                    .run = run_yaml},
                                   {.name = "safetensors",
                                    .seed = (const uint8_t *[]){tensors},
                                    .size = &tensors_size,
                                    .n_seeds = 1,
                                    WORDS(json_words),
                                    .most = 8192,
                                    .count = 2000,
                                    .run = run_safetensors},
                                   {.name = "manifest",
                                    .seed = (const uint8_t *[]){manifest},
                                    .size = &manifest_size,
                                    .n_seeds = 1,
                                    WORDS(json_words),
                                    .most = 16384,
                                    .count = 1000,
                                    .run = run_manifest},
                                   {.name = "vrml",
                                    .seed = scene_seed,
                                    .size = scene_size,
                                    .n_seeds = 3,
                                    WORDS(vrml_words),
                                    .most = 8192,
                                    .count = 20000,
                                    .run = run_vrml}};
    fuzz_main(argc, argv, targets, 4);
    free(dump);
    free(manifest);
    free(tensors);
    return 0;
}
