/* d3s2 export and import: weights between checkpoints and safetensors files, under the published names (R§10). */
#include "app/verbs.h"
#include "io/checkpoint_file.h"
#include "io/safetensors.h"
#include "train/setup.h"
#include "train/state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int64_t shape_count(const ckpt_param *p) {
    int64_t n = 1;
    for (int i = 0; i < p->rank; i++) n *= p->shape[i];
    return n;
}

static bool export_weights(const ckpt_manifest *m, const char *slab, const char *path, bool dry_run, status *st) {
    int64_t n = ckpt_slab_count(m, slab), numbers = 0;
    for (int i = 0; i < m->n_params; i++) numbers += shape_count(&m->param[i]);
    float       *w = malloc(sizeof *w * (size_t)(n + 1));
    safe_source *t = calloc((size_t)(m->n_params + 1), sizeof *t);
    CHECK(w && t, "no memory for %lld weights", (long long)n);
    for (int i = 0; i < m->n_params; i++) {
        const ckpt_param *p = &m->param[i];
        t[i] = (safe_source){.name = p->name, .dtype = SAFE_F32, .rank = p->rank, .data = w + p->offset};
        memcpy(t[i].shape, p->shape, sizeof t[i].shape);
    }
    char step[32];
    snprintf(step, sizeof step, "%lld", (long long)m->step);
    const char *const meta[4][2] = {{"format", "pt"}, {"model", m->model}, {"step", step}, {"weights", slab}};
    bool              ok =
        dry_run || (ckpt_read_range(m, slab, 0, n, w, st) && safetensors_write(path, t, m->n_params, meta, 4, st));
    free(t);
    free(w);
    if (ok)
        printf("%s: %d tensors, %lld numbers, slab %s of step %lld -> %s%s\n", m->folder, m->n_params,
               (long long)numbers, slab, (long long)m->step, path, dry_run ? " (not written)" : "");
    return ok;
}

bool verb_export(app *a, status *st) {
    const options *o = a->opt;
    ckpt_manifest  m;
    if (o->command.n_args != 2)
        return status_set(st, ST_USAGE,
                          "export takes a checkpoint and a file: d3s2 export CHECKPOINT FILE.safetensors");
    if (!ckpt_open_any(o->command.arg[0], false, &m, st)) return false;
    bool ema = o->sample.ema && ckpt_slab_count(&m, "ema") > 0;
    bool ok = export_weights(&m, ema ? "ema" : "params", o->command.arg[1], o->command.dry_run, st);
    ckpt_close(&m);
    return ok;
}

/* ---- import ---------------------------------------------------------------------------------------------------- */

static bool same_shape(const safe_tensor *t, const ckpt_param *p) {
    bool same = t->rank == p->rank;
    for (int i = 0; i < p->rank && same; i++) same = t->shape[i] == p->shape[i];
    return same;
}

static void shape_text(int rank, const int64_t *shape, char out[160]) {
    int n = snprintf(out, 160, "[");
    for (int i = 0; i < rank && n < 140; i++)
        n += snprintf(out + n, 160 - (size_t)n, "%s%lld", i ? "," : "", (long long)shape[i]);
    snprintf(out + n, 160 - (size_t)n, "]");
}

/* Every row of the table has its tensor, and every tensor its row. */
static bool read_weights(const safetensors *s, const ckpt_param *want, int n, float *w, status *st) {
    for (int i = 0; i < n; i++) {
        const safe_tensor *t = safetensors_find(s, want[i].name);
        char               a[160], b[160];
        if (!t)
            return status_set(st, ST_CONFIG, "%.200s: no tensor %.120s: give --config FILE of these weights", s->path,
                              want[i].name);
        if (!same_shape(t, &want[i])) {
            shape_text(t->rank, t->shape, a);
            shape_text(want[i].rank, want[i].shape, b);
            return status_set(
                st, ST_CONFIG,
                "%.160s: %.100s has shape %.80s, the configuration says %.80s: give --config FILE of these weights",
                s->path, want[i].name, a, b);
        }
        if (!safetensors_read(s, t, w + want[i].offset, st)) return false;
    }
    for (int k = 0; k < s->n; k++) {
        int i = 0;
        while (i < n && strcmp(want[i].name, s->tensor[k].name) != 0) i++;
        if (i == n)
            return status_set(st, ST_CONFIG, "%.200s: the model has no place for tensor %.120s", s->path,
                              s->tensor[k].name);
    }
    return true;
}

/* The checkpoint of a run would be continued, and pruned, together with the imported one. */
static bool run_is_free(const char *run, status *st) {
    ckpt_manifest m;
    status        none = {0};
    if (access(run, F_OK) != 0 || !ckpt_latest(run, false, &m, &none)) return true;
    int64_t step = m.step;
    ckpt_close(&m);
    return step == 0 || status_set(st, ST_CONFIG, "%s: holds a run at step %lld: import into a folder of its own", run,
                                   (long long)step);
}

static bool import_weights(const options *o, const char *model, const params *p, const char *file, const char *run,
                           status *st) {
    safetensors s;
    if (!run_is_free(run, st) || !safetensors_open(&s, file, st)) return false;
    ckpt_param *want = state_params(p);
    float      *w = calloc((size_t)p->total + 1, sizeof *w);
    char       *yaml = options_to_yaml(o);
    CHECK(want && w && yaml, "no memory for %lld weights", (long long)p->total);
    ckpt_manifest m = {.step = 0, .seed = (uint64_t)o->train.seed, .n_params = p->n, .param = want, .config = yaml};
    snprintf(m.model, sizeof m.model, "%s", model);
    ckpt_slab slab = {"params", w, 0, p->total};
    bool      ok = read_weights(&s, want, p->n, w, st);
    bool      dry_run = o->command.dry_run;
    ok = ok && (dry_run || (make_folder(run, st) && ckpt_save(run, &slab, 1, &m, st)));
    if (ok)
        printf("%s: %d tensors of the %s -> %s/step-0%s; train with train.init_from=%s\n", file, p->n, model, run,
               dry_run ? " (not written)" : "", run);
    safetensors_close(&s);
    free(want);
    free(w);
    free(yaml);
    return ok;
}

bool verb_import(app *a, status *st) {
    const options *o = a->opt;
    bool           ok;
    if (o->command.n_args != 2)
        return status_set(st, ST_USAGE,
                          "import takes a file and a run folder: d3s2 import FILE.safetensors RUN --config FILE");
    if (o->train.model == opt_train_model_vae) {
        ssvae        m;
        ssvae_config c = ssvae_config_of(o);
        ssvae_init(&m, &c);
        ok = import_weights(o, "vae", &m.p, o->command.arg[0], o->command.arg[1], st);
        ssvae_free(&m);
    } else {
        ssdit        m;
        ssdit_config c = ssdit_config_of(o);
        ssdit_init(&m, &c);
        ok = import_weights(o, "dit", &m.p, o->command.arg[0], o->command.arg[1], st);
        ssdit_free(&m);
    }
    return ok;
}
