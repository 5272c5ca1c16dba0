/* Shards and latent files: round trip, damage, refusals. */
#include "harness/harness.h"
#include "core/half.h"
#include "core/rng.h"
#include "data/file_pool.h"
#include "data/latents.h"
#include "data/shard.h"
#include "io/atomic_file.h"
#include "io/h5.h"
#include "io/image.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* n tiles along x, y, z in final order; values from the fill rule. */
static sample make_sample(int number, int64_t n, int n_views) {
    char text[64];
    snprintf(text, sizeof text, "folder/shape-%d.obj", number);
    sample s = {.id = hash_text(text),
                .source_hash = 77u + (uint64_t)number,
                .center = {1, 2, 3.5 + number},
                .scale = 0.25,
                .n_tiles = n,
                .n_views = n_views};
    s.source = strdup(text);
    s.category = strdup(number % 2 ? "Stühle" : "");
    s.report = strdup("{\"iou\": 0.99}");
    s.coord = calloc((size_t)n * 3, sizeof *s.coord);
    s.value = calloc((size_t)n * TILE_CELLS, sizeof *s.value);
    s.sharp = calloc((size_t)n, TILE_SHARP_BYTES);
    float *f = malloc(sizeof *f * (size_t)n * TILE_CELLS);
    fill_rule(f, n * TILE_CELLS, (uint32_t)number + 1, 2.6);
    for (int64_t t = 0; t < n; t++) { /* place t in the first block, then the next block along z */
        int64_t in = t % 512, block = t / 512;
        s.coord[3 * t] = (uint16_t)(in >> 6);
        s.coord[3 * t + 1] = (uint16_t)(in >> 3 & 7);
        s.coord[3 * t + 2] = (uint16_t)((in & 7) + 8 * block);
        s.sharp[t * TILE_SHARP_BYTES + 5] = (uint8_t)t;
    }
    for (int64_t i = 0; i < n * TILE_CELLS; i++) s.value[i] = f32_to_f16(fminf(1, fmaxf(-1, f[i])));
    free(f);
    s.camera = calloc((size_t)n_views + 1, VIEW_CAMERA_FLOATS * sizeof(float));
    s.png = calloc((size_t)n_views + 1, sizeof *s.png);
    s.png_size = calloc((size_t)n_views + 1, sizeof *s.png_size);
    for (int v = 0; v < n_views; v++) {
        uint8_t pixel[6 * 5 * 4];
        for (size_t i = 0; i < sizeof pixel; i++) pixel[i] = (uint8_t)(i * 7 + (size_t)v + (size_t)number);
        image  im = {6, 5, 4, pixel};
        status st = {0};
        assert_true(image_encode_png(&im, &s.png[v], &s.png_size[v], &st));
        for (int j = 0; j < VIEW_CAMERA_FLOATS; j++) s.camera[v * VIEW_CAMERA_FLOATS + j] = (float)(j + v);
        s.camera[v * VIEW_CAMERA_FLOATS + 20] = 6;
        s.camera[v * VIEW_CAMERA_FLOATS + 21] = 5;
    }
    return s;
}

enum { N_SAMPLES = 5 };
static const int64_t tiles_of[N_SAMPLES] = {1, 130, 513, 7, 300};
static const int     views_of[N_SAMPLES] = {2, 0, 1, 3, 2};

static void write_shard_of(const char *path, int resolution) {
    status        st = {0};
    shard_meta    meta = {resolution, 2.0};
    shard_writer *w = shard_create(path, &meta, &st);
    if (!w) fail_msg("%s", st.text);
    for (int i = 0; i < N_SAMPLES; i++) {
        sample s = make_sample(i, tiles_of[i], views_of[i]);
        if (!shard_append(w, &s, &st)) fail_msg("%s", st.text);
        sample_free(&s);
    }
    if (!shard_finish(w, &st)) fail_msg("%s", st.text);
}

static bool exists(const char *path) {
    return access(path, F_OK) == 0;
}

static void same_sample(const sample *got, const sample *want) {
    assert_int_equal(got->n_tiles, want->n_tiles);
    assert_true(got->id == want->id && got->source_hash == want->source_hash);
    assert_memory_equal(got->coord, want->coord, (size_t)want->n_tiles * 6);
    assert_memory_equal(got->value, want->value, (size_t)want->n_tiles * TILE_CELLS * 2);
    assert_memory_equal(got->sharp, want->sharp, (size_t)want->n_tiles * TILE_SHARP_BYTES);
    assert_int_equal(got->n_in, want->n_in);
    assert_int_equal(got->n_sharp, want->n_sharp);
    assert_string_equal(got->source, want->source);
    assert_string_equal(got->category, want->category);
    assert_string_equal(got->report, want->report);
    assert_memory_equal(got->center, want->center, sizeof want->center);
    assert_true(got->scale == want->scale);
    assert_int_equal(got->n_views, want->n_views);
    for (int v = 0; v < want->n_views; v++) {
        assert_int_equal(got->png_size[v], want->png_size[v]);
        assert_memory_equal(got->png[v], want->png[v], (size_t)want->png_size[v]);
    }
    if (want->n_views)
        assert_memory_equal(got->camera, want->camera, (size_t)want->n_views * VIEW_CAMERA_FLOATS * sizeof(float));
}

static void round_trip(void **state) {
    (void)state;
    const char *path = in_folder("a.h5");
    write_shard_of(path, 128);
    assert_false(exists(in_folder("a.h5.part")));
    shard  s;
    status st = {0};
    if (!shard_open(&s, path, &st)) fail_msg("%s", st.text);
    assert_int_equal(s.n_samples, N_SAMPLES);
    assert_int_equal(s.n_views, 8);
    assert_int_equal(s.meta.resolution, 128);
    assert_true(s.meta.tau_voxels == 2.0);
    for (int i = N_SAMPLES - 1; i >= 0; i--) {
        sample want = make_sample(i, tiles_of[i], views_of[i]), got;
        sample_count(&want);
        if (!shard_read_sample(&s, i, true, &got, &st)) fail_msg("%s", st.text);
        same_sample(&got, &want);
        assert_true(got.n_in > 0 && got.n_in < 512 * got.n_tiles);
        sample_free(&want);
        sample_free(&got);
    }
    shard_close(&s);
    int64_t bad = -1;
    if (!shard_check(path, &bad, &st)) fail_msg("%s", st.text);
    assert_int_equal(bad, 0);
    shard_meta meta = {128, 2.0};
    assert_null(shard_create(path, &meta, &st));
    assert_int_equal(st.code, ST_IO);
    assert_non_null(strstr(st.text, "exists"));
}

static uint8_t *slurp(const char *path, int64_t *n) {
    FILE *f = fopen(path, "rb");
    fseek(f, 0, SEEK_END);
    *n = ftell(f);
    rewind(f);
    uint8_t *b = malloc((size_t)*n);
    assert_int_equal(fread(b, 1, (size_t)*n, f), *n);
    fclose(f);
    return b;
}

static void spill(const char *path, const uint8_t *b, int64_t n) {
    FILE *f = fopen(path, "wb");
    assert_int_equal(fwrite(b, 1, (size_t)n, f), n);
    fclose(f);
}

static void cut_short(void **state) {
    (void)state;
    int64_t n;
    write_shard_of(in_folder("whole.h5"), 128);
    uint8_t    *b = slurp(in_folder("whole.h5"), &n);
    int64_t     lengths[] = {0, 1, 8, 100, 511, 512, 2048, n / 4, n / 2, n - 4096, n - 1};
    const char *path = in_folder("cut.h5");
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        shard  s;
        status st = {0};
        spill(path, b, lengths[i]);
        if (shard_open(&s, path, &st))
            fail_msg("a shard of %lld of %lld bytes opened", (long long)lengths[i], (long long)n);
        assert_int_equal(st.code, ST_DATA);
        assert_non_null(strstr(st.text, path));
    }
    free(b);
}

enum { SMALL = 2, FLIPS = 3000, LENGTHS = 1000 };

static void write_small(const char *path) {
    status        st = {0};
    shard_meta    meta = {64, 2.0};
    shard_writer *w = shard_create(path, &meta, &st);
    if (!w) fail_msg("%s", st.text);
    for (int i = 0; i < SMALL; i++) {
        sample s = make_sample(i, 3 + 4 * i, 1 + i);
        if (!shard_append(w, &s, &st)) fail_msg("%s", st.text);
        sample_free(&s);
    }
    if (!shard_finish(w, &st)) fail_msg("%s", st.text);
}

static void any_length(void **state) {
    (void)state;
    const char *path = in_folder("any.h5");
    uint64_t    random = 5;
    int64_t     n;
    write_small(path);
    uint8_t *b = slurp(path, &n);
    for (int i = 0; i < LENGTHS; i++) {
        shard  s;
        status st = {0};
        random = random * 6364136223846793005u + 1442695040888963407u;
        int64_t to = (int64_t)(random >> 20) % n;
        spill(path, b, to);
        if (shard_open(&s, path, &st)) fail_msg("a shard of %lld of %lld bytes opened", (long long)to, (long long)n);
        assert_true(st.code == ST_DATA && strstr(st.text, path));
    }
    free(b);
}

/* Everything of the small shard, compared with what was written. False: refused. */
static bool reads_small(const char *path, sample *want, status *st) {
    shard s;
    if (!shard_open(&s, path, st)) return false;
    bool ok = true;
    assert_int_equal(s.n_samples, SMALL);
    assert_true(s.meta.resolution == 64 && s.meta.tau_voxels == 2.0);
    for (int i = 0; ok && i < SMALL; i++) {
        sample got;
        ok = shard_read_sample(&s, i, true, &got, st);
        if (!ok) break;
        same_sample(&got, &want[i]);
        sample_free(&got);
    }
    shard_close(&s);
    return ok;
}

/* One bit anywhere in the file: refused with the file's name, or what is read is what was written. */
static void any_bit(void **state) {
    (void)state;
    const char *path = in_folder("bit.h5");
    uint64_t    random = 11;
    int64_t     n;
    int         refused = 0;
    sample      want[SMALL];
    write_small(path);
    uint8_t *b = slurp(path, &n);
    for (int i = 0; i < SMALL; i++) {
        want[i] = make_sample(i, 3 + 4 * i, 1 + i);
        sample_count(&want[i]);
    }
    for (int i = 0; i < FLIPS; i++) {
        status st = {0};
        random = random * 6364136223846793005u + 1442695040888963407u;
        int64_t bit = (int64_t)(random >> 20) % (8 * n);
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
        spill(path, b, n);
        if (!reads_small(path, want, &st)) {
            refused++;
            if (st.code != ST_DATA || !strstr(st.text, path)) fail_msg("bit %lld: \"%s\"", (long long)bit, st.text);
        }
        b[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    print_message("%d of %d flipped bits refused; the others change nothing that is read\n", refused, FLIPS);
    assert_true(refused > FLIPS / 2);
    for (int i = 0; i < SMALL; i++) sample_free(&want[i]);
    free(b);
}

/* Flips one byte within the stored chunk that holds row `row` of a table. */
static void flip_in(const char *path, const char *table, hsize_t chunk) {
    status   st = {0};
    hid_t    f = h5_file_open(path, &st), d = H5Dopen2(f, table, H5P_DEFAULT), space = H5Dget_space(d);
    haddr_t  at;
    hsize_t  size, offset[2];
    unsigned mask;
    assert_true(H5Dget_chunk_info(d, space, chunk, offset, &mask, &at, &size) >= 0);
    H5Fclose(f);
    int64_t  n;
    uint8_t *b = slurp(path, &n);
    b[at + size / 2] ^= 0x10;
    spill(path, b, n);
    free(b);
}

static void flipped_byte(void **state) {
    (void)state;
    const char *tables[] = {"tile/value", "tile/coord", "tile/sharp"};
    for (int t = 0; t < 3; t++) {
        const char *path = in_folder("flip.h5");
        unlink(path);
        write_shard_of(path, 128);
        flip_in(path, tables[t], 0);
        shard  s;
        sample x;
        status st = {0};
        if (!shard_open(&s, path, &st)) fail_msg("%s", st.text);
        assert_false(shard_read_sample(&s, 1, false, &x, &st));
        assert_int_equal(st.code, ST_DATA);
        assert_non_null(strstr(st.text, path));
        assert_non_null(strstr(st.text, "sample 1 (folder/shape-1.obj)"));
        shard_close(&s);
        int64_t bad = 0;
        st = (status){0};
        assert_false(shard_check(path, &bad, &st));
        assert_true(bad >= 1);
    }
    const char *path = in_folder("flipview.h5");
    write_shard_of(path, 128);
    flip_in(path, "view/png", 0);
    shard    s;
    status   st = {0};
    uint8_t *png;
    int64_t  size;
    float    camera[24];
    assert_true(shard_open(&s, path, &st));
    assert_false(shard_read_view(&s, 0, 1, &png, &size, camera, &st));
    assert_int_equal(st.code, ST_DATA);
    assert_non_null(strstr(st.text, "view 1"));
    sample x;
    st = (status){0};
    assert_true(shard_read_sample(&s, 0, false, &x, &st)); /* the tiles are whole */
    sample_free(&x);
    shard_close(&s);
}

/* Replaces a root attribute, so that only what it says is wrong. */
static void set_attr(const char *path, const char *name, int64_t v) {
    h5_file_close(h5_file_open(path, &(status){0})); /* sets the library up */
    hid_t f = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT), a = H5Aopen(f, name, H5P_DEFAULT);
    assert_true(H5Awrite(a, H5T_NATIVE_INT64, &v) >= 0);
    H5Aclose(a);
    H5Fclose(f);
}

static void refusals(void **state) {
    (void)state;
    const char *path = in_folder("v.h5");
    shard       s;
    struct {
        const char *name;
        int64_t     v;
        const char *says;
    } cases[] = {{"version", 2, "version 2"},
                 {"complete", 0, "never completed"},
                 {"resolution", 100, "resolution 100"},
                 {"n_samples", 1ll << 40, "impossible sizes"},
                 {"n_samples", 6, "sample/"},
                 {"n_tiles", 1ll << 50, "tile/coord"},
                 {"n_views", 7, "view/"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = {0};
        unlink(path);
        write_shard_of(path, 128);
        set_attr(path, cases[i].name, cases[i].v);
        if (shard_open(&s, path, &st)) fail_msg("%s = %lld was accepted", cases[i].name, (long long)cases[i].v);
        assert_int_equal(st.code, ST_DATA);
        if (!strstr(st.text, cases[i].says)) fail_msg("\"%s\" does not say \"%s\"", st.text, cases[i].says);
    }
    status st = {0};
    assert_false(shard_open(&s, in_folder("none.h5"), &st));
    assert_int_equal(st.code, ST_NO_INPUT);
}

static void folder_of_shards(void **state) {
    (void)state;
    char   folder[128];
    shard *all;
    int    n;
    status st = {0};
    snprintf(folder, sizeof folder, "%s/set", temp_folder());
    mkdir(folder, 0777);
    assert_false(shard_open_all(folder, &all, &n, &st));
    assert_int_equal(st.code, ST_NO_INPUT);
    write_shard_of(in_folder("set/b.h5"), 128);
    write_shard_of(in_folder("set/a.h5"), 128);
    spill(in_folder("set/c.h5.part"), (const uint8_t *)"half", 4);
    st = (status){0};
    if (!shard_open_all(folder, &all, &n, &st)) fail_msg("%s", st.text);
    assert_int_equal(n, 2);
    assert_non_null(strstr(all[0].path, "a.h5"));
    shard_close_all(all, n);
    assert_true(shard_open_all(in_folder("set/a.h5"), &all, &n, &st));
    assert_int_equal(n, 1);
    shard_close_all(all, n);
    write_shard_of(in_folder("set/d.h5"), 64);
    assert_false(shard_open_all(folder, &all, &n, &st));
    assert_int_equal(st.code, ST_DATA);
    assert_non_null(strstr(st.text, "64"));
    assert_non_null(strstr(st.text, "128"));
}

static void no_list_but(const char *wrong, const char *meant) {
    shard *all;
    int    n;
    status st = {0};
    assert_false(shard_open_all(wrong, &all, &n, &st));
    assert_int_equal(st.code, ST_NO_INPUT);
    bool named = strstr(st.text, "is that meant?") != NULL;
    if (named != (meant != NULL) || (meant && !strstr(st.text, meant))) fail_msg("%s", st.text);
}

/* A folder without shards beside one that has some: in train/, in split/train/, or the one above. */
static void folder_nearby(void **state) {
    (void)state;
    char near[160];
    mkdir(in_folder("apart"), 0777);
    mkdir(in_folder("apart/near"), 0777);
    snprintf(near, sizeof near, "%s", in_folder("apart/near"));
    no_list_but(near, NULL);
    mkdir(in_folder("apart/near/split"), 0777);
    mkdir(in_folder("apart/near/split/train"), 0777);
    no_list_but(near, NULL);
    write_shard_of(in_folder("apart/near/split/train/a.h5"), 64);
    no_list_but(near, "near/split/train has .h5 files");
    mkdir(in_folder("apart/near/train"), 0777);
    write_shard_of(in_folder("apart/near/train/a.h5"), 64);
    no_list_but(near, "near/train has .h5 files");
    write_shard_of(in_folder("apart/near/a.h5"), 64);
    no_list_but(in_folder("apart/near/heldout/"), "near has .h5 files");
    no_list_but(in_folder("apart/near/none.h5"), "near has .h5 files");
}

/* Faults that only an audit can see: content is wrong, checksums are right. */
static void audit(void **state) {
    (void)state;
    enum { ORDER, TWICE, OUTSIDE, NAN_VALUE, BIG_VALUE, NO_IMAGE, SIZE, N_FAULTS };
    const char *says[N_FAULTS] = {"out of order",  "twice",  "outside the grid", "not in [-1,1]",
                                  "not in [-1,1]", "view 0", "its camera says"};
    for (int fault = 0; fault < N_FAULTS; fault++) {
        status     st = {0};
        char       name[32];
        shard_meta meta = {64, 2.0};
        snprintf(name, sizeof name, "audit%d.h5", fault);
        shard_writer *w = shard_create(in_folder(name), &meta, &st);
        sample        good = make_sample(0, 20, 1), bad = make_sample(1, 20, 1);
        uint16_t     *c = bad.coord + 3 * 7;
        if (fault == ORDER) c[2] = (uint16_t)(c[2] == 7 ? 5 : 0), c[1] = 0;
        if (fault == TWICE) memcpy(c, c - 3, 6);
        if (fault == OUTSIDE) bad.coord[3 * 19] = 8;
        if (fault == NAN_VALUE) bad.value[777] = 0x7e00;
        if (fault == BIG_VALUE) bad.value[777] = f32_to_f16(-1.001f);
        if (fault == NO_IMAGE) memset(bad.png[0] + 8, 0, 20);
        if (fault == SIZE) bad.camera[20] = 7;
        assert_true(shard_append(w, &good, &st) && shard_append(w, &bad, &st) && shard_finish(w, &st));
        int64_t n_bad;
        if (shard_check(in_folder(name), &n_bad, &st)) fail_msg("fault %d was not seen", fault);
        assert_int_equal(n_bad, 1);
        assert_int_equal(st.code, ST_DATA);
        if (!strstr(st.text, says[fault]) || !strstr(st.text, "sample 1"))
            fail_msg("\"%s\" does not say \"%s\" of sample 1", st.text, says[fault]);
        sample_free(&good);
        sample_free(&bad);
    }
    /* the same id twice */
    status        st = {0};
    shard_meta    meta = {64, 2.0};
    shard_writer *w = shard_create(in_folder("ids.h5"), &meta, &st);
    sample        x = make_sample(0, 3, 0);
    assert_true(shard_append(w, &x, &st) && shard_append(w, &x, &st) && shard_finish(w, &st));
    int64_t n_bad;
    assert_false(shard_check(in_folder("ids.h5"), &n_bad, &st));
    assert_non_null(strstr(st.text, "same id"));
    assert_int_equal(n_bad, 1);
    sample_free(&x);
}

/* ---- latents
 * ------------------------------------------------------------------------------------------------------ */

static void write_latents(const char *path, uint64_t vae) {
    status  st = {0};
    latents meta = {.vae = vae, .channels = 4, .resolution = 128, .tau_voxels = 2};
    strcpy(meta.shard, "shard-00000.h5");
    latents_writer *w = latents_create(path, &meta, &st);
    if (!w) fail_msg("%s", st.text);
    for (int i = 0; i < 3; i++) {
        int64_t n = tiles_of[i];
        sample  s = make_sample(i, n, 0);
        float  *x = malloc(sizeof *x * (size_t)n * 8);
        fill_rule(x, n * 8, (uint32_t)i + 9, 2);
        if (!latents_append(w, s.id, n, s.coord, x, x + 4 * n, &st)) fail_msg("%s", st.text);
        free(x);
        sample_free(&s);
    }
    if (!latents_finish(w, &st)) fail_msg("%s", st.text);
}

static void latent_files(void **state) {
    (void)state;
    char folder[128];
    snprintf(folder, sizeof folder, "%s/lat", temp_folder());
    mkdir(folder, 0777);
    write_latents(in_folder("lat/a.h5"), 0xfedcba9876543210u);
    assert_false(exists(in_folder("lat/a.h5.part")));
    latents l;
    status  st = {0};
    if (!latents_open(&l, in_folder("lat/a.h5"), &st)) fail_msg("%s", st.text);
    assert_true(l.vae == 0xfedcba9876543210u && l.channels == 4 && l.resolution == 128 && l.tau_voxels == 2);
    assert_string_equal(l.shard, "shard-00000.h5");
    assert_int_equal(l.n_samples, 3);
    assert_int_equal(l.n_tiles, 644);
    for (int i = 2; i >= 0; i--) {
        int64_t   n = tiles_of[i];
        uint16_t *coord;
        float    *mean, *logvar, *x = malloc(sizeof *x * (size_t)n * 8);
        sample    s = make_sample(i, n, 0);
        fill_rule(x, n * 8, (uint32_t)i + 9, 2);
        if (!latents_read(&l, i, &coord, &mean, &logvar, &st)) fail_msg("%s", st.text);
        assert_true(l.id[i] == s.id && l.first[i + 1] - l.first[i] == n);
        assert_memory_equal(coord, s.coord, (size_t)n * 6);
        assert_memory_equal(mean, x, (size_t)n * 16);
        assert_memory_equal(logvar, x + 4 * n, (size_t)n * 16);
        free(coord);
        free(mean);
        free(logvar);
        free(x);
        sample_free(&s);
    }
    latents_close(&l);
    latents *all;
    int      n;
    assert_true(latents_open_all(folder, &all, &n, &st));
    assert_int_equal(n, 1);
    latents_close_all(all, n);
    write_latents(in_folder("lat/b.h5"), 5);
    assert_false(latents_open_all(folder, &all, &n, &st));
    assert_int_equal(st.code, ST_CONFIG);
    assert_non_null(strstr(st.text, "fedcba9876543210"));
    assert_non_null(strstr(st.text, "lat/b.h5"));
    st = (status){0};
    flip_in(in_folder("lat/a.h5"), "latent/mean", 0);
    uint16_t *coord;
    float    *mean, *logvar;
    assert_true(latents_open(&l, in_folder("lat/a.h5"), &st));
    assert_false(latents_read(&l, 1, &coord, &mean, &logvar, &st));
    assert_int_equal(st.code, ST_DATA);
    assert_non_null(strstr(st.text, "sample 1"));
    latents_close(&l);
    shard s;
    st = (status){0};
    assert_false(shard_open(&s, in_folder("lat/b.h5"), &st)); /* another kind of file */
    assert_non_null(strstr(st.text, "d3s2-latents"));
}

/* ---- more shards than files may be open ------------------------------------------------------------------------- */

enum { MANY = POOL_FILES + 30 };

static void copy_file(const char *from, const char *to) {
    static char bytes[1 << 20];
    FILE       *f = fopen(from, "rb"), *g = fopen(to, "wb");
    assert_true(f && g);
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, f)) > 0;) assert_int_equal(fwrite(bytes, 1, n, g), n);
    fclose(f);
    assert_int_equal(fclose(g), 0);
}

static int open_files(void) {
    char **names;
    int    n;
    status st = {0};
    assert_true(list_folder("/proc/self/fd", "", &names, &n, &st));
    free_names(names, n);
    return n;
}

/* One sample a shard, with as many tiles as its number modulo 7 and one more. */
static const char *many_shards(void) {
    const char *folder = in_folder("many");
    mkdir(folder, 0755);
    for (int k = 0; k < MANY; k++) {
        char path[256], first[256];
        snprintf(path, sizeof path, "%s/shard-%04d.h5", folder, k);
        snprintf(first, sizeof first, "%s/shard-%04d.h5", folder, k % 7);
        if (k >= 7) {
            copy_file(first, path);
            continue;
        }
        status        st = {0};
        shard_meta    meta = {64, 2.0};
        sample        s = make_sample(k, k + 1, 1);
        shard_writer *w = shard_create(path, &meta, &st);
        if (!w || !shard_append(w, &s, &st) || !shard_finish(w, &st)) fail_msg("%s", st.text);
        sample_free(&s);
    }
    return folder;
}

static void read_many(const shard *s, int before) {
    sample got = {0};
    for (int i = 0; i < 3 * MANY; i++) {
        int    k = (int)(rng_uniform((rng_key){.seed = 3, .step = (uint64_t)i}, 0) * MANY);
        status st = {0};
        if (!shard_read_again(&s[k], 0, &got, &st)) fail_msg("%s", st.text);
        sample want = make_sample(k % 7, k % 7 + 1, 0);
        assert_int_equal(got.n_tiles, want.n_tiles);
        assert_memory_equal(got.value, want.value, (size_t)want.n_tiles * TILE_CELLS * 2);
        sample_free(&want);
        assert_true(open_files() <= before + POOL_FILES);
    }
    sample_free(&got);
}

static void many_files(void **state) {
    const char *folder = many_shards();
    int         before = open_files(), n, n_again;
    shard      *s, *again;
    status      st = {0};
    int64_t     bytes, bytes_again;
    (void)state;
    if (!shard_open_all(folder, &s, &n, &st)) fail_msg("%s", st.text);
    assert_int_equal(n, MANY);
    assert_int_equal(open_files(), before + POOL_FILES);
    read_many(s, before);
    /* The tables as bytes are all that another rank needs. */
    char *packed = shard_pack_all(s, n, &bytes);
    shard_close_all(s, n);
    assert_int_equal(open_files(), before);
    again = shard_unpack_all(packed, bytes, &n_again);
    assert_int_equal(n_again, MANY);
    char *packed_again = shard_pack_all(again, n_again, &bytes_again);
    assert_int_equal(bytes, bytes_again);
    assert_memory_equal(packed, packed_again, (size_t)bytes);
    free(packed_again);
    assert_int_equal(open_files(), before);
    read_many(again, before);
    shard_close_all(again, n_again);
    assert_int_equal(open_files(), before);
    /* A file that is gone since its tables were read, or is another one. */
    again = shard_unpack_all(packed, bytes, &n_again);
    free(packed);
    sample got;
    unlink(again[5].path);
    assert_false(shard_read_sample(&again[5], 0, false, &got, &st));
    assert_int_equal(st.code, ST_NO_INPUT);
    assert_non_null(strstr(st.text, "shard-0005.h5: cannot open: No such file"));
    st = (status){0};
    copy_file(again[1].path, again[2].path);
    assert_false(shard_read_sample(&again[2], 0, false, &got, &st));
    assert_int_equal(st.code, ST_DATA);
    assert_non_null(strstr(st.text, "shard-0002.h5"));
    st = (status){0};
    assert_true(shard_read_sample(&again[1], 0, true, &got, &st));
    sample_free(&got);
    shard_close_all(again, n_again);
}

/* Somebody holds a lock on the file, or the file system has none: nobody asks for one. */
static void locked_file(void **state) {
    const char *path = in_folder("locked.h5");
    (void)state;
    write_shard_of(path, 128);
    fflush(NULL);
    int    ready[2];
    char   byte;
    shard  s;
    status st = {0};
    assert_int_equal(pipe(ready), 0);
    pid_t other = fork();
    if (other == 0) {
        int own = open(path, O_RDWR);
        if (flock(own, LOCK_EX) != 0 || write(ready[1], "x", 1) != 1) _exit(1);
        pause();
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    bool ok = shard_open(&s, path, &st);
    kill(other, SIGKILL);
    waitpid(other, NULL, 0);
    close(ready[0]);
    close(ready[1]);
    if (!ok) fail_msg("%s", st.text);
    shard_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),       cmocka_unit_test(cut_short),     cmocka_unit_test(any_length),
        cmocka_unit_test(any_bit),          cmocka_unit_test(flipped_byte),  cmocka_unit_test(refusals),
        cmocka_unit_test(folder_of_shards), cmocka_unit_test(folder_nearby), cmocka_unit_test(audit),
        cmocka_unit_test(latent_files),     cmocka_unit_test(many_files),    cmocka_unit_test(locked_file),
    };
    log_init(0, 1, LOG_QUIET);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
