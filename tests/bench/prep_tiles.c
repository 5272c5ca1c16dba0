/* Mesh to tiles, timed: prep_tiles R[,R...] MESH...
 *
 * For every mesh and grid a line with processor seconds of the shape (weld, tree, closure; once a mesh) and of each
 * grid (field, flood, tiles), and the peak of memory so far. With vdb_tool on the PATH the same mesh goes through
 * `-mesh2ls` on the same grid, half width tau voxels but at least 4, and its processor seconds without reading the file
 * are shown with the ratio. */
#include "data_prep/import.h"
#include "data_prep/normalize.h"
#include "data_prep/sdf.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static double seconds_of(const struct rusage *r) {
    return (double)(r->ru_utime.tv_sec + r->ru_stime.tv_sec) +
           1e-6 * (double)(r->ru_utime.tv_usec + r->ru_stime.tv_usec);
}

static double used(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return seconds_of(&r);
}

/* Processor seconds and peak memory of a command; seconds < 0: it cannot be run. */
static double run(char *const argv[], long *mbytes) {
    struct rusage r;
    int           state;
    pid_t         child = fork();
    if (child == 0) {
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 1), dup2(null, 2);
        execvp(argv[0], argv);
        _exit(127);
    }
    if (child < 0 || wait4(child, &state, 0, &r) != child || !WIFEXITED(state) || WEXITSTATUS(state) != 0) return -1;
    *mbytes = r.ru_maxrss / 1024;
    return seconds_of(&r);
}

/* The mesh in `file` on the grid of resolution R; negative without vdb_tool. */
static double openvdb(const char *file, int R, double tau, long *mbytes) {
    char name[4096], voxel[64], width[64];
    snprintf(name, sizeof name, "%s", file);
    snprintf(voxel, sizeof voxel, "voxel=%.9g", 2.0 / (R - 1));
    snprintf(width, sizeof width, "width=%g", fmax(4, tau));
    char *read[] = {"vdb_tool", "-read", name, NULL},
         *all[] = {"vdb_tool", "-read", name, "-mesh2ls", voxel, width, NULL};
    double whole = run(all, mbytes), load = whole < 0 ? -1 : run(read, &(long){0});
    return load < 0 ? -1 : whole - load;
}

static bool one_mesh(const char *path, const int *R, int n, status *st) {
    import_limits limits = import_default_limits();
    scene         sc;
    sdf_shape     shape;
    double        center[3], scale, t0 = 0;
    char          file[64];
    int           coarsest = R[0];
    for (int k = 1; k < n; k++) coarsest = R[k] < coarsest ? R[k] : coarsest;
    sdf_options o = sdf_default_options(coarsest, coarsest / 256.0);
    const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    if (!import_scene(path, &limits, &sc, st)) return false;
    bool good = normalize_of(&sc.m, path, center, &scale, st);
    if (good) {
        normalize_apply(&sc.m, center, scale);
        t0 = used();
        good = sdf_shape_build(&sc.m, &o, path, &shape, st);
    }
    double t_shape = used() - t0;
    snprintf(file, sizeof file, "/tmp/prep_tiles-%d.obj", (int)getpid());
    good = good && mesh_write(file, &sc.m, st);
    for (int k = 0; k < n && good; k++) {
        sdf_field     f;
        sdf_tiles     t;
        struct rusage r;
        long          vdb_mb = 0;
        o = sdf_default_options(R[k], R[k] / 256.0);
        t0 = used();
        good = sdf_field_build(&shape, &o, path, &f, st) && sdf_tiles_build(&f, &shape.s, &o, path, &t, st);
        if (!good) break;
        double own = used() - t0, vdb = openvdb(file, R[k], o.tau_voxels, &vdb_mb);
        getrusage(RUSAGE_SELF, &r);
        printf("%-28.28s R %4d faces %7lld tiles %7lld: shape %.2f grid %.2f s, %ld MB", name, R[k],
               (long long)sc.m.n_faces, (long long)t.n_tiles, t_shape, own, r.ru_maxrss / 1024);
        if (vdb >= 0) printf("; vdb_tool %.2f s, %ld MB; ratio %.2f", vdb, vdb_mb, (t_shape + own) / vdb);
        printf("\n");
        fflush(stdout);
        sdf_tiles_free(&t), sdf_field_free(&f);
    }
    unlink(file);
    if (good) sdf_shape_free(&shape);
    scene_free(&sc);
    return good;
}

int main(int argc, char **argv) {
    int  R[16], n = 0;
    bool good = true;
    log_init(0, 1, LOG_QUIET);
    for (char *p = argc > 2 ? argv[1] : ""; *p && n < 16; p += *p == ',') R[n++] = (int)strtol(p, &p, 10);
    if (n == 0) {
        fprintf(stderr, "prep_tiles R[,R...] MESH...\n");
        return 64;
    }
    for (int i = 2; i < argc; i++) {
        status st = {0};
        if (one_mesh(argv[i], R, n, &st)) continue;
        fprintf(stderr, "%s\n", st.text);
        good = false;
    }
    return good ? 0 : 1;
}
