#include "golden/dino_weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/harness.h"

static float *add(dino_weights *w, const char *name, const int64_t *shape, int rank) {
    assert_true(w->n < DINO_TENSORS);
    safe_source *t = &w->t[w->n++];
    int64_t      count = 1;
    *t = (safe_source){.name = strdup(name), .dtype = SAFE_F32, .rank = rank};
    for (int i = 0; i < rank; i++) count *= t->shape[i] = shape[i];
    float *data = calloc((size_t)count + 1, sizeof *data);
    assert_true(t->name && data);
    t->data = data;
    return data;
}

static int64_t count_of(const safe_source *t) {
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++) n *= t->shape[i];
    return n;
}

void dino_weights_golden(dino_weights *w, h5_file f, const char *group) {
    int    n;
    char **names = h5_list(f, h5_path("%s/weights", group), &n);
    *w = (dino_weights){0};
    for (int i = 0; i < n; i++) {
        h5_dims d;
        float  *x = h5_f32(f, h5_path("%s/weights/%s", group, names[i]), &d);
        memcpy(add(w, names[i], d.n, d.rank), x, (size_t)d.count * sizeof *x);
        free(x);
    }
    h5_list_free(names, n);
    snprintf(w->heads, sizeof w->heads, "%d", (int)h5_attr_double(f, group, "num_attention_heads", NAN));
}

static void random_part(dino_weights *w, const char *name, const int64_t *shape, int rank, double scale,
                        uint32_t *seed) {
    float *x = add(w, name, shape, rank);
    fill_rule(x, count_of(&w->t[w->n - 1]), (*seed)++, scale);
}

/* Weight and bias; a norm's weight is near 1. */
static void random_layer(dino_weights *w, const char *name, int64_t out, int64_t in, uint32_t *seed) {
    char text[192];
    snprintf(text, sizeof text, "%s.weight", name);
    random_part(w, text, DIMS(out, in), in ? 3.4 / sqrt((double)in) : 0, seed);
    snprintf(text, sizeof text, "%s.bias", name);
    random_part(w, text, DIMS(out), 0.2, seed);
}

static void random_norm(dino_weights *w, const char *name, int64_t width, uint32_t *seed) {
    char text[192];
    snprintf(text, sizeof text, "%s.weight", name);
    random_part(w, text, DIMS(width), 0.4, seed);
    for (int64_t i = 0; i < width; i++) ((float *)(uintptr_t)w->t[w->n - 1].data)[i] += 1;
    snprintf(text, sizeof text, "%s.bias", name);
    random_part(w, text, DIMS(width), 0.2, seed);
}

void dino_weights_random(dino_weights *w, int width, int heads, int blocks, int registers, int side, bool gated,
                         uint32_t seed) {
    int64_t c = width, mlp = gated ? 8 * ((c * 8 / 3 + 7) / 8) : 4 * c;
    char    name[128];
    *w = (dino_weights){0};
    snprintf(w->heads, sizeof w->heads, "%d", heads);
    random_part(w, "embeddings.cls_token", DIMS(1, 1, c), 1, &seed);
    random_part(w, "embeddings.mask_token", DIMS(1, c), 1, &seed);
    random_part(w, "embeddings.register_tokens", DIMS(1, registers, c), 1, &seed);
    random_part(w, "embeddings.position_embeddings", DIMS(1, 1 + (int64_t)side * side, c), 1, &seed);
    random_part(w, "embeddings.patch_embeddings.projection.weight", DIMS(c, 3, 14, 14), 0.14, &seed);
    random_part(w, "embeddings.patch_embeddings.projection.bias", DIMS(c), 0.2, &seed);
    random_norm(w, "layernorm", c, &seed);
    for (int i = 0; i < blocks; i++) {
        const struct {
            const char *name;
            int64_t     out, in; /* in 0: a norm, -1: a layer scale */
        } part[] = {{"norm1", c, 0},
                    {"attention.attention.query", c, c},
                    {"attention.attention.key", c, c},
                    {"attention.attention.value", c, c},
                    {"attention.output.dense", c, c},
                    {"layer_scale1.lambda1", c, -1},
                    {"norm2", c, 0},
                    {gated ? "mlp.weights_in" : "mlp.fc1", gated ? 2 * mlp : mlp, c},
                    {gated ? "mlp.weights_out" : "mlp.fc2", c, mlp},
                    {"layer_scale2.lambda1", c, -1}};
        for (size_t k = 0; k < sizeof part / sizeof part[0]; k++) {
            snprintf(name, sizeof name, "encoder.layer.%d.%s", i, part[k].name);
            if (part[k].in > 0)
                random_layer(w, name, part[k].out, part[k].in, &seed);
            else if (part[k].in == 0)
                random_norm(w, name, c, &seed);
            else
                random_part(w, name, DIMS(c), 1, &seed);
        }
    }
}

void dino_weights_free(dino_weights *w) {
    for (int i = 0; i < w->n; i++) {
        free((char *)(uintptr_t)w->t[i].name);
        free((float *)(uintptr_t)w->t[i].data);
    }
    *w = (dino_weights){0};
}

safe_source *dino_weights_find(dino_weights *w, const char *name) {
    for (int i = 0; i < w->n; i++)
        if (strcmp(w->t[i].name, name) == 0) return &w->t[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

/* ---- the hub's names ------------------------------------------------------------------------------------------- */

static void replace(char text[160], const char *from, const char *to) {
    char *at = strstr(text, from), rest[160];
    if (!at) return;
    snprintf(rest, sizeof rest, "%s", at + strlen(from));
    snprintf(at, 160 - (size_t)(at - text), "%s%s", to, rest);
}

static void hub_name(const char *name, char out[160]) {
    static const char *const pair[][2] = {
        {"embeddings.position_embeddings", "pos_embed"},
        {"embeddings.patch_embeddings.projection", "patch_embed.proj"},
        {"embeddings.", ""},
        {"layernorm.", "norm."},
        {"encoder.layer.", "blocks."},
        {"attention.attention.query", "attn.qkv"},
        {"attention.output.dense", "attn.proj"},
        {"layer_scale1.lambda1", "ls1.gamma"},
        {"layer_scale2.lambda1", "ls2.gamma"},
        {"mlp.weights_in", "mlp.w12"},
        {"mlp.weights_out", "mlp.w3"},
    };
    snprintf(out, 160, "%s", name);
    for (size_t i = 0; i < sizeof pair / sizeof pair[0]; i++) replace(out, pair[i][0], pair[i][1]);
}

/* q, k and v one under the other. */
static void fuse(dino_weights *to, const dino_weights *from, const safe_source *q) {
    static const char *const part[] = {"query", "key", "value"};
    char                     name[160];
    int64_t                  shape[2] = {3 * q->shape[0], q->shape[1]}, n = count_of(q);
    hub_name(q->name, name);
    float *out = add(to, name, shape, q->rank);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s", q->name);
        replace(name, "query", part[i]);
        memcpy(out + i * n, dino_weights_find((dino_weights *)(uintptr_t)from, name)->data, (size_t)n * sizeof *out);
    }
}

void dino_weights_write(const dino_weights *w, bool hub, const char *path) {
    status       st = {0};
    dino_weights renamed = {0};
    for (int i = 0; i < w->n && hub; i++) {
        const safe_source *t = &w->t[i];
        char               name[160];
        if (strstr(t->name, "attention.key") || strstr(t->name, "attention.value")) continue;
        hub_name(t->name, name);
        if (strstr(t->name, "attention.query"))
            fuse(&renamed, w, t);
        else
            memcpy(add(&renamed, name, t->shape, t->rank), t->data, (size_t)count_of(t) * sizeof(float));
    }
    const dino_weights *out = hub ? &renamed : w;
    const char *const   meta[][2] = {{"format", "pt"}, {"num_attention_heads", w->heads}};
    if (!safetensors_write(path, out->t, out->n, meta, 2, &st)) fail_msg("%s", st.text);
    dino_weights_free(&renamed);
}
