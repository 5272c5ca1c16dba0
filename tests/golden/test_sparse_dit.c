/* The sparse diffusion transformer against the published model: output, all gradients, and what happens inside. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "golden/ssa_check.h"

static ssdit_config config_of(h5_file f, const char *g) {
    char        *version = h5_attr_string(f, g, "compression_version");
    ssdit_config c = {.ssa = {.width = net_int(f, g, "model_channels"),
                              .heads = net_int(f, g, "num_heads"),
                              .kv_heads = net_int(f, g, "num_kv_heads"),
                              .head_dim = net_int(f, g, "head_dim"),
                              .m_cmp = net_int(f, g, "compression_block_size"),
                              .m_slc = net_int(f, g, "selection_block_size"),
                              .m_win = net_int(f, g, "window_size"),
                              .top_k = net_int(f, g, "topk"),
                              .groups = (int)h5_attr_double(f, g, "compression_num_groups", 32),
                              .pool_add_one = true,
                              .compression = strcmp(version, "v2") == 0 ? COMPRESSION_V2 : COMPRESSION_V1},
                      .blocks = net_int(f, g, "num_blocks"),
                      .mlp_ratio = net_int(f, g, "mlp_ratio"),
                      .in_channels = net_int(f, g, "in_channels"),
                      .out_channels = net_int(f, g, "out_channels"),
                      .cond_width = net_int(f, g, "cond_channels"),
                      .sparse_cond = net_int(f, g, "sparse_conditions") != 0,
                      .share_mod = net_int(f, g, "share_mod") != 0,
                      .cross_norm = net_int(f, g, "qk_rms_norm_cross") != 0,
                      .shift = net_int(f, g, "use_shift") ? SHIFT_ALTERNATE : SHIFT_ALWAYS, /* as published, R§11 Q6 */
                      .time_width = net_int(f, g, "frequency_embedding_size"),
                      .resolution = net_int(f, g, "resolution"),
                      .factor = h5_attr_double(f, g, "factor", NAN)};
    free(version);
    return c;
}

/* Condition rows (L,C) and where each sample's begin: rows with coordinates, or (B,L,C). */
static tensor condition(rig *n, const net_case *k, bool sparse, int n_samples, tensor *coord, tensor *first) {
    tensor c = net_f32(&n->host, k->f, h5_path("%s/in/cond", k->group));
    if (sparse) {
        net_coords(&n->host, k->f, h5_path("%s/in/cond_coords", k->group), n_samples, coord, first);
        return c;
    }
    assert_int_equal(c.dim[0], n_samples);
    *coord = (tensor){0};
    *first = arena_tensor(&n->host, DT_I32, DIMS(n_samples + 1));
    for (int s = 0; s <= n_samples; s++) I32(first)[s] = (int32_t)(s * c.dim[1]);
    return tensor_view(&c, DIMS(c.dim[0] * c.dim[1], c.dim[2]));
}

static double check_inside(rig *n, const net_case *k, const ssdit_batch *b, const ssdit_trace *trace, int blocks) {
    h5_file     f = k->f;
    const char *g = k->group;
    double      bound = net_bound(n, f, g, "out_worst_rel_l2");
    double      worst = net_compare_rel(n, f, h5_path("%s/aux/t_emb", g), &trace->time->v, bound);
    worst = fmax(worst, net_compare_rel(n, f, h5_path("%s/aux/block0_in", g), &trace->in->v, bound));
    for (int i = 0; i < blocks; i++) {
        worst = fmax(worst, ssa_check(n, f, h5_path("%s/aux/ssa%d", g, i), &b->blocks, &trace->ssa[i], bound));
        worst = fmax(worst, net_compare_rel(n, f, h5_path("%s/aux/block%d_out", g, i), &trace->out[i]->v, bound));
    }
    return worst;
}

static void fix_selection(rig *n, const net_case *k, const ssdit_batch *b, int blocks) {
    enum { MOST = 8 };
    char        text[MOST][64];
    const char *group[MOST];
    assert_in_range(blocks, 1, MOST);
    for (int i = 0; i < blocks; i++) {
        snprintf(text[i], sizeof text[i], "%s/aux/ssa%d", k->group, i);
        group[i] = text[i];
    }
    ssa_fix_selection(n, k->f, group, blocks, &b->blocks);
}

static void model_matches(void **state) {
    const net_case *k = *state;
    h5_file         f = k->f;
    const char     *g = k->group;
    rig             n;
    rig_open(&n, k->backend, NET_MB);
    ssdit_config cfg = config_of(f, g);
    ssdit        m;
    ssdit_init(&m, &cfg);
    net_load(&n, &m.p, f, g);

    tensor coord, first, cond_coord, cond_first;
    net_coords(&n.host, f, h5_path("%s/in/coords", g), -1, &coord, &first);
    tensor      x = rig_send(&n, net_f32(&n.host, f, h5_path("%s/in/x", g)));
    tensor      time = rig_send(&n, net_f32(&n.host, f, h5_path("%s/in/t", g)));
    tensor      dy = rig_send(&n, net_f32(&n.host, f, h5_path("%s/in/grad_out", g)));
    tensor      c = condition(&n, k, cfg.sparse_cond, (int)first.dim[0] - 1, &cond_coord, &cond_first);
    ssdit_batch b = ssdit_batch_build(&n.host, &cfg, &coord, &first, &cond_first, &cond_coord), sent = b;
    c = rig_send(&n, c);
    ssdit_batch_tensors(&sent, rig_send_visit, &n);
    fix_selection(&n, k, &b, cfg.blocks);

    tape_begin(&n.t);
    ssdit_trace trace = {.ssa = calloc((size_t)cfg.blocks, sizeof *trace.ssa),
                         .out = calloc((size_t)cfg.blocks, sizeof *trace.out)};
    var        *in = tape_leaf(&n.t, x, true), *cond = tape_leaf(&n.t, c, true);
    var        *y = ssdit_forward_traced(&n.t, &m, &sent, in, &time, cond, &trace);
    double      inside = check_inside(&n, k, &b, &trace, cfg.blocks);
    double      out = net_compare(&n, f, h5_path("%s/out/y", g), &y->v);
    tape_seed(&n.t, y, &dy);
    tape_backward(&n.t);
    double grad = net_compare_grads(&n, f, g, &m.p);
    grad = fmax(grad, net_compare(&n, f, h5_path("%s/grads_in/x", g), &in->g));
    grad = fmax(grad, net_compare(&n, f, h5_path("%s/grads_in/cond", g), &cond->g));
    print_message("%s on %s: error / bound: inside %.2f, output %.2f, gradients %.2f\n", g, k->backend, inside, out,
                  grad);
    free(trace.ssa);
    free(trace.out);
    ssdit_free(&m);
    rig_close(&n);
}

int main(int argc, char **argv) {
    return net_run_cases(argc, argv, "sparse_dit", model_matches);
}
