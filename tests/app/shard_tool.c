/* What a shell cannot do to a shard:   shard_tool list SHARD... | attr SHARD NAME VALUE | flip SHARD TABLE | dino FILE
 * SEED list: the sources of the samples. attr: an integer attribute of the root. flip: one bit in the first chunk of a
 * table. dino: random weights of a small DINOv2. */
#include "data/shard.h"
#include "golden/dino_weights.h"
#include "io/h5.h"

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
    if (argc == 4 && strcmp(argv[1], "dino") == 0) return dino(argv[2], (uint32_t)atoll(argv[3]));
    fputs("usage: shard_tool list SHARD... | attr SHARD NAME VALUE | flip SHARD TABLE | dino FILE SEED\n", stderr);
    return ST_USAGE;
}
