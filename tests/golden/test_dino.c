/* dino.h5: image preprocessing and mask-to-token extraction. Group `encoder` is that of the DINOv2 network, which this
 * program does not have. */
#include "data/condition.h"
#include "harness/h5.h"
#include "harness/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static h5_file file;

static int open_file(void **state) {
    (void)state;
    file = h5_open(golden_path("dino"));
    return 0;
}

static int close_file(void **state) {
    (void)state;
    h5_close(file);
    return 0;
}

/* A file may hold some of the groups only. */
static void needs(const char *group) {
    if (h5_exists(file, group)) return;
    print_message("skipped: the file has no group %s\n", group);
    skip();
}

static image read_rgba(void) {
    h5_dims  d;
    uint8_t *p = h5_u8(file, "preprocess/in/rgba", &d);
    assert_int_equal(d.rank, 3);
    assert_int_equal(d.n[2], 4);
    return (image){(int)d.n[1], (int)d.n[0], 4, p};
}

static void test_crop_and_composite(void **state) {
    (void)state;
    needs("preprocess");
    image    im = read_rgba();
    h5_dims  d;
    uint8_t *crop = h5_u8(file, "preprocess/out/crop_rgba", &d),
            *rgb = h5_u8(file, "preprocess/out/composited_u8", NULL),
            *mask = h5_u8(file, "preprocess/out/composited_mask_u8", NULL);
    int x0, y0, x1, y1;
    preprocess_box(&im, &x0, &y0, &x1, &y1);
    assert_int_equal(y1 - y0, d.n[0]);
    assert_int_equal(x1 - x0, d.n[1]);
    for (int y = y0; y < y1; y++)
        assert_memory_equal(im.pixel + 4 * ((int64_t)y * im.width + x0), crop + 4 * ((int64_t)(y - y0) * (x1 - x0)),
                            (size_t)(4 * (x1 - x0)));
    int64_t  n = d.n[0] * d.n[1];
    uint8_t *my_rgb = malloc((size_t)(3 * n)), *my_mask = malloc((size_t)n);
    preprocess_composite(&im, x0, y0, x1, y1, my_rgb, my_mask);
    assert_memory_equal(my_rgb, rgb, (size_t)(3 * n));
    assert_memory_equal(my_mask, mask, (size_t)n);
    free(crop), free(rgb), free(mask), free(my_rgb), free(my_mask);
    image_free(&im);
}

/* Every out/image<size>_u8 [4,size,size] of the group. */
static void test_preprocess(void **state) {
    (void)state;
    needs("preprocess");
    image  im = read_rgba();
    int    pad = (int)h5_attr_double(file, "preprocess", "extra_pad", 16), n_names, n_images = 0;
    char **name = h5_list(file, "preprocess/out", &n_names);
    for (int i = 0; i < n_names; i++) {
        if (strncmp(name[i], "image", 5) != 0) continue;
        h5_dims  d;
        uint8_t *want = h5_u8(file, h5_path("preprocess/out/%s", name[i]), &d);
        assert_int_equal(d.rank, 3);
        assert_int_equal(d.n[0], 4);
        int      size = (int)d.n[1], worst = 0;
        int64_t  plane = d.n[1] * d.n[2], off = 0, mask_off = 0;
        uint8_t *mask = malloc((size_t)plane);
        image    rgb;
        status   st = {0};
        assert_true(preprocess(&im, size, pad, &rgb, mask, &st));
        assert_int_equal(rgb.width, size);
        for (int64_t p = 0; p < plane; p++) {
            for (int c = 0; c < 3; c++) {
                int e = abs((int)rgb.pixel[3 * p + c] - (int)want[c * plane + p]);
                worst = e > worst ? e : worst;
                off += e > 0;
            }
            mask_off += mask[p] != want[3 * plane + p];
        }
        print_message("%s: %lld of %lld values differ, at most by %d; mask %lld\n", name[i], (long long)off,
                      (long long)(3 * plane), worst, (long long)mask_off);
        /* a resampler of the same definition: one unit of rounding, and that rarely */
        assert_true(worst <= 1);
        assert_true(off <= 3 * plane / 1000);
        assert_int_equal(mask_off, 0);
        n_images++;
        free(want), free(mask);
        image_free(&rgb);
    }
    h5_list_free(name, n_names);
    assert_true(n_images > 0);
    image_free(&im);
}

static void test_patch_mask(void **state) {
    (void)state;
    needs("extract");
    h5_dims  d, p;
    float   *mask = h5_f32(file, "extract/in/image_mask", &d);
    uint8_t *want = h5_u8(file, "extract/out/patch_mask", &p);
    int64_t  B = d.n[0], plane = d.n[2] * d.n[3], patches = p.n[1] * p.n[2];
    assert_int_equal(p.n[0], B);
    assert_int_equal(p.n[1], d.n[2] / PATCH_SIDE);
    uint8_t *m = malloc((size_t)plane), *got = malloc((size_t)patches);
    for (int64_t b = 0; b < B; b++) {
        for (int64_t i = 0; i < plane; i++) m[i] = mask[b * plane + i] > 0;
        patch_mask(m, (int)d.n[3], (int)d.n[2], got);
        assert_memory_equal(got, want + b * patches, (size_t)patches);
    }
    free(mask), free(want), free(m), free(got);
}

static void test_extract(void **state) {
    (void)state;
    needs("extract");
    h5_dims  dc, dm, dt;
    float   *cond = h5_f32(file, "extract/in/conditions", &dc), *tokens = h5_f32(file, "extract/out/tokens", &dt);
    uint8_t *mask = h5_u8(file, "extract/in/mask", &dm);
    int32_t *coords = h5_i32(file, "extract/out/coords", NULL);
    int64_t  B = dc.n[0], L = dc.n[1], W = dc.n[2], rows = dm.n[1], columns = dm.n[2], total = 0;
    float   *out = malloc((size_t)(L * W) * sizeof *out);
    int32_t *coord = malloc((size_t)(3 * L) * sizeof *coord);
    for (int64_t b = 0; b < B; b++) {
        int64_t n = tokens_extract(cond + b * L * W, (int)(L - rows * columns), (int)rows, (int)columns, (int)W,
                                   mask + b * rows * columns, out, coord);
        assert_true(total + n <= dt.n[0]);
        assert_memory_equal(out, tokens + total * W, (size_t)(n * W) * sizeof *out);
        for (int64_t i = 0; i < n; i++) {
            assert_int_equal(coords[4 * (total + i)], b);
            for (int a = 0; a < 3; a++) assert_int_equal(coords[4 * (total + i) + 1 + a], coord[3 * i + a]);
        }
        total += n;
    }
    assert_int_equal(total, dt.n[0]);
    free(cond), free(tokens), free(mask), free(coords), free(out), free(coord);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crop_and_composite),
        cmocka_unit_test(test_preprocess),
        cmocka_unit_test(test_patch_mask),
        cmocka_unit_test(test_extract),
    };
    return cmocka_run_group_tests_name("dino", tests, open_file, close_file);
}
