/* The whole SSA layer against the published module: output, all gradients, and what happens inside. */
#include <math.h>
#include <stdio.h>
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
    tensor        x = rig_send(&n, net_f32(&n.host, f, h5_path("%s/in/x", g)));
    tensor        dy = rig_send(&n, net_f32(&n.host, f, h5_path("%s/in/grad_out", g)));
    block_tables  b = blocks_build(&n.host, &coord, &first, cfg.m_cmp, cfg.m_slc, cfg.compression == COMPRESSION_V2);
    block_tables  sent = b;
    window_tables w = windows_build(&n.host, &coord, &first, cfg.m_win, net_int(f, g, "shift_window"), true, cfg.m_slc);
    block_tensors(&sent, rig_send_visit, &n);
    window_tensors(&w, rig_send_visit, &n);
    char aux[64];
    snprintf(aux, sizeof aux, "%s/aux", g);
    ssa_fix_selection(&n, f, (const char *const[]){aux}, 1, &b);

    tape_begin(&n.t);
    ssa_trace                trace;
    var                     *in = tape_leaf(&n.t, x, true);
    var                     *y = ssa_forward(&n.t, &cfg, &layer, nn_cast(&n.t, in, n.c.act), &sent, &w, &trace);
    double                   bound = net_bound(&n, f, g, "out_worst_rel_l2");
    double                   inside = ssa_check(&n, f, aux, &b, &trace, bound);
    static const char *const branch[] = {"cmp_out", "sel_out", "win_out"};
    for (int i = 0; i < 3; i++)
        inside = fmax(inside, net_compare_rel(&n, f, h5_path("%s/aux/%s", g, branch[i]), &trace.branch[i]->v, bound));
    const float *z = rig_f32(&n, &trace.gate->v);
    tensor       gate = arena_tensor(&n.host, DT_F32, trace.gate->v.dim, 2);
    for (int64_t i = 0; i < tensor_count(&gate); i++) F32(&gate)[i] = (float)(1 / (1 + exp(-(double)z[i])));
    inside = fmax(inside, net_compare_rel(&n, f, h5_path("%s/aux/gate", g), &gate, bound));

    double out = net_compare(&n, f, h5_path("%s/out/y", g), &y->v);
    tape_seed(&n.t, y, &dy);
    tape_backward(&n.t);
    double grad = net_compare_grads(&n, f, g, &p);
    grad = fmax(grad, net_compare(&n, f, h5_path("%s/grads_in/x", g), &in->g));
    print_message("%s on %s: error / bound: inside %.2f, output %.2f, gradients %.2f\n", g, k->backend, inside, out,
                  grad);
    params_free(&p);
    rig_close(&n);
}

int main(int argc, char **argv) {
    return net_run_cases(argc, argv, "ssa_module", module_matches);
}
