/* safetensors: round trip in three dtypes, and headers that lie. */
#include "harness/harness.h"
#include "io/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *path_of(void) {
    static char path[128];
    snprintf(path, sizeof path, "%s/x.safetensors", temp_folder());
    return path;
}

static void round_trip(void **state) {
    (void)state;
    enum { N = 3 * 5000 };
    float *x = malloc(N * sizeof *x), *got = malloc(N * sizeof *got);
    fill_rule(x, N, 1, 8);
    const safe_source t[] = {{"z.weight", SAFE_F32, 2, {3, 5000}, x},
                             {"half", SAFE_F16, 1, {N}, x},
                             {"brain", SAFE_BF16, 3, {3, 50, 100}, x},
                             {"scalar", SAFE_F32, 0, {0}, x + 7},
                             {"empty", SAFE_F32, 2, {4, 0}, x}};
    const char *const meta[][2] = {{"format", "pt"}, {"note", "\"quoted\" ü"}};
    status            st = {0};
    safetensors       s;
    if (!safetensors_write(path_of(), t, 5, meta, 2, &st)) fail_msg("%s", st.text);
    if (!safetensors_open(&s, path_of(), &st)) fail_msg("%s", st.text);
    assert_int_equal(s.n, 5);
    assert_int_equal(s.data_first % 8, 0);
    assert_int_equal(s.n_meta, 2);
    assert_string_equal(s.tensor[0].name, "brain"); /* by name */
    assert_null(safetensors_find(&s, "nothing"));
    double bound[] = {0, 1.0 / 2048, 1.0 / 256};
    for (int i = 0; i < 5; i++) {
        const safe_tensor *f = safetensors_find(&s, t[i].name);
        assert_non_null(f);
        assert_int_equal(f->rank, t[i].rank);
        assert_memory_equal(f->shape, t[i].shape, (size_t)f->rank * sizeof *f->shape);
        poison(got, N * sizeof *got);
        if (!safetensors_read(&s, f, got, &st)) fail_msg("%s", st.text);
        for (int64_t k = 0; k < f->count; k++) {
            double err = fabs((double)got[k] - (double)t[i].data[k]);
            if (!(err <= bound[t[i].dtype] * fabs((double)t[i].data[k]) + 3e-8))
                fail_msg("%s[%lld]: %g, expected %g", f->name, (long long)k, (double)got[k], (double)t[i].data[k]);
        }
    }
    assert_int_equal(safetensors_find(&s, "scalar")->count, 1);
    assert_int_equal(safetensors_find(&s, "empty")->count, 0);
    safetensors_close(&s);
    free(x);
    free(got);
}

static void write_raw(uint64_t claimed, const char *header, int64_t data_bytes) {
    FILE *f = fopen(path_of(), "wb");
    fwrite(&claimed, 8, 1, f);
    fputs(header, f);
    for (int64_t i = 0; i < data_bytes; i++) fputc(0, f);
    fclose(f);
}

static void hostile(void **state) {
    (void)state;
#define T(dtype, shape, lo, hi) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #lo "," #hi "]}"
    struct {
        const char *header, *says;
        int64_t     data;
    } cases[] = {
        {"{\"a\":" T("F32", "[2,2]", 0, 12) "}", "do not agree", 12},
        {"{\"a\":" T("F32", "[2,2]", 0, 32) "}", "leave the file", 16},
        {"{\"a\":" T("F32", "[2,2]", 16, 0) "}", "offsets leave", 16},
        {"{\"a\":" T("F32", "[2,2]", -4, 12) "}", "offsets leave", 16},
        {"{\"a\":" T("F32", "[2,2]", 0.0, 16) "}", "offsets leave", 16},
        {"{\"a\":" T("F32", "[-2,-2]", 0, 16) "}", "not a count", 16},
        {"{\"a\":" T("F32", "[4294967296,4294967296]", 0, 16) "}", "larger than the file", 16},
        {"{\"a\":" T("F32", "[9223372036854775807,2]", 0, 16) "}", "larger than the file", 16},
        {"{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", "more than 8", 4},
        {"{\"a\":" T("F13", "[4]", 0, 16) "}", "F13", 16},
        {"{\"a\":" T("F32", "[2]", 0, 8) ",\"b\":" T("F32", "[2]", 4, 12) "}", "overlaps", 12},
        {"{\"a\":" T("F32", "[2]", 0, 8) ",\"b\":" T("F32", "[2]", 12, 20) "}", "hole", 20},
        {"{\"a\":" T("F32", "[2]", 4, 12) "}", "hole", 12},
        {"{\"a\":" T("F32", "[2]", 0, 8) "}", "belong to none", 12},
        {"{\"a\":" T("F32", "[2]", 0, 8) ",\"a\":" T("F32", "[2]", 8, 16) "}", "JSON", 16},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", "entry is not", 4},
        {"{\"a\":[1,2,3]}", "entry is not", 4},
        {"{\"__metadata__\":{\"k\":1},\"a\":" T("F32", "[1]", 0, 4) "}", "not text", 4},
        {"[1,2]", "JSON object", 0},
        {"  {}", "JSON object", 0},
        {"{\"a\":", "JSON object", 4},
        {"", "impossible", 0},
    };
    safetensors s;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = {0};
        write_raw(strlen(cases[i].header), cases[i].header, cases[i].data);
        if (safetensors_open(&s, path_of(), &st)) fail_msg("accepted: %s", cases[i].header);
        assert_int_equal(st.code, ST_DATA);
        if (!strstr(st.text, cases[i].says) || !strstr(st.text, path_of()))
            fail_msg("%s: \"%s\" does not say \"%s\"", cases[i].header, st.text, cases[i].says);
    }
    uint64_t lengths[] = {1000, UINT64_MAX, 1ull << 62, 100 * 1000 * 1000 + 1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        status st = {0};
        write_raw(lengths[i], "{}", 0);
        assert_false(safetensors_open(&s, path_of(), &st));
        assert_non_null(strstr(st.text, "header length"));
    }
    char *deep = malloc(300000);
    memset(deep, '[', 200000);
    memcpy(deep, "{\"a\":", 5);
    deep[200000] = 0;
    status st = {0};
    write_raw(200000, deep, 0);
    assert_false(safetensors_open(&s, path_of(), &st));
    free(deep);
    st = (status){0};
    assert_false(safetensors_open(&s, "/no/such/file", &st));
    assert_int_equal(st.code, ST_NO_INPUT);
    /* another number type is listed, but not read as floats */
    float x[4];
    st = (status){0};
    const char *ints = "{\"a\":" T("I64", "[2]", 0, 16) "}";
    write_raw(strlen(ints), ints, 16);
    if (!safetensors_open(&s, path_of(), &st)) fail_msg("%s", st.text);
    assert_false(safetensors_read(&s, &s.tensor[0], x, &st));
    assert_non_null(strstr(st.text, "I64"));
    safetensors_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trip), cmocka_unit_test(hostile)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
