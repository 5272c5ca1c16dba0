#include "train/grid_range.h"

#include <math.h>

const char *const grid_number_names[GRID_NUMBERS] = {"resolution_least", "resolution_most", "tau_least", "tau_most"};

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static int64_t most(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static grid_range one(int resolution, double tau_voxels) {
    int64_t tau = llround(tau_voxels * 256 / resolution * 1e6);
    return (grid_range){resolution, resolution, tau, tau};
}

grid_range grid_range_join(grid_range a, grid_range b) {
    if (a.most == 0) return b;
    if (b.most == 0) return a;
    return (grid_range){least(a.least, b.least), most(a.most, b.most), least(a.tau_least, b.tau_least),
                        most(a.tau_most, b.tau_most)};
}

grid_range grid_range_of(const dataset *d) {
    grid_range g = {0};
    for (int i = 0; i < d->n_folders; i++)
        g = grid_range_join(g, one(d->folder[i].resolution, d->folder[i].tau_voxels));
    return g;
}

grid_range grid_range_read(const ckpt_manifest *m) {
    int64_t v[GRID_NUMBERS];
    for (int i = 0; i < GRID_NUMBERS; i++) v[i] = ckpt_number_of(m, grid_number_names[i], 0);
    return (grid_range){v[0], v[1], v[2], v[3]};
}

void grid_range_warn(const grid_range *g, const char *path, const dataset *d) {
    grid_range here = grid_range_of(d);
    if (g->most == 0) return; /* an older checkpoint */
    if (here.least < g->least || here.most > g->most)
        log_warn(
            "%s was trained on grids of R = %lld to %lld, the data have R = %d: it has not seen such positions; use "
            "data of its grids",
            path, (long long)g->least, (long long)g->most, d->resolution);
    if (here.tau_least < g->tau_least || here.tau_most > g->tau_most)
        log_warn("%s was trained on values within %.4g to %.4g voxels at R = 256, the data's are within %.4g: the "
                 "values mean other distances than those it learnt; prepare them with its prep.tau_voxels",
                 path, 1e-6 * (double)g->tau_least, 1e-6 * (double)g->tau_most, 1e-6 * (double)here.tau_most);
}
