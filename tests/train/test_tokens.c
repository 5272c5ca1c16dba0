/* Condition tokens of an encoder with weights: files of weights and what is wrong with them, the tokens of a data set,
 * training on them. The network itself is compared in golden/test_dino_net.c. With pretend_gpu.c (PRETEND) tokens are
 * made on that GPU, and are those of the CPU to the bit. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "golden/dino_weights.h"
#include "harness/harness.h"
#include "io/atomic_file.h"
#include "io/jsonl.h"
#include "train/dataset.h"
#include "train/image_encoder.h"
#include "train/tokenize.h"
#include "train/trainer.h"

enum { WIDTH = 64, REGISTERS = 4, SIZE = 56, SIDE = SIZE / PATCH_SIDE, SAMPLES = 6 };

static comm         one;
static dino_weights weights;

static int set_up(void **state) {
    (void)state;
    fixture_spec spec = {.n_samples = SAMPLES, .per_shard = 4, .resolution = 32, .vae = 7};
    fixture_write(temp_folder(), &spec);
    dino_weights_random(&weights, WIDTH, 2, 2, REGISTERS, 5, false, 1); /* positions of 5x5: resized to SIDE */
    dino_weights_write(&weights, false, in_folder("net.safetensors"));
    dino_weights_write(&weights, true, in_folder("net-hub.safetensors"));
    dino_weights_free(&weights);
    dino_weights_random(&weights, WIDTH, 2, 2, REGISTERS, 5, false, 1000);
    dino_weights_write(&weights, false, in_folder("other.safetensors"));
    dino_weights_free(&weights);
    return 0;
}

static void token_options(options *o, const char *net, const char *output) {
    options_default(o);
    snprintf(o->tokens.input, sizeof o->tokens.input, "%s", in_folder("shards"));
    snprintf(o->tokens.output, sizeof o->tokens.output, "%s", in_folder(output));
    snprintf(o->cond.weights, sizeof o->cond.weights, "%s", in_folder(net));
    o->cond.encoder = opt_cond_encoder_dinov2;
    o->cond.size = SIZE;
    o->cond.pad_max = 4;
#ifdef PRETEND
    o->train.device = opt_train_device_cuda;
    o->train.precision = opt_train_precision_f32;
#else
    o->train.device = opt_train_device_cpu;
#endif
    o->tokens.batch = 3; /* does not divide the views of a sample */
}

static void tokenize(const options *o, tokenize_report *r) {
    status st = {0};
    if (!tokenize_run(o, &one, r, &st)) fail_msg("%s", st.text);
}

/* ---- weights ---------------------------------------------------------------------------------------------------- */

static bool open_encoder(const char *path, const char *back_end, image_encoder *e, status *st) {
    options o;
    place   where;
    options_default(&o);
    o.train.device = strcmp(back_end, "ref") ? opt_train_device_cpu : opt_train_device_ref;
    assert_true(place_open(&where, &o, &one, false, st));
    *st = (status){0};
    return image_encoder_open(e, path, SIZE, &where, st);
}

/* A file with one thing wrong is refused with a message that has `text`. */
static void refused(const char *text) {
    image_encoder e;
    status        st = {0};
    dino_weights_write(&weights, false, in_folder("wrong.safetensors"));
    assert_false(open_encoder(in_folder("wrong.safetensors"), "cpu", &e, &st));
    assert_int_equal(st.code, ST_DATA);
    if (!strstr(st.text, text) || !strstr(st.text, "wrong.safetensors")) fail_msg("%s", st.text);
    dino_weights_free(&weights);
    dino_weights_random(&weights, WIDTH, 2, 2, REGISTERS, 5, false, 1);
}

static void rename_part(const char *from, const char *to) {
    safe_source *t = dino_weights_find(&weights, from);
    free((char *)(uintptr_t)t->name);
    t->name = strdup(to);
}

static void test_wrong_weights(void **state) {
    (void)state;
    static const struct {
        const char *part, *text;
    } missing[] = {
        {"embeddings.cls_token", "no class token"},
        {"embeddings.register_tokens", "no register tokens"},
        {"embeddings.position_embeddings", "not those of a square"},
        {"encoder.layer.0.norm1.weight", "no block"},
        {"encoder.layer.0.mlp.fc1.weight", "no MLP"},
        {"encoder.layer.1.attention.attention.key.bias", "no tensor encoder.layer.1.attention.attention.key.bias"},
        {"encoder.layer.1.layer_scale2.lambda1", "no tensor encoder.layer.1.layer_scale2.lambda1"}};
    dino_weights_random(&weights, WIDTH, 2, 2, REGISTERS, 5, false, 1);
    for (size_t i = 0; i < sizeof missing / sizeof missing[0]; i++) {
        rename_part(missing[i].part, "something.else");
        refused(missing[i].text);
    }
    safe_source *t = dino_weights_find(&weights, "encoder.layer.1.mlp.fc2.weight");
    t->shape[0] = 4 * WIDTH, t->shape[1] = WIDTH;
    refused("another shape");
    t = dino_weights_find(&weights, "embeddings.patch_embeddings.projection.weight");
    t->shape[0] = 2 * WIDTH, t->shape[3] = 7;
    refused("14x14");
    snprintf(weights.heads, sizeof weights.heads, "7");
    refused("number of heads");
    dino_weights_free(&weights);
    /* names of many blocks promise more than the file holds */
    dino_weights_random(&weights, WIDTH, 2, 1, REGISTERS, 5, false, 1);
    for (int i = 1; i < 100; i++) {
        char name[64];
        snprintf(name, sizeof name, "encoder.layer.%d.norm1.weight", i);
        weights.t[weights.n++] =
            (safe_source){.name = strdup(name), .dtype = SAFE_F32, .rank = 1, .shape = {0}, .data = calloc(1, 4)};
    }
    refused("not whole");
    dino_weights_free(&weights);
    image_encoder e;
    status        st = {0};
    assert_false(open_encoder("", "cpu", &e, &st));
    assert_non_null(strstr(st.text, "--weights"));
    st = (status){0};
    assert_false(open_encoder(in_folder("none.safetensors"), "cpu", &e, &st));
    assert_int_equal(st.code, ST_NO_INPUT);
}

static void run_one(image_encoder *e, uint32_t seed, bool sparse, view_input *v) {
    *v = (view_input){.rgb = {SIZE, SIZE, 3, malloc(3 * SIZE * SIZE)}, .mask = malloc(SIZE * SIZE)};
    for (int i = 0; i < 3 * SIZE * SIZE; i++) v->rgb.pixel[i] = (uint8_t)(hash_bytes(&i, sizeof i, seed) >> 56);
    for (int i = 0; i < SIZE * SIZE; i++) v->mask[i] = i / SIZE < 20 ? 255 : 0;
    image_encoder_run(e, &v, 1, sparse);
}

/* The gated MLP of ViT-g, and an image in a batch: the definitions' numbers. */
static void test_gated(void **state) {
    (void)state;
    image_encoder a, b;
    view_input    va, vb;
    status        st = {0};
    dino_weights_random(&weights, WIDTH, 4, 2, REGISTERS, 4, true, 3);
    dino_weights_write(&weights, true, in_folder("gated.safetensors"));
    dino_weights_free(&weights);
    assert_true(open_encoder(in_folder("gated.safetensors"), "ref", &a, &st));
    assert_true(open_encoder(in_folder("gated.safetensors"), "cpu", &b, &st));
    assert_true(a.m.cfg.gated && a.m.cfg.heads == 4 && a.m.cfg.mlp_width == 176);
    run_one(&a, 5, false, &va);
    run_one(&b, 5, false, &vb);
    assert_int_equal(va.n_tokens, 1 + REGISTERS + SIDE * SIDE);
    expect_le(rel_l2(vb.token, va.token, va.n_tokens * WIDTH), 2e-6, "cpu against ref");
    view_free(&va);
    run_one(&a, 5, true, &va); /* the mask ends in the second row of patches */
    assert_int_equal(va.n_tokens, 1 + REGISTERS + 2 * SIDE);
    expect_le(rel_l2(vb.token, va.token, va.n_tokens * WIDTH), 2e-6, "foreground rows");
    assert_memory_equal(va.coord, vb.coord, (size_t)va.n_tokens * 3 * sizeof *va.coord);
    view_input pair[2], first, second, *both[2] = {&pair[0], &pair[1]};
    memset(pair, 0, sizeof pair);
    run_one(&b, 6, false, &first);
    run_one(&b, 7, false, &second);
    both[0]->rgb = first.rgb, both[0]->mask = first.mask, both[1]->rgb = second.rgb, both[1]->mask = second.mask;
    image_encoder_run(&b, both, 2, false);
    expect_le(rel_l2(both[0]->token, first.token, first.n_tokens * WIDTH), 1e-6, "first of two");
    expect_le(rel_l2(both[1]->token, second.token, second.n_tokens * WIDTH), 1e-6, "second of two");
    for (int i = 0; i < 2; i++) free(both[i]->token), free(both[i]->coord);
    view_free(&first), view_free(&second), view_free(&va), view_free(&vb);
    image_encoder_close(&a);
    image_encoder_close(&b);
}

/* The kernel by its pieces, both axes at once. */
static double keys(double x) {
    x = fabs(x);
    if (x < 1) return 1.5 * x * x * x - 2.5 * x * x + 1;
    return x < 2 ? -0.5 * x * x * x + 2.5 * x * x - 4 * x + 2 : 0;
}

static void test_positions(void **state) {
    (void)state;
    enum { FROM = 6, C = 3 };
    float in[FROM * FROM * C], out[11 * 11 * C];
    fill_rule(in, FROM * FROM * C, 9, 2);
    const int to[] = {11, 7, 6, 4, 1};
    for (size_t i = 0; i < sizeof to / sizeof to[0]; i++) {
        int    n = to[i];
        double s = (double)FROM / n, wide = s > 1 ? s : 1;
        dinov2_resize_positions(in, FROM, C, out, n);
        for (int y = 0; y < n; y++)
            for (int x = 0; x < n; x++)
                for (int c = 0; c < C; c++) {
                    double sum = 0, all = 0;
                    for (int v = 0; v < FROM; v++)
                        for (int u = 0; u < FROM; u++) {
                            double w = keys((v + 0.5 - (y + 0.5) * s) / wide) * keys((u + 0.5 - (x + 0.5) * s) / wide);
                            sum += w * (double)in[(v * FROM + u) * C + c];
                            all += w;
                        }
                    expect_le(fabs((double)out[(y * n + x) * C + c] - sum / all), 1e-6, "resized positions");
                }
    }
}

/* ---- a data set ------------------------------------------------------------------------------------------------- */

static void test_data_set(void **state) {
    (void)state;
    options         o;
    tokenize_report r;
    token_file      f;
    status          st = {0};
    dataset         d;
    token_options(&o, "net.safetensors", "made");
    o.tokens.variants = 3;
    tokenize(&o, &r);
    assert_int_equal(r.n_shards, 2);
    assert_int_equal(r.n_skipped, 0);
    assert_int_equal(r.n_views, SAMPLES * 2 * 3);
    tokenize(&o, &r);
    assert_int_equal(r.n_skipped, 2);
    /* the hub's names are the same weights */
    snprintf(o.cond.weights, sizeof o.cond.weights, "%s", in_folder("net-hub.safetensors"));
    tokenize(&o, &r);
    assert_int_equal(r.n_skipped, 2);
    /* every token is what the encoder gives of the view, rounded to bf16 */
    image_encoder   e;
    dataset_request all = {.shards = in_folder("shards"), .tokens = in_folder("made")};
    assert_true(open_encoder(in_folder("net.safetensors"), "cpu", &e, &st));
    if (!dataset_open(&d, &all, &st)) fail_msg("%s", st.text);
    assert_true(d.encoder == e.fingerprint);
    o.dit.sparse_cond = true;
    for (int64_t i = 0; i < d.n; i++)
        for (int k = 0; k < 2; k++) {
            uint8_t   *png;
            int64_t    size, n;
            float     *token, *augmented;
            int32_t   *coord, *at;
            view_input v, *list[1] = {&v};
            assert_true(dataset_read_view(&d, i, k, &png, &size, &st) &&
                        view_prepare(&o, png, size, "view", NULL, &v, &st) &&
                        dataset_read_tokens(&d, i, 3 * k, &n, &token, &coord, &st));
            image_encoder_run(&e, list, 1, true);
            assert_int_equal(v.n_tokens, n);
            assert_true(n > 1 + REGISTERS && n <= 1 + REGISTERS + SIDE * SIDE);
            assert_memory_equal(v.coord, coord, (size_t)n * 3 * sizeof *coord);
            /* an image alone gives the last bits of one in a batch on some processors only */
            for (int64_t j = 0; j < n * WIDTH; j++)
                expect_le(fabs((double)token[j] - (double)v.token[j]), 0x1.01p-8 * fabs((double)v.token[j]) + 1e-6,
                          "a token rounded to bf16");
            assert_true(dataset_read_tokens(&d, i, 3 * k + 1, &n, &augmented, &at, &st));
            free(png), free(token), free(coord), free(augmented), free(at);
            view_free(&v);
        }
    dataset_close(&d);
    image_encoder_close(&e);
    /* other weights replace them */
    token_options(&o, "other.safetensors", "made");
    o.tokens.variants = 3;
    tokenize(&o, &r);
    assert_int_equal(r.n_skipped, 0);
    /* a flipped byte of a token */
    assert_true(tokens_open(&f, in_folder("made/part-0.h5"), &st));
    int64_t n_tokens = f.n_tokens;
    tokens_close(&f);
    assert_true(n_tokens > 0);
    FILE *file = fopen(in_folder("made/part-0.h5"), "r+b");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    long    middle = ftell(file) / 2;
    uint8_t byte;
    fseek(file, middle, SEEK_SET);
    assert_int_equal(fread(&byte, 1, 1, file), 1);
    byte ^= 0x40;
    fseek(file, middle, SEEK_SET);
    fwrite(&byte, 1, 1, file);
    fclose(file);
    bool found = false;
    assert_true(tokens_open(&f, in_folder("made/part-0.h5"), &st));
    for (int64_t i = 0; i < f.n_samples; i++)
        for (int64_t k = 0; k < f.view_first[i + 1] - f.view_first[i]; k++) {
            int64_t  n;
            float   *token;
            int32_t *coord;
            status   why = {0};
            if (tokens_read(&f, i, k, &n, &token, &coord, &why)) {
                free(token), free(coord);
            } else {
                assert_non_null(strstr(why.text, "checksum"));
                found = true;
            }
        }
    tokens_close(&f);
    assert_true(found);
}

/* ---- in line, ahead and behind ---------------------------------------------------------------------------------- */

static bool same_files(const char *a, const char *b) {
    uint8_t *x, *y;
    int64_t  nx, ny;
    status   st = {0};
    if (!read_whole_file(a, 1 << 28, &x, &nx, &st) || !read_whole_file(b, 1 << 28, &y, &ny, &st))
        fail_msg("%s", st.text);
    bool same = nx == ny && memcmp(x, y, (size_t)nx) == 0;
    free(x), free(y);
    return same;
}

/* One pass after the other, each view prepared before it and written after it. */
static void tokens_in_line(const options *o, image_encoder *e, const shard *s, const char *path) {
    enum { MOST = 8 };
    status     st = {0};
    token_file meta = {.encoder = e->fingerprint,
                       .width = WIDTH,
                       .size = SIZE,
                       .special = 1 + REGISTERS,
                       .variants = (int)o->tokens.variants,
                       .foreground = o->tokens.foreground};
    snprintf(meta.shard, sizeof meta.shard, "%.255s", strrchr(s->path, '/') + 1);
    tokens_writer *w = tokens_create(path, &meta, &st);
    assert_non_null(w);
    for (int64_t at = 0; at < s->n_samples; at++) {
        int64_t n = (s->view_first[at + 1] - s->view_first[at]) * meta.variants;
        for (int64_t first = 0; first < n; first += o->tokens.batch) {
            view_input v[MOST], *each[MOST];
            int        here = (int)(n - first < o->tokens.batch ? n - first : o->tokens.batch);
            for (int i = 0; i < here; i++) {
                uint8_t *png;
                int64_t  size, k = first + i;
                float    camera[VIEW_CAMERA_FLOATS];
                rng_key  key = {(uint64_t)o->tokens.seed, RNG_AUGMENT, (uint64_t)k, s->id[at]};
                each[i] = &v[i];
                assert_true(shard_read_view(s, at, (int)(k / meta.variants), &png, &size, camera, &st) &&
                            view_prepare(o, png, size, "view", k % meta.variants ? &key : NULL, &v[i], &st));
                free(png);
            }
            image_encoder_run(e, each, here, o->tokens.foreground);
            for (int i = 0; i < here; i++) {
                assert_true(tokens_append_view(w, v[i].n_tokens, v[i].token, v[i].coord, &st));
                view_free(&v[i]);
            }
        }
        assert_true(tokens_end_sample(w, s->id[at], &st));
    }
    if (!tokens_finish(w, &st)) fail_msg("%s", st.text);
}

/* Whoever prepares the views: the file is byte for byte the one that is written without threads. */
static void test_same_bytes(void **state) {
    (void)state;
    options         o;
    tokenize_report r;
    image_encoder   e;
    place           where;
    shard           s;
    status          st = {0};
    token_options(&o, "net.safetensors", "threads");
    o.tokens.variants = 3;
    o.dit.sparse_cond = o.tokens.foreground;
    assert_true(place_open(&where, &o, &one, false, &st));
    assert_true(image_encoder_open(&e, in_folder("net.safetensors"), SIZE, &where, &st));
    assert_true(shard_open(&s, in_folder("shards/part-0.h5"), &st));
    tokens_in_line(&o, &e, &s, in_folder("in-line.h5"));
    image_encoder_close(&e);
    const int threads[] = {0, 1, 2, 7};
    for (size_t i = 0; i < sizeof threads / sizeof threads[0]; i++) {
        o.data.threads = threads[i];
        assert_true(remove_tree(in_folder("threads"), &st));
        tokenize(&o, &r);
        assert_int_equal(r.n_skipped, 0);
        if (threads[i]) assert_int_equal(r.threads, threads[i]);
        if (!same_files(in_folder("threads/part-0.h5"), in_folder("in-line.h5")))
            fail_msg("%d threads give another file", threads[i]);
    }
    shard_close(&s);
}

/* Fails with a message that has `text` and leaves nothing in its folder but one name. */
static void leaves_nothing(const options *o, status_code code, const char *text, const char *but) {
    tokenize_report r;
    status          st = {0};
    if (tokenize_run(o, &one, &r, &st) || st.code != code || !strstr(st.text, text))
        fail_msg("'%s', not '%s'", st.text, text);
    DIR *d = opendir(o->tokens.output);
    assert_non_null(d);
    for (const struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strcmp(e->d_name, but))
            fail_msg("%s is left", e->d_name);
    closedir(d);
}

/* A view that is damaged, at the begin, in the middle and at the end of a shard, and a file that cannot be written. */
static void test_failures(void **state) {
    (void)state;
    static const uint8_t begin[] = {0x89, 'P', 'N', 'G'};
    options              o;
    uint8_t             *bytes;
    int64_t              n, views = 0;
    status               st = {0};
    if (!read_whole_file(in_folder("shards/part-0.h5"), 1 << 28, &bytes, &n, &st)) fail_msg("%s", st.text);
    token_options(&o, "net.safetensors", "failed");
    snprintf(o.tokens.input, sizeof o.tokens.input, "%s", in_folder("damaged"));
    assert_true(make_folder(in_folder("damaged"), &st));
    for (int64_t at = 0; at + 40 < n; at++) {
        if (memcmp(bytes + at, begin, sizeof begin) != 0) continue;
        bytes[at + 30] ^= 1;
        assert_true(atomic_write(in_folder("damaged/part-0.h5"), bytes, n, &st));
        bytes[at + 30] ^= 1;
        leaves_nothing(&o, ST_DATA, "does not match its checksum", "");
        views++;
    }
    assert_int_equal(views, 4 * 2); /* those of the shard */
    /* the shard before a damaged one is whole */
    assert_true(atomic_write(in_folder("damaged/part-0.h5"), bytes, n, &st));
    free(bytes);
    if (!read_whole_file(in_folder("shards/part-1.h5"), 1 << 28, &bytes, &n, &st)) fail_msg("%s", st.text);
    for (int64_t at = 0; at + 40 < n; at++)
        if (memcmp(bytes + at, begin, sizeof begin) == 0) bytes[at + 30] ^= 1;
    assert_true(atomic_write(in_folder("damaged/part-1.h5"), bytes, n, &st));
    free(bytes);
    leaves_nothing(&o, ST_DATA, "does not match its checksum", "part-0.h5");
    token_file f;
    if (!tokens_open(&f, in_folder("failed/part-0.h5"), &st)) fail_msg("%s", st.text);
    assert_int_equal(f.n_samples, 4);
    tokens_close(&f);
    assert_true(remove_tree(in_folder("damaged/part-1.h5"), &st) && remove_tree(in_folder("failed"), &st));
    assert_true(make_folder(in_folder("failed/part-0.h5"), &st));
    leaves_nothing(&o, ST_CONFIG, "is no plain file", "part-0.h5");
}

/* ---- training --------------------------------------------------------------------------------------------------- */

static void train_options(options *o, const char *run, const char *made) {
    fixture_options(o, temp_folder(), in_folder(run), true);
    snprintf(o->data.tokens, sizeof o->data.tokens, "%s", in_folder(made));
    o->cond.encoder = opt_cond_encoder_dinov2;
    o->cond.size = SIZE;
    o->dit.cond_width = WIDTH;
    o->train.batch_samples = 3;
}

static void refuses(const options *o, status_code code, const char *text) {
    status st = {0};
    if (trainer_run(o, &one, NULL, &st) != code || !strstr(st.text, text)) fail_msg("'%s', not '%s'", st.text, text);
}

static double last_loss(const char *run) {
    int64_t *step, n;
    double  *loss, last;
    char     path[PATH_CAP];
    status   st = {0};
    snprintf(path, sizeof path, "%.480s/metrics.jsonl", in_folder(run));
    if (!jsonl_series(path, "loss", &step, &loss, &n, &st)) fail_msg("%s", st.text);
    assert_true(n > 0);
    last = loss[n - 1];
    free(step);
    free(loss);
    return last;
}

static void train_to(options *o, int64_t steps) {
    status st = {0};
    o->train.steps = steps;
    if (trainer_run(o, &one, NULL, &st) != ST_OK) fail_msg("%s", st.text);
}

static void test_training(void **state) {
    (void)state;
    options         o, t;
    tokenize_report r;
    token_options(&t, "net.safetensors", "tokens");
    t.tokens.variants = 2;
    tokenize(&t, &r);
    train_options(&o, "run-whole", "tokens");
    train_to(&o, 6);
    train_options(&o, "run-part", "tokens");
    train_to(&o, 3);
    train_to(&o, 6);
    assert_true(isfinite(last_loss("run-part")) && last_loss("run-part") == last_loss("run-whole"));
    /* tokens of another encoder are not those the run learnt from */
    token_options(&t, "other.safetensors", "tokens-other");
    tokenize(&t, &r);
    train_options(&o, "run-part", "tokens-other");
    o.train.steps = 9;
    refuses(&o, ST_CONFIG, "another image encoder");
    /* and they matter: the first step's loss is another one */
    train_options(&o, "run-a", "tokens-other");
    train_to(&o, 2);
    train_options(&o, "run-b", "tokens");
    train_to(&o, 2);
    assert_true(last_loss("run-a") != last_loss("run-b"));
    train_options(&o, "run-c", "tokens");
    o.data.tokens[0] = 0;
    refuses(&o, ST_CONFIG, "data.tokens");
    train_options(&o, "run-c", "none");
    refuses(&o, ST_NO_INPUT, "none");
    train_options(&o, "run-c", "tokens");
    o.dit.cond_width = WIDTH / 2;
    refuses(&o, ST_CONFIG, "set it to 64");
    train_options(&o, "run-c", "tokens");
    o.dit.sparse_cond = false;
    refuses(&o, ST_CONFIG, "tokens.foreground=false");
    train_options(&o, "run-c", "tokens");
    o.cond.size = 28;
    refuses(&o, ST_CONFIG, "set it to 56");
    /* all tokens, for a transformer that takes all */
    token_options(&t, "net.safetensors", "tokens-all");
    t.tokens.foreground = false;
    tokenize(&t, &r);
    assert_int_equal(r.n_tokens, r.n_views * (1 + REGISTERS + SIDE * SIDE));
    train_options(&o, "run-all", "tokens-all");
    o.dit.sparse_cond = false;
    train_to(&o, 2);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_wrong_weights), cmocka_unit_test(test_gated),
                                       cmocka_unit_test(test_positions),     cmocka_unit_test(test_data_set),
                                       cmocka_unit_test(test_same_bytes),    cmocka_unit_test(test_failures),
                                       cmocka_unit_test(test_training)};
    comm_start(&one, &argc, &argv);
    log_init(0, 1, LOG_WARN);
    int failed = cmocka_run_group_tests_name("tokens", tests, set_up, NULL);
    comm_finish(&one);
    return failed;
}
