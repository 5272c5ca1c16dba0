/* The whole SSA layer against the published module: output, all gradients, and what happens inside. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "golden/ssa_check.h"

static ssa_config config_of(h5_file f, const char *g, const char *pe_path) {
    char   *version = h5_attr_string(f, g, "compression_version");
    h5_dims pe;
    free(h5_f32(f, pe_path, &pe));
    ssa_config c = {.width = net_int(f, g, "hidden_size"),
                    .heads = net_int(f, g, "num_q_heads"),
                    .kv_heads = net_int(f, g, "num_kv_heads"),
                    .head_dim = net_int(f, g, "head_dim"),
                    .m_cmp = (int)pe.n[0],
                    .m_slc = net_int(f, g, "selection_block_size"),
                    .m_win = net_int(f, g, "window_size"),
                    .top_k = net_int(f, g, "topk"),
                    .groups = (int)h5_attr_double(f, g, "compression_num_groups", 32),
                    .pool_add_one = true,
                    .compression = strcmp(version, "v2") == 0 ? COMPRESSION_V2 : COMPRESSION_V1};
    free(version);
    return c;
}

static void module_matches(void **state) {
    const net_case *k = *state;
    h5_file         f = k->f;
    const char     *g = k->group;
    rig             n;
    rig_open(&n, k->backend, NET_MB);
    ssa_config cfg = config_of(f, g, h5_path("%s/weights/intra_block_pe", g));
    params     p;
    ssa_layer  layer;
    params_init(&p);
    ssa_add_params(&layer, &p, &cfg, 0, "");
    net_load(&n, &p, f, g);

    tensor coord, first;
    net_coords(&n.host, f, h5_path("%s/in/coords", g), -1, &coord, &first);
    tensor       x = net_f32(&n.host, f, h5_path("%s/in/x", g)), dy = net_f32(&n.host, f, h5_path("%s/in/grad_out", g));
    block_tables b = blocks_build(&n.host, &coord, &first, cfg.m_cmp, cfg.m_slc, cfg.compression == COMPRESSION_V2);
    window_tables w = windows_build(&n.host, &coord, &first, cfg.m_win, net_int(f, g, "shift_window"), true, cfg.m_slc);

    tape_begin(&n.t);
    ssa_trace                trace;
    var                     *in = tape_leaf(&n.t, x, true), *y = ssa_forward(&n.t, &cfg, &layer, in, &b, &w, &trace);
    double                   bound = NET_BOUND * h5_attr_double(f, g, "fp32_out_worst_rel_l2", NAN);
    double                   inside = ssa_check(f, h5_path("%s/aux", g), &b, &trace, bound);
    int64_t                  rows = y->v.dim[0];
    static const char *const branch[] = {"cmp_out", "sel_out", "win_out"};
    for (int i = 0; i < 3; i++)
        inside = fmax(inside, net_compare_rel(f, h5_path("%s/aux/%s", g, branch[i]), F32(&trace.branch[i]->v),
                                              tensor_count(&trace.branch[i]->v), bound));
    float *gate = malloc((size_t)(3 * rows + 1) * sizeof *gate);
    assert_non_null(gate);
    for (int64_t i = 0; i < 3 * rows; i++) gate[i] = (float)(1 / (1 + exp(-(double)F32(&trace.gate->v)[i])));
    inside = fmax(inside, net_compare_rel(f, h5_path("%s/aux/gate", g), gate, 3 * rows, bound));
    free(gate);

    double out = net_compare(f, h5_path("%s/out/y", g), F32(&y->v), tensor_count(&y->v));
    tape_seed(&n.t, y, &dy);
    tape_backward(&n.t);
    double grad = net_compare_grads(f, g, &p);
    grad = fmax(grad, net_compare(f, h5_path("%s/grads_in/x", g), F32(&in->g), tensor_count(&in->g)));
    print_message("%s on %s: error / bound: inside %.2f, output %.2f, gradients %.2f\n", g, k->backend, inside, out,
                  grad);
    params_free(&p);
    rig_close(&n);
}

int main(void) {
    return net_run_cases("ssa_module", module_matches);
}
