/* Pieces of the report page and of result files. */
#include "app/html.h"
#include "app/results.h"
#include "train/share.h"
#include "harness/harness.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int count(const char *text, const char *what) {
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what)) n++;
    return n;
}

static void test_escape_and_picture(void **unused) {
    (void)unused;
    html h = {0};
    html_text(&h, "<a href=\"x\">'&");
    assert_string_equal(h.text, "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
    html_free(&h);
    const char *const want[] = {"", "TQ==", "TWE=", "TWFu", "TWFuTQ=="};
    for (int n = 0; n <= 4; n++) {
        char tail[64];
        html_png(&h, (const uint8_t *)"ManM", n, "a\"b");
        snprintf(tail, sizeof tail, "base64,%s\">", want[n]);
        assert_non_null(strstr(h.text, tail));
        assert_non_null(strstr(h.text, "alt=\"a&quot;b\""));
        html_free(&h);
    }
}

static void test_chart(void **unused) {
    (void)unused;
    int64_t   step[4000];
    double    value[4000];
    html      h = {0};
    html_line line = {"training", step, value, 4000, false, false};
    for (int i = 0; i < 4000; i++) step[i] = i, value[i] = i == 7 ? NAN : i == 9 ? -1 : i == 11 ? 0 : exp(-i / 500.0);
    html_chart(&h, "a < b", &line, 1);
    assert_non_null(strstr(h.text, "a &lt; b"));
    assert_null(strstr(h.text, "nan"));
    assert_null(strstr(h.text, "inf"));
    assert_int_equal(count(h.text, "<polyline"), 1);
    assert_true(h.n < 60000);     /* thinned out */
    for (int k = 0; k < 3; k++) { /* decades have labels */
        const char *const label[] = {">0.001<", ">0.01<", ">0.1<"};
        assert_non_null(strstr(h.text, label[k]));
    }
    html_free(&h);
    for (int i = 0; i < 4000; i++) value[i] = 0.7 + 0.00001 * i; /* a narrow span has labels too */
    html_chart(&h, "", &line, 1);
    assert_true(count(h.text, "text-anchor=end>0.7") >= 3);
    html_free(&h);
    for (int i = 0; i < 4000; i++) value[i] = 0.5;
    html_chart(&h, "", &line, 1);
    assert_non_null(strstr(h.text, "</svg>"));
    assert_null(strstr(h.text, "nan"));
    html_free(&h);
    line.n = 0;
    html_chart(&h, "", &line, 1);
    assert_non_null(strstr(h.text, "No values"));
    html_free(&h);
}

static void test_names(void **unused) {
    (void)unused;
    char a[96], b[96];
    result_name("x/y/Büro stuhl.v2.obj", 0xabcd000000000000u, a);
    assert_string_equal(a, "B__ro_stuhl_v2-abcd");
    result_name("../../etc/pass wd", 1, b);
    assert_string_equal(b, "pass_wd-0000");
    result_name(".hidden", 0, a);
    assert_string_equal(a, "_hidden-0000");
}

static void test_results(void **unused) {
    (void)unused;
    const char *folder = temp_folder();
    char        path[PATH_CAP], names[2][96] = {"a", "b"};
    status      st = {0};
    for (int i = 0; i < 2; i++) {
        json_t *j = json_pack("{s:s, s:[s], s:f}", "key", "k1", "files", "mesh", "chamfer", i + 1.0);
        result_path(folder, names[i], ".json", path);
        assert_true(json_file_write(path, j, &st));
        json_decref(j);
    }
    assert_false(result_done(folder, "a", "k1")); /* its mesh is not there */
    result_path(folder, "mesh", "", path);
    assert_true(atomic_write(path, "x", 1, &st));
    assert_true(result_done(folder, "a", "k1"));
    assert_false(result_done(folder, "a", "k2")); /* other weights */
    assert_false(result_done(folder, "c", "k1"));
    assert_true(results_collect(folder, "results.json", json_pack("{s:s}", "kind", "vae"), names, 2, &st));
    result_path(folder, "results.json", "", path);
    json_t *j = json_file_read(path, &st);
    assert_int_equal(json_array_size(json_object_get(j, "shapes")), 2);
    json_t *mean =
        json_object_get(json_object_get(json_object_get(json_object_get(j, "summary"), "overall"), "chamfer"), "mean");
    expect_le(fabs(json_number_value(mean) - 1.5), 1e-12, "mean");
    json_decref(j);
    assert_true(atomic_write(path, "[1]", 3, &st));
    assert_null(json_file_read(path, &st));
    assert_int_equal(st.code, ST_DATA);
}

/* Every sample has an owner, and no rank has more than the even share plus the largest sample. */
static void test_share(void **unused) {
    (void)unused;
    int64_t tokens[40], total = 0, load[3] = {0};
    int     owner[40];
    for (int i = 0; i < 40; i++) total += tokens[i] = 1 + (i * 37) % 101;
    share_by_size(tokens, 40, 3, owner);
    for (int i = 0; i < 40; i++) {
        assert_in_range(owner[i], 0, 2);
        load[owner[i]] += tokens[i];
    }
    for (int r = 0; r < 3; r++) assert_true(3 * load[r] <= total + 3 * 101);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_escape_and_picture),
        cmocka_unit_test(test_chart),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_results),
        cmocka_unit_test(test_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
