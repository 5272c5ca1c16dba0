/* Condition views: the cameras' ranges, and that fewer rays where pixels are settled give the picture of all rays. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data_prep/views.h"
#include "harness/harness.h"

/* A wavy sheet of n x n quads, with two colours. */
static mesh make_sheet(int n) {
    mesh m = {.n_vertices = (int64_t)(n + 1) * (n + 1), .n_faces = 2 * (int64_t)n * n};
    m.position = malloc((size_t)m.n_vertices * 3 * sizeof(float));
    m.color = malloc((size_t)m.n_vertices * 4);
    m.face = malloc((size_t)m.n_faces * 3 * sizeof(int32_t));
    assert_true(m.position && m.color && m.face);
    for (int j = 0; j <= n; j++)
        for (int i = 0; i <= n; i++) {
            int   k = j * (n + 1) + i;
            float x = 1.8f * (float)i / (float)n - 0.9f, y = 1.8f * (float)j / (float)n - 0.9f;
            memcpy(m.position + 3 * k, (float[3]){x, 0.3f * sinf(7 * x) * cosf(5 * y), y}, 12);
            memset(m.color + 4 * k, i / 4 % 2 ? 255 : 90, 4);
        }
    for (int j = 0; j < n; j++)
        for (int i = 0; i < n; i++) {
            int32_t a = j * (n + 1) + i, *f = m.face + 6 * (j * n + i);
            memcpy(f, (int32_t[6]){a, a + n + 1, a + 1, a + 1, a + n + 1, a + n + 2}, 24);
        }
    return m;
}

/* One ray through each place of a grid four times as fine is what 4x4 samples are. */
static void test_settled_pixels(void **state) {
    (void)state;
    enum { SIZE = 96 };
    mesh           m = make_sheet(24);
    status         st = {0};
    render_options o = render_default_options();
    renderer      *r = renderer_new(&m, &o, &st);
    assert_non_null(r);
    int64_t wrong = 0, light_off = 0, covered = 0;
    for (int view = 0; view < 4; view++) {
        camera   cam = camera_framing(&m, 40 * view, 15 + 10 * view, 50, 0.9, 1, SIZE, SIZE);
        image    few, fine;
        int32_t *face = malloc(16 * SIZE * SIZE * sizeof *face);
        assert_true(face && renderer_view(r, &cam, SIZE, SIZE, &few, &st));
        renderer_buffers(r, &cam, 4 * SIZE, 4 * SIZE, NULL, NULL, face);
        /* light: as many rays, though soft shadows have another noise */
        o.samples = 1;
        renderer *one = renderer_new(&m, &o, &st);
        assert_true(one && renderer_view(one, &cam, 4 * SIZE, 4 * SIZE, &fine, &st));
        for (int y = 0; y < SIZE; y++)
            for (int x = 0; x < SIZE; x++) {
                int hits = 0, sum = 0;
                for (int k = 0; k < 16; k++) {
                    int64_t at = (int64_t)(4 * y + k / 4) * 4 * SIZE + 4 * x + k % 4;
                    hits += face[at] >= 0;
                    sum += face[at] >= 0 ? fine.pixel[4 * at] : 0;
                }
                const uint8_t *p = few.pixel + 4 * (y * SIZE + x);
                wrong += p[3] != (255 * hits + 8) / 16;
                if (hits == 16) {
                    covered++;
                    light_off += abs(p[0] - sum / 16) > 12;
                }
            }
        renderer_free(one);
        o.samples = 4;
        image_free(&few), image_free(&fine);
        free(face);
    }
    print_message("of %d pixels %lld have another coverage; of %lld covered ones %lld another light\n", 4 * SIZE * SIZE,
                  (long long)wrong, (long long)covered, (long long)light_off);
    assert_true(wrong <= 4 * SIZE * SIZE / 1000);
    assert_true(covered > 1000 && light_off <= covered / 40);
    renderer_free(r);
    mesh_free(&m);
}

static void test_cameras(void **state) {
    (void)state;
    enum { N = 64 };
    mesh   m = make_sheet(4);
    double lowest = 1, highest = -1, narrow = 180, wide = 0, mean[3] = {0};
    for (int orbit = 0; orbit < 2; orbit++)
        for (int i = 0; i < N; i++) {
            view_options o = {.n_views = N, .size = 100, .samples = 1, .up_axis = 1, .orbit = orbit, .seed = 3};
            camera       c = view_camera(&m, &o, 11, i), again = view_camera(&m, &o, 11, i),
                   other = view_camera(&m, &o, 12, i);
            assert_memory_equal(&c, &again, sizeof c);
            assert_memory_not_equal(&c, &other, sizeof c);
            const float *w = c.world_to_camera;
            double       eye[3] = {0}, length = 0;
            for (int a = 0; a < 3; a++)
                for (int k = 0; k < 3; k++) eye[a] -= (double)w[4 * k + a] * (double)w[4 * k + 3];
            for (int a = 0; a < 3; a++) length += eye[a] * eye[a];
            length = sqrt(length);
            assert_true(fabs((double)w[3]) < 1e-5 && fabs((double)w[7]) < 1e-5); /* looks at the origin */
            assert_true(c.near > 0 && c.near < length && c.far > length);
            double up = eye[1] / length, fov = 2 * atan(50 / (double)c.fx) * 180 / M_PI;
            if (!orbit) {
                assert_true(up > sin(9.9 * M_PI / 180) && up < sin(40.1 * M_PI / 180));
                continue;
            }
            lowest = fmin(lowest, up), highest = fmax(highest, up);
            narrow = fmin(narrow, fov), wide = fmax(wide, fov);
            for (int a = 0; a < 3; a++) mean[a] += eye[a] / length / N;
            assert_true(fov > 9.9 && fov < 70.1);
            expect_le(fabs(length * sin(fov * M_PI / 360) - sqrt(3)), 1e-3,
                      "the sphere around the unit cube fills the view");
        }
    assert_true(lowest < -0.9 && highest > 0.8 && narrow < 30 && wide > 60);
    assert_true(fabs(mean[0]) < 0.15 && fabs(mean[2]) < 0.15);
    mesh_free(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_settled_pixels), cmocka_unit_test(test_cameras)};
    return cmocka_run_group_tests_name("views", tests, NULL, NULL);
}
