/* dino.h5, group `encoder`: DINOv2 with registers against the published code, from files under both sets of names. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "golden/dino_weights.h"
#include "golden/net_check.h"
#include "data/condition.h"
#include "train/dinov2_load.h"

static void load(rig *n, const net_case *k, bool hub, int side, dinov2 *m, arena *weights) {
    static dino_weights w;
    char                path[256];
    status              st = {0};
    snprintf(path, sizeof path, "%s/%s.safetensors", temp_folder(), hub ? "hub" : "hf");
    dino_weights_golden(&w, k->f, k->group);
    dino_weights_write(&w, hub, path);
    dino_weights_free(&w);
    if (!dinov2_load(path, side, &n->c, m, weights, &st)) fail_msg("%s", st.text);
    assert_int_equal(m->cfg.width, net_int(k->f, k->group, "hidden_size"));
    assert_int_equal(m->cfg.heads, net_int(k->f, k->group, "num_attention_heads"));
    assert_int_equal(m->cfg.blocks, net_int(k->f, k->group, "num_hidden_layers"));
    assert_int_equal(m->cfg.registers, net_int(k->f, k->group, "num_register_tokens"));
    assert_false(m->cfg.gated);
}

/* Rows of patches of images (B,3,S,S). */
static void fill_patches(const dinov2_batch *b, const dinov2_config *c, const tensor *pic) {
    int64_t size = pic->dim[3], plane = size * size;
    for (int64_t i = 0; i < b->images; i++) {
        float *out = dinov2_pixels(b, c, i);
        for (int row = 0; row < c->side; row++)
            for (int col = 0; col < c->side; col++)
                for (int ch = 0; ch < 3; ch++)
                    for (int y = 0; y < PATCH_SIDE; y++)
                        for (int x = 0; x < PATCH_SIDE; x++)
                            *out++ =
                                F32(pic)[(3 * i + ch) * plane + (row * PATCH_SIDE + y) * size + col * PATCH_SIDE + x];
    }
}

/* What the foreground of the mask leaves, and where. */
static double compare_tokens(rig *n, const net_case *k, const dinov2_config *c, const float *z) {
    tensor   pic = net_f32(&n->host, k->f, h5_path("%s/in/image", k->group));
    h5_dims  dt, dm;
    uint8_t *want_mask = h5_u8(k->f, h5_path("%s/out/patch_mask", k->group), &dm);
    int32_t *want_coord = h5_i32(k->f, h5_path("%s/out/token_coords", k->group), &dt);
    int64_t  total = 0, one = dinov2_tokens(c), plane = pic.dim[2] * pic.dim[3], side = c->side;
    tensor   out = arena_tensor(&n->host, DT_F32, DIMS(dt.n[0], c->width));
    uint8_t *mask = malloc((size_t)plane), *patch = malloc((size_t)(side * side));
    int32_t *coord = malloc((size_t)one * 3 * sizeof *coord);
    for (int64_t i = 0; i < pic.dim[0]; i++) {
        for (int64_t p = 0; p < plane; p++) mask[p] = F32(&pic)[(4 * i + 3) * plane + p] > 0;
        patch_mask(mask, (int)pic.dim[3], (int)pic.dim[2], patch);
        assert_memory_equal(patch, want_mask + i * side * side, (size_t)(side * side));
        int64_t m =
            tokens_extract(z + i * one * c->width, 1 + c->registers, (int)side, (int)side, c->width, patch, NULL, NULL);
        assert_true(total + m <= dt.n[0]);
        tokens_extract(z + i * one * c->width, 1 + c->registers, (int)side, (int)side, c->width, patch,
                       F32(&out) + total * c->width, coord);
        for (int64_t t = 0; t < m; t++) {
            assert_int_equal(want_coord[4 * (total + t)], i);
            for (int a = 0; a < 3; a++) assert_int_equal(want_coord[4 * (total + t) + 1 + a], coord[3 * t + a]);
        }
        total += m;
    }
    assert_int_equal(total, dt.n[0]);
    free(want_mask), free(want_coord), free(mask), free(patch), free(coord);
    return net_compare(n, k->f, h5_path("%s/out/tokens", k->group), &out);
}

static void encoder_matches(void **state) {
    const net_case *k = *state;
    if (strcmp(k->group, "encoder") != 0) skip(); /* test_dino.c has the others */
    uint64_t print[2];
    for (int hub = 0; hub < 2; hub++) {
        rig n;
        rig_open(&n, k->backend, NET_MB);
        tensor pic = net_f32(&n.host, k->f, h5_path("%s/out/normalized", k->group));
        dinov2 m;
        arena  weights;
        load(&n, k, hub != 0, (int)pic.dim[3] / PATCH_SIDE, &m, &weights);
        print[hub] = params_fingerprint(&m.p);
        dinov2_batch b = dinov2_batch_build(&n.host, &m.cfg, pic.dim[0]);
        fill_patches(&b, &m.cfg, &pic);
        dinov2_batch_tensors(&b, rig_send_visit, &n);
        tape_begin(&n.t);
        var   *prenorm, *z = dinov2_forward(&n.t, &m, &b, &prenorm);
        double before = net_compare(&n, k->f, h5_path("%s/out/x_prenorm", k->group), &prenorm->v);
        double after = net_compare(&n, k->f, h5_path("%s/out/z", k->group), &z->v);
        double kept = compare_tokens(&n, k, &m.cfg, rig_f32(&n, &z->v));
        print_message("%s names on %s: error / bound: before the norm %.2f, after %.2f, kept tokens %.2f\n",
                      hub ? "hub" : "Hugging Face", k->backend, before, after, kept);
        dinov2_free(&m);
        arena_free(&weights);
        rig_close(&n);
    }
    assert_true(print[0] == print[1]);
}

int main(int argc, char **argv) {
    return net_run_cases(argc, argv, "dino", encoder_matches);
}
