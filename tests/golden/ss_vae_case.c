#include "golden/ss_vae_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- rows by coordinate --------------------------------------------------------------------------------------- */

static uint64_t key_of(const int32_t *p) {
    return (uint64_t)p[0] << 60 | (uint64_t)p[1] << 40 | (uint64_t)p[2] << 20 | (uint64_t)p[3];
}

static int by_key(const void *a, const void *b) {
    uint64_t x = ((const row_at *)a)->key, y = ((const row_at *)b)->key;
    return (x > y) - (x < y);
}

int64_t row_map_find(const row_map *m, const int32_t coord4[4]) {
    row_at        want = {.key = key_of(coord4)};
    const row_at *r = bsearch(&want, m->at, (size_t)m->n, sizeof want, by_key);
    CHECK(r, "no row at (%d,%d,%d,%d)", coord4[0], coord4[1], coord4[2], coord4[3]);
    return r->row;
}

row_map row_map_level(const vae_case *v, const grid *g) {
    row_map        m = {.at = malloc((size_t)(g->n_rows + 1) * sizeof *m.at)};
    const int32_t *tile_first = I32(&v->b.sample_first);
    int            cells = g->side * g->side * g->side, words = cells > 64 ? cells / 64 : 1;
    for (int s = 0; s < g->n_samples; s++)
        for (int64_t t = tile_first[s]; t < tile_first[s + 1]; t++)
            for (int c = 0; c < cells; c++) {
                if (g->mask.data && !(U64(&g->mask)[t * words + c / 64] >> (c % 64) & 1)) continue;
                const int32_t *p = I32(&v->b.coord) + 3 * t;
                int            x, y, z;
                morton_decode(c, &x, &y, &z);
                int32_t at[4] = {s, p[0] * g->side + x, p[1] * g->side + y, p[2] * g->side + z};
                m.at[m.n] = (row_at){key_of(at), m.n};
                m.n++;
            }
    CHECK(m.n == g->n_rows, "%lld rows listed, %lld expected", (long long)m.n, (long long)g->n_rows);
    qsort(m.at, (size_t)m.n, sizeof *m.at, by_key);
    return m;
}

static float *permute(const row_map *m, const float *x, const int32_t *coord4, int64_t n, int64_t width, bool ours) {
    int64_t rows = ours ? m->n : n;
    float  *out = malloc((size_t)(rows * width + 1) * sizeof *out);
    poison(out, (size_t)(rows * width) * sizeof *out);
    for (int64_t i = 0; i < n; i++) {
        int64_t r = row_map_find(m, coord4 + 4 * i);
        memcpy(out + (ours ? r : i) * width, x + (ours ? i : r) * width, (size_t)width * sizeof *out);
    }
    return out;
}

float *to_ours(const row_map *m, const float *golden, const int32_t *coord4, int64_t n, int64_t width) {
    return permute(m, golden, coord4, n, width, true);
}

float *to_golden(const row_map *m, const float *ours, const int32_t *coord4, int64_t n, int64_t width) {
    return permute(m, ours, coord4, n, width, false);
}

/* The stored error of an array of a few elements is a few draws, down to a tenth of a float's half ulp; below this size
 * the median over all gradients of the file counts if it is larger. */
enum { FEW = 16 };

void expect_golden(const rig *r, h5_file f, const char *path, const char *like, const float *got, int64_t n) {
    h5_dims d;
    float  *want = h5_f32(f, path, &d);
    if (d.count != n) fail_msg("%s: %lld values, %lld expected", path, (long long)n, (long long)d.count);
    double rel = net_bound(r, f, like, "rel_l2"), abs = net_bound(r, f, like, "max_abs");
    if (n < FEW) {
        double typical = net_bound(r, f, "/vae", "grad_median_rel_l2"), largest = 0;
        for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(want[i]));
        rel = fmax(rel, typical);
        abs = fmax(abs, typical * largest);
    }
    if (h5_attr_double(f, path, "analytically_zero", 0) == 0)
        net_judge(r, rel_l2(got, want, n), rel, h5_path("%s, relative L2", path));
    /* In bf16 the largest error of an array is an extreme of a single run, theirs and ours: three times theirs. The L2
     * error above stays within twice. */
    net_judge(r, max_abs(got, want, n) / (r->bf16 ? 1.5 : 1), abs, h5_path("%s, largest error", path));
    free(want);
}

/* ---- the model ------------------------------------------------------------------------------------------------ */

static int attr(h5_file f, const char *name) {
    return (int)h5_attr_double(f, "/vae", name, NAN);
}

static int64_t weight_dim(h5_file f, const char *name, int axis) {
    h5_dims d;
    free(h5_f32(f, h5_path("/vae/weights/%s", name), &d));
    return d.n[axis];
}

static ssvae_config read_config(h5_file f) {
    ssvae_config c = {.width = attr(f, "model_channels_encoder"),
                      .width_dec = attr(f, "model_channels_decoder"),
                      .blocks_enc = attr(f, "num_blocks_encoder"),
                      .blocks_dec = attr(f, "num_blocks_decoder"),
                      .heads = attr(f, "num_heads_encoder"),
                      .heads_dec = attr(f, "num_heads_decoder"),
                      .latent_channels = attr(f, "embed_dim"),
                      .groups = attr(f, "num_groups"),
                      .window = attr(f, "window_size"),
                      .pool_add_one = true,
                      .factor = 1};
    c.mlp_ratio = (int)weight_dim(f, "encoder.blocks.0.mlp.mlp.0.weight", 0) / c.width;
    for (int i = 0; i < SSVAE_LEVELS; i++) {
        c.enc_width[i] = (int)weight_dim(f, h5_path("encoder.downsample.%d.act_layers.0.weight", i), 0);
        c.dec_width[i] = (int)weight_dim(f, h5_path("decoder.upsample.%d.out_layers.0.conv.bias", i), 0);
    }
    return c;
}

static void load_weights(vae_case *v) {
    int    n;
    char **names = h5_list(v->file, "/vae/weights", &n);
    assert_int_equal(n, v->m.p.n);
    for (int i = 0; i < n; i++) {
        param *p = params_find(&v->m.p, names[i]);
        if (!p) fail_msg("%s is not a parameter", names[i]);
        h5_dims d;
        float  *w = h5_f32(v->file, h5_path("/vae/weights/%s", names[i]), &d);
        assert_int_equal(d.rank, p->n_dims);
        for (int k = 0; k < d.rank; k++) assert_int_equal(d.n[k], p->dim[k]);
        rig_set_weight(&v->m.p, p, w);
        free(w);
    }
    rig_weights_done(&v->r, &v->m.p);
    h5_list_free(names, n);
}

void vae_case_open(vae_case *v, const char *backend, size_t mb) {
    *v = (vae_case){.file = h5_open(golden_path("ss_vae"))};
    rig_open(&v->r, backend, mb);
    ssvae_config cfg = read_config(v->file);
    ssvae_init(&v->m, &cfg);
    rig_params(&v->r, &v->m.p);
    load_weights(v);
}

void vae_case_close(vae_case *v) {
    free(v->tile_row.at);
    ssvae_free(&v->m);
    rig_close(&v->r);
    h5_close(v->file);
}

void vae_case_batch(vae_case *v, const int32_t *coord4, int64_t n, const int32_t *voxel4, const float *sdf,
                    int64_t n_voxels) {
    int samples = n ? coord4[4 * (n - 1)] + 1 : 1;
    arena_reset(&v->r.host, 0);
    tensor first = arena_tensor(&v->r.host, DT_I32, DIMS(samples + 1)),
           coord = arena_tensor(&v->r.host, DT_I32, DIMS(n, 3));
    int32_t *plain = arena_alloc(&v->r.host, (size_t)n * 3 * sizeof *plain),
            *order = arena_alloc(&v->r.host, (size_t)n * sizeof *order);
    memset(first.data, 0, tensor_bytes(&first));
    for (int64_t i = 0; i < n; i++) {
        memcpy(plain + 3 * i, coord4 + 4 * i + 1, 3 * sizeof *plain);
        I32(&first)[coord4[4 * i] + 1]++;
    }
    for (int s = 0; s < samples; s++) I32(&first)[s + 1] += I32(&first)[s];
    blocks_sort(plain, I32(&first), samples, v->m.cfg.window, order);
    for (int64_t i = 0; i < n; i++) memcpy(I32(&coord) + 3 * i, plain + 3 * (int64_t)order[i], 3 * sizeof *plain);

    v->b = (ssvae_batch){.coord = coord, .sample_first = first};
    grid tiles = {.side = 1, .n_tiles = n, .n_rows = n, .n_samples = samples};
    free(v->tile_row.at);
    v->tile_row = row_map_level(v, &tiles);

    float *value = NULL;
    if (sdf) { /* any value below 1 marks a voxel; its own value, which may be 1 to rounding, follows below */
        value = arena_alloc(&v->r.host, (size_t)n * 512 * sizeof *value);
        for (int64_t i = 0; i < n * 512; i++) value[i] = 1;
        for (int64_t i = 0; i < n_voxels; i++) {
            const int32_t *p = voxel4 + 4 * i, tile[4] = {p[0], p[1] / 8, p[2] / 8, p[3] / 8};
            value[512 * row_map_find(&v->tile_row, tile) + morton_encode(p[1] % 8, p[2] % 8, p[3] % 8)] = 0;
        }
    }
    v->b = ssvae_batch_build(&v->r.host, &v->m.cfg, 0, &coord, &first, value);
    if (sdf) {
        row_map voxels = row_map_level(v, &v->b.enc[0]);
        assert_int_equal(voxels.n, n_voxels);
        float *ours = to_ours(&voxels, sdf, voxel4, n_voxels, 1);
        memcpy(v->b.sdf.data, ours, (size_t)n_voxels * sizeof *ours);
        free(ours);
        free(voxels.at);
    }
    arena_reset(&v->r.sent, 0);
    v->sent = v->b;
    ssvae_batch_tensors(&v->sent, rig_send_visit, &v->r);
}
