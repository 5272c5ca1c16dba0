/* What a shell cannot do to a shard:
 *   shard_tool list SHARD...              the sources of the samples
 *   shard_tool attr SHARD NAME VALUE      an integer attribute of the root
 *   shard_tool flip SHARD TABLE           one bit in the first chunk of a table
 *   shard_tool sizes SHARD TILES...       a shard of resolution 64 with samples of so many tiles, one voxel of each
 * tile near shard_tool dino FILE SEED             random weights of a small DINOv2 */
#include "data/shard.h"
#include "golden/dino_weights.h"
#include "core/half.h"
#include "core/rng.h"
#include "io/h5.h"
#include "io/image.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int list(int n, char **path) {
    for (int i = 0; i < n; i++) {
        shard  s;
        status st = {0};
        CHECK(shard_open(&s, path[i], &st), "%s", st.text);
        for (int64_t k = 0; k < s.n_samples; k++) puts(s.source[k]);
        shard_close(&s);
    }
    return 0;
}

static int set_attr(const char *path, const char *name, int64_t value) {
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT), a = H5Aopen(file, name, H5P_DEFAULT);
    CHECK(a >= 0 && H5Awrite(a, H5T_NATIVE_INT64, &value) >= 0, "%s: attribute %s cannot be set", path, name);
    H5Aclose(a);
    H5Fclose(file);
    return 0;
}

static int flip(const char *path, const char *table) {
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT), d = H5Dopen2(file, table, H5P_DEFAULT),
          space = H5Dget_space(d);
    hsize_t  offset[H5S_MAX_RANK], size;
    haddr_t  at;
    unsigned mask;
    CHECK(H5Dget_chunk_info(d, space, 0, offset, &mask, &at, &size) >= 0, "%s: no chunk of %s", path, table);
    H5Sclose(space);
    H5Dclose(d);
    H5Fclose(file);
    FILE *f = fopen(path, "r+b");
    long  middle = (long)(at + size / 2);
    CHECK(f && fseek(f, middle, SEEK_SET) == 0, "%s: cannot be opened", path);
    int byte = fgetc(f);
    CHECK(byte != EOF && fseek(f, middle, SEEK_SET) == 0 && fputc(byte ^ 0x10, f) != EOF && fclose(f) == 0,
          "%s: byte %ld cannot be changed", path, middle);
    return 0;
}

/* A grid of 64^3 is one block of 8^3 tiles: their order is that of their places. */
static void add_sample(shard_writer *w, int number, int64_t n) {
    char    name[32];
    uint8_t pixel[28 * 28 * 4] = {0};
    image   im = {28, 28, 4, pixel};
    status  st = {0};
    snprintf(name, sizeof name, "sample-%d", number);
    CHECK(n >= 0 && n <= 512, "%lld tiles", (long long)n);
    sample s = {
        .id = hash_text(name), .source = name, .category = "", .report = "{}", .scale = 1, .n_tiles = n, .n_views = 1};
    s.coord = calloc((size_t)n * 3 + 1, sizeof *s.coord);
    s.value = malloc((size_t)(n * TILE_CELLS + 1) * sizeof *s.value);
    s.sharp = calloc((size_t)n + 1, TILE_SHARP_BYTES);
    CHECK(s.coord && s.value && s.sharp, "no memory for %lld tiles", (long long)n);
    for (int64_t t = 0; t < n; t++) {
        s.coord[3 * t] = (uint16_t)(t >> 6);
        s.coord[3 * t + 1] = (uint16_t)(t >> 3 & 7);
        s.coord[3 * t + 2] = (uint16_t)(t & 7);
    }
    for (int64_t i = 0; i < n * TILE_CELLS; i++) s.value[i] = f32_to_f16(i % TILE_CELLS == 77 ? 0.25f : 1);
    for (size_t i = 0; i < sizeof pixel; i++) pixel[i] = (uint8_t)(i % 4 == 3 ? 255 : i * 3 + (size_t)number);
    uint8_t *png;
    int64_t  png_size;
    float    camera[VIEW_CAMERA_FLOATS] = {[20] = 28, [21] = 28};
    CHECK(image_encode_png(&im, &png, &png_size, &st), "%s", st.text);
    s.camera = camera;
    s.png = &png;
    s.png_size = &png_size;
    CHECK(shard_append(w, &s, &st), "%s", st.text);
    free(png);
    free(s.coord);
    free(s.value);
    free(s.sharp);
}

static int sizes(const char *path, int n, char **tiles) {
    status        st = {0};
    shard_writer *w = shard_create(path, &(shard_meta){64, 2.0}, &st);
    CHECK(w, "%s", st.text);
    for (int i = 0; i < n; i++) add_sample(w, i, atoll(tiles[i]));
    CHECK(shard_finish(w, &st), "%s", st.text);
    return 0;
}

static int dino(const char *path, uint32_t seed) {
    static dino_weights w;
    dino_weights_random(&w, 64, 2, 2, 4, 4, false, seed);
    dino_weights_write(&w, true, path);
    dino_weights_free(&w);
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 2 && strcmp(argv[1], "list") == 0) return list(argc - 2, argv + 2);
    if (argc == 5 && strcmp(argv[1], "attr") == 0) return set_attr(argv[2], argv[3], atoll(argv[4]));
    if (argc == 4 && strcmp(argv[1], "flip") == 0) return flip(argv[2], argv[3]);
    if (argc > 3 && strcmp(argv[1], "sizes") == 0) return sizes(argv[2], argc - 3, argv + 3);
    if (argc == 4 && strcmp(argv[1], "dino") == 0) return dino(argv[2], (uint32_t)atoll(argv[3]));
    fputs("usage: shard_tool list SHARD... | attr SHARD NAME VALUE | flip SHARD TABLE | sizes SHARD TILES... | dino "
          "FILE SEED\n",
          stderr);
    return ST_USAGE;
}
