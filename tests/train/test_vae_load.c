/* Batches of the auto-encoder: what they hold, from the samples themselves; the same bits on any number of threads; and
 * memory that is used again holds nothing of the batch before. */
#include "fixture.h"
#include "harness/harness.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include "core/half.h"
#include "kernels/backend.h"
#include "train/engine.h"
#include "train/setup.h"
#include "train/task_vae.h"

enum { SAMPLES = 4 };
static char data[600];

typedef struct {
    dataset     d;
    task       *t;
    arena       host;
    micro_batch b;
} rig;

static rig rig_open(bool augment, int crop, int chunk) {
    rig     r = {0};
    status  st = {0};
    options o;
    fixture_options(&o, data, "", false);
    o.vae.augment = augment;
    o.vae.crop_tiles = crop;
    o.vae.chunk_tiles = chunk;
    dataset_request want = {.shards = o.data.train, .crop_tiles = crop};
    if (!dataset_open(&r.d, &want, &st)) fail_msg("%s", st.text);
    r.t = task_vae_new(&o, &r.d, &st);
    r.host = arena_new("host", r.t->host_bytes(r.t, r.d.total_tiles, SAMPLES));
    return r;
}

static void rig_load_as(rig *r, batch_purpose why, int n, int threads) {
    plan_item        item[SAMPLES];
    const plan_item *list[SAMPLES];
    status           st = {0};
    for (int i = 0; i < n; i++) {
        item[i] = (plan_item){.index = (why.step + i) % SAMPLES};
        list[i] = &item[i];
    }
    memset(r->host.base, 0xff, r->host.size);
    arena_reset(&r->host, 0);
    r->b = micro_batch_in(&r->host, NULL);
    omp_set_num_threads(threads);
    if (!r->t->load(r->t, &r->d, why, list, n, &r->b, &st)) fail_msg("%s", st.text);
}

static void rig_load(rig *r, int64_t step, bool eval, int n, int threads) {
    rig_load_as(r, (batch_purpose){.step = step, .eval = eval}, n, threads);
}

static void rig_close(rig *r) {
    r->t->free(r->t);
    dataset_close(&r->d);
    arena_free(&r->host);
}

static void add_hash(void *user, tensor *t) {
    uint64_t *h = user;
    *h = hash_bytes(t->data, tensor_bytes(t), *h);
}

static uint64_t bits_of(rig *r) {
    uint64_t h = hash_bytes(r->b.count, sizeof r->b.count, 0);
    r->t->tensors(r->t, &r->b, add_hash, &h);
    return h;
}

static void test_threads(void **state) {
    static const struct {
        bool augment;
        int  crop, chunk;
    } kind[] = {{false, 0, 0}, {true, 0, 0}, {true, 20, 0}, {true, 0, 2}, {false, 0, 1}};
    (void)state;
    for (size_t k = 0; k < sizeof kind / sizeof kind[0]; k++) {
        rig one = rig_open(kind[k].augment, kind[k].crop, kind[k].chunk);
        rig four = rig_open(kind[k].augment, kind[k].crop, kind[k].chunk);
        for (int step = 0; step < 6; step++) {
            bool eval = step == 4;
            int  n = eval ? 1 : 1 + step % SAMPLES;
            rig_load(&one, step, eval, n, 1);
            rig_load(&four, step, eval, n, 4);
            assert_int_equal(bits_of(&one), bits_of(&four));
            rig fresh = rig_open(kind[k].augment, kind[k].crop, kind[k].chunk);
            rig_load(&fresh, step, eval, n, 2);
            assert_int_equal(bits_of(&fresh), bits_of(&one));
            rig_close(&fresh);
        }
        rig_close(&one);
        rig_close(&four);
    }
}

/* Row of the stored sample with these coordinates. */
static int64_t row_at(const sample *s, const int32_t *at) {
    int64_t r = 0;
    while (r < s->n_tiles && (s->coord[3 * r] != at[0] || s->coord[3 * r + 1] != at[1] || s->coord[3 * r + 2] != at[2]))
        r++;
    assert_true(r < s->n_tiles);
    return r;
}

static bool inside(const int32_t *at, const int32_t *box) {
    for (int a = 0; a < 3; a++)
        if (at[a] < box[a] || at[a] >= box[3 + a]) return false;
    return true;
}

static void expect_contents(int crop, int chunk) {
    rig r = rig_open(false, crop, chunk);
    rig_load(&r, 1, false, 3, 2);
    const vae_body *v = r.b.body;
    int64_t         target = 0, value = 0;
    double          count[SUMS] = {0};
    for (int i = 0; i < 3; i++) {
        sample s;
        status st = {0};
        assert_true(dataset_read(&r.d, (1 + i) % SAMPLES, &s, &st));
        for (int64_t row = I32(&v->b.sample_first)[i]; row < I32(&v->b.sample_first)[i + 1]; row++) {
            const int32_t  *at = I32(&v->b.coord) + 3 * row;
            int64_t         from = row_at(&s, at);
            const uint16_t *half = s.value + from * TILE_CELLS;
            const uint8_t  *sharp = s.sharp + from * TILE_SHARP_BYTES;
            bool            kept = !chunk || inside(at, v->box + 6 * i);
            if (kept) assert_memory_equal(U8(&v->sharp) + target / 8, sharp, TILE_SHARP_BYTES);
            for (int c = 0; c < TILE_CELLS; c++) {
                float x = f16_to_f32(half[c]);
                bool  in = fabsf(x) < 1;
                if (in) assert_true(F32(&v->b.sdf)[value++] == x);
                if (!kept) continue;
                assert_true(F32(&v->target)[target++] == x);
                count[in ? SUM_IN : SUM_EXT]++;
                if (in && sharp[c / 8] >> c % 8 & 1) count[SUM_SHARP]++;
            }
        }
        sample_free(&s);
    }
    assert_int_equal(tensor_count(&v->target), target);
    assert_int_equal(tensor_count(&v->b.sdf), value);
    for (int k = 0; k < SUM_KL; k++) assert_true(r.b.count[k] == count[k]);
    assert_true(count[SUM_IN] > 0 && count[SUM_EXT] > 0);
    rig_close(&r);
}

static void test_contents(void **state) {
    (void)state;
    expect_contents(0, 0);
    expect_contents(20, 0);
    expect_contents(0, 2);
}

static size_t need_of(engine *e, rig *r) {
    engine_need need;
    status      st = {0};
    if (!engine_measure(e, r->t, &r->b, &need, &st)) fail_msg("%s", st.text);
    return need.bytes;
}

/* Of no batch of the same tokens does the dry pass say more than of the largest, which is not far above them. */
static void test_largest(void **state) {
    static const struct { int crop, chunk; } kind[] = {{20, 0}, {0, 1}, {0, 2}, {0, 100}};
    (void)state;
    for (size_t k = 0; k < sizeof kind / sizeof kind[0]; k++) {
        rig    r = rig_open(true, kind[k].crop, kind[k].chunk);
        place  cpu = {.be = backend_find("cpu"), .dev = DEV_CPU, .act = DT_F32, .gpu = -1};
        engine e;
        size_t most = 0;
        engine_init(&e, &cpu, 0, RECOMPUTE_OFF);
        arena weights = arena_new("weights", (size_t)64 << 20);
        params_alloc(r.t->p, &weights, true, false);
        rig_load_as(&r, (batch_purpose){.largest = SAMPLES}, SAMPLES, 1);
        size_t largest = need_of(&e, &r);
        for (int step = 0; step < 40; step++) {
            rig_load(&r, step, false, SAMPLES, 1);
            size_t bytes = need_of(&e, &r);
            if (bytes > most) most = bytes;
        }
        assert_in_range(most, 1, largest);
        print_message("crop %d, boxes of %d: %.1f MB at most, foreseen %.1f\n", kind[k].crop, kind[k].chunk,
                      (double)most / 1e6, (double)largest / 1e6);
        assert_true((double)largest < 3 * (double)most);
        engine_free(&e);
        rig_close(&r);
        arena_free(&weights);
    }
}

/* Two folders of the same shapes: each batch takes its place in the shared grid, and its boxes lie in its own. */
static void test_resolutions(void **state) {
    (void)state;
    static char  coarse[600];
    fixture_spec spec = {.n_samples = SAMPLES, .per_shard = SAMPLES, .resolution = 24, .vae = 7};
    options      o;
    status       st = {0};
    snprintf(coarse, sizeof coarse, "%.200s/coarse", data);
    fixture_write(coarse, &spec);
    fixture_options(&o, data, "", false);
    snprintf(o.data.train, sizeof o.data.train, "%.200s/shards,%.200s/shards", data, coarse);
    o.vae.chunk_tiles = 2;
    o.vae.factor = 0.5;
    rig             r = {0};
    dataset_request want = {.shards = o.data.train, .several = true};
    if (!dataset_open(&r.d, &want, &st)) fail_msg("%s", st.text);
    assert_int_equal(r.d.n_folders, 2);
    assert_int_equal(r.d.n, 2 * SAMPLES);
    assert_int_equal(r.d.resolution, 48);
    for (int i = 0; i < 2 * SAMPLES; i++) /* the folders take turns */
        assert_int_equal(dataset_in_turn(&r.d, i), i / 2 + i % 2 * SAMPLES);
    assert_null(task_vae_new(&o, &r.d, &st)); /* no frame */
    assert_true(st.code == ST_CONFIG && strstr(st.text, "vae.frame"));
    o.vae.frame = 96;
    st = (status){0};
    r.t = task_vae_new(&o, &r.d, &st);
    assert_non_null(r.t);
    r.host = arena_new("host", r.t->host_bytes(r.t, r.d.total_tiles, SAMPLES));
    for (int folder = 0; folder < 2; folder++)
        for (int step = 0; step < 8; step++) {
            plan_item        item = {.index = folder * SAMPLES + step % SAMPLES};
            const plan_item *list[1] = {&item};
            int              edge = folder ? 3 : 6;
            arena_reset(&r.host, 0);
            r.b = micro_batch_in(&r.host, NULL);
            if (!r.t->load(r.t, &r.d, (batch_purpose){.step = step}, list, 1, &r.b, &st)) fail_msg("%s", st.text);
            const vae_body *v = r.b.body;
            assert_true(v->b.factor == 0.5 * 96 / (8 * edge));
            for (int a = 0; a < 3; a++)
                assert_true(v->box[a] >= 0 && v->box[3 + a] == v->box[a] + 2 && v->box[3 + a] <= edge);
        }
    rig_close(&r);
    want.resolution = 48;
    assert_false(dataset_open(&r.d, &want, &st));
    snprintf(o.data.train, sizeof o.data.train, "%.200s/shards,%.200s/shards", data, data); /* the same twice */
    want.resolution = 0;
    st = (status){0};
    assert_false(dataset_open(&r.d, &want, &st));
    assert_non_null(strstr(st.text, "keep one of them"));
}

int main(void) {
    fixture_spec spec = {.n_samples = SAMPLES, .per_shard = 3, .resolution = 48, .vae = 7};
    snprintf(data, sizeof data, "%s", temp_folder());
    fixture_write(data, &spec);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_threads), cmocka_unit_test(test_contents),
                                       cmocka_unit_test(test_largest), cmocka_unit_test(test_resolutions)};
    return test_exit(cmocka_run_group_tests(tests, NULL, NULL));
}
