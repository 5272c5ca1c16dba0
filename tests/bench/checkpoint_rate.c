/* Checkpoint parts against plain files on the same disk: checkpoint_rate FOLDER MEGABYTES [ROUNDS]. Each round writes
 * as much with 4 MB pwrites and one fsync, then as a checkpoint part, and reads the part back against its hashes. The
 * median of the rounds' ratios is the figure, as disks have moods. */
#include "harness/harness.h"
#include "io/checkpoint_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void must(bool ok, const status *st) {
    CHECK(ok, "%s", st->text);
}

static double plain_write(const char *folder, const char *data, size_t bytes) {
    char   path[PATH_CAP];
    status st = {0};
    must(join_path(folder, "plain", path, &st), &st);
    double t = now_seconds();
    int    fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0666);
    for (size_t at = 0; at < bytes;) {
        size_t  n = bytes - at < 4 << 20 ? bytes - at : 4 << 20;
        ssize_t put = pwrite(fd, data + at, n, (off_t)at);
        CHECK(put > 0, "%s: write failed", path);
        at += (size_t)put;
    }
    CHECK(fsync(fd) == 0, "%s: fsync failed", path);
    close(fd);
    t = now_seconds() - t;
    unlink(path);
    return t;
}

static double save(const char *folder, const float *data, int64_t count, const ckpt_manifest *m) {
    ckpt_slab slab = {"params", data, 0, count};
    status    st = {0};
    double    t = now_seconds();
    must(ckpt_save(folder, &slab, 1, m, &st), &st);
    return now_seconds() - t;
}

static double verify(const char *folder) {
    ckpt_manifest m;
    status        st = {0};
    char          step[PATH_CAP];
    must(join_path(folder, "step-1", step, &st), &st);
    double t = now_seconds();
    must(ckpt_open(step, &m, &st) && ckpt_verify(&m, &st), &st);
    t = now_seconds() - t;
    ckpt_close(&m);
    must(remove_tree(step, &st), &st);
    return t;
}

int main(int argc, char **argv) {
    CHECK(argc >= 3, "usage: checkpoint_rate FOLDER MEGABYTES [ROUNDS]");
    int64_t count = atoll(argv[2]) * 250000;
    int     rounds = argc > 3 ? atoi(argv[3]) : 3;
    size_t  bytes = (size_t)count * sizeof(float);
    float  *data = malloc(bytes), *copy = malloc(bytes);
    CHECK(data && copy && count > 0, "no memory for %zu bytes", bytes);
    fill_rule(data, count, 1, 2);
    memset(copy, 0, bytes);
    double t = now_seconds();
    memcpy(copy, data, bytes);
    t = now_seconds() - t;
    printf("memcpy of one thread %.2f GB/s\n", (double)bytes / 1e9 / t);
    ckpt_manifest m = {.step = 1, .model = "vae", .config = (char[]){""}};
    for (int i = 0; i < rounds; i++) {
        double plain = plain_write(argv[1], (const char *)data, bytes), part = save(argv[1], data, count, &m);
        double read = verify(argv[1]);
        printf("plain write %.3f s, %.2f GB/s; checkpoint %.3f s, %.2f GB/s (%.0f %%); read and checked %.2f GB/s\n",
               plain, (double)bytes / 1e9 / plain, part, (double)bytes / 1e9 / part, 100 * plain / part,
               (double)bytes / 1e9 / read);
    }
    free(data);
    free(copy);
    return 0;
}
