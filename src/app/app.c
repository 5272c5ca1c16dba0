#include "app/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const verb verbs[] = {
    {"prep", "meshes to shards of sparse signed distances and views", "d3s2 prep prep.input=FOLDER prep.output=FOLDER",
     "Searches a folder for meshes, normalises them, computes truncated signed distances on the tiles near the surface "
     "and\n"
     "renders condition views. Writes shards (in train/ and heldout/ when shapes are held out) and a list of what was "
     "rejected and why. Meshes are "
     "shared\n"
     "out over the ranks; shards that are already complete are kept.",
     "prep", "mpirun -np 4 d3s2 prep prep.input=meshes prep.output=data prep.resolution=128 prep.heldout_count=8", "",
     VERB_ALL_RANKS, verb_prep},
    {"split", "sets samples of a data set aside for evaluation",
     "d3s2 split FOLDER... prep.heldout_share=SHARE | prep.heldout_count=N",
     "Makes FOLDER/split/train and FOLDER/split/heldout, which every verb takes like folders of shards: small files "
     "that say\n"
     "which samples of which shard are meant, so nothing is copied and the data set must stay where it is beside them. "
     "The\n"
     "names of the sources decide, as in `d3s2 prep`: the same shapes in every grid, and shapes added later do not "
     "move "
     "others.\n"
     "A split that is there is replaced as a whole.",
     "split prep.heldout_count prep.heldout_share", "d3s2 split data/r256 data/r512 prep.heldout_share=0.05", "",
     VERB_RANK0, verb_split},
    {"check", "verifies shards, latents, checkpoints and configurations",
     "d3s2 check PATH... | d3s2 check --config FILE [section.key=value ...]",
     "Opens everything below the given files and folders, reads it whole and verifies order, ranges and checksums. "
     "Prints a\n"
     "table; the exit code is 65 when something is wrong. With options alone, as those of a training that is to be\n"
     "submitted, it says whether they can be read and go together.",
     "", "d3s2 check data runs/vae", "", VERB_RANK0, verb_check},
    {"info", "statistics of data sets; what this machine has", "d3s2 info PATH... | d3s2 info [--device]",
     "Prints samples, tokens (least, mean, most, histogram), voxels, share of active voxels, parts, open edges, views "
     "and "
     "categories of the\n"
     "shards in each folder, and what latents, tokens and checkpoints hold; info.sheet=FILE.png draws some of the "
     "shapes. --device, or no path, tells about processor, "
     "memory,\n"
     "GPUs and libraries.",
     "info", "d3s2 info data/train info.sheet=shapes.png", "--device", VERB_RANK0, verb_info},
    {"train", "trains the auto-encoder or the transformer",
     "d3s2 train --config FILE train.run=FOLDER [section.key=value ...]",
     "Trains the network that train.model names on data.train. A run folder that has checkpoints is continued. A "
     "signal\n"
     "(TERM, USR1, Ctrl-C) ends the run after a checkpoint with exit code 75: start it again to go on. --dry-run "
     "prints "
     "samples,\n"
     "tokens, memory and steps.",
     "data train vae dit cond flow",
     "mpirun -np 2 d3s2 train --config configs/quickstart_vae.yaml data.train=data/train train.run=runs/vae", "",
     VERB_ALL_RANKS, verb_train},
    {"encode", "latents of a data set, by a trained auto-encoder",
     "d3s2 encode encode.input=SHARDS encode.vae=VAE_RUN encode.output=FOLDER",
     "Writes the posterior of every tile, one file per shard. Shards whose latents are there from the same weights "
     "are\n"
     "kept. Shards are shared out over the ranks.",
     "encode train.device train.precision",
     "mpirun -np 2 d3s2 encode encode.input=data/train encode.vae=runs/vae encode.output=latents/train", "",
     VERB_ALL_RANKS, verb_encode},
    {"tokens", "condition tokens of views, by an image encoder with weights",
     "d3s2 tokens --encoder dinov2 --weights FILE.safetensors tokens.input=SHARDS tokens.output=FOLDER",
     "Runs every view through DINOv2 with registers (ViT-S/B/L/g, weights of its hub or of Hugging Face as "
     "safetensors; "
     "sizes\n"
     "come from the file) and writes one file of tokens per shard, for training with cond.encoder=dinov2 and "
     "data.tokens.\n"
     "Files that are there from the same weights and options are kept. Shards are shared out over the ranks.",
     "tokens cond.encoder cond.weights cond.size cond.pad_max cond.augment train.device train.precision",
     "mpirun -np 2 d3s2 tokens --encoder dinov2 --weights dinov2_vitl14_reg4.safetensors tokens.input=data/train "
     "tokens.output=tokens/train",
     "", VERB_ALL_RANKS, verb_tokens},
    {"sample", "generates shapes from views",
     "d3s2 sample SHARDS sample.checkpoint=DIT sample.vae=VAE sample.output=FOLDER",
     "Takes the active tiles of the first sample.count samples of SHARDS and one of their views (or sample.image) as "
     "the\n"
     "condition, generates latents, decodes them and writes a mesh and a JSON file each. Finding the active tiles is "
     "not\n"
     "part of this stage: they are given, so a small distance to the truth proves nothing by itself. Results that are "
     "there\n"
     "from the same weights and settings are kept. Samples are shared out over the ranks.",
     "sample cond.weights eval.points eval.f1_thresholds eval.seed data.resolution data.max_tiles train.device "
     "train.precision",
     "mpirun -np 2 d3s2 sample data/heldout sample.checkpoint=runs/dit sample.vae=runs/vae sample.output=out "
     "sample.count=8",
     "", VERB_ALL_RANKS, verb_sample},
    {"eval", "figures of quality on a data set",
     "d3s2 eval SHARDS eval.checkpoint=RUN [eval.vae=VAE_RUN] eval.output=FOLDER",
     "Of an auto-encoder: sign accuracy, error in the band, Chamfer distance, F1 and normal error of every shape, with "
     "means\n"
     "per category. Of a transformer (eval.vae given): the flow loss per time with the right view\n"
     "against another shape's view under the same noise, and the band error of generated shapes against decoded zero "
     "and\n"
     "random latents. Writes JSON and meshes.",
     "eval sample.level sample.steps sample.shift sample.guidance sample.seed sample.view cond.weights "
     "data.resolution data.max_tiles train.device train.precision",
     "mpirun -np 2 d3s2 eval data/heldout eval.checkpoint=runs/vae eval.output=out/vae", "", VERB_ALL_RANKS, verb_eval},
    {"report", "one page about a whole experiment",
     "d3s2 report FOLDER [report.output=FILE] | d3s2 report --scaling FILE.csv ... report.output=FOLDER",
     "Collects the runs, figures and meshes below FOLDER into report.html (one file, works offline) and summary.json.\n"
     "--scaling: rows of `d3s2 bench step --csv` over ranks into scaling.md, scaling.csv and plots, with what a model "
     "of\n"
     "the cluster.* options expects of more ranks (docs/scaling.md).",
     "report cluster", "d3s2 report quickstart-out", "--scaling", VERB_RANK0, verb_report},
    {"bench", "times operators", "d3s2 bench [...]", "See d3s2 bench --help.", "", "d3s2 bench", "", VERB_RAW_ARGS,
     verb_bench},
    {"export", "weights of a checkpoint to safetensors", "d3s2 export CHECKPOINT FILE.safetensors [sample.ema=false]",
     "Writes the averaged (sample.ema=false: the plain) weights of a step-N folder, or of the newest one of a run "
     "folder,\n"
     "under the published parameter names.",
     "sample.ema", "d3s2 export runs/vae vae.safetensors", "", VERB_RANK0, verb_export},
    {"import", "safetensors weights to a checkpoint",
     "d3s2 import FILE.safetensors RUN --config FILE train.model=vae|dit",
     "Reads weights under the published parameter names into a checkpoint at step 0 of a run folder; train from it "
     "with\n"
     "train.init_from. The configuration must be that of the weights; every name and shape is checked.",
     "train.model train.seed vae dit", "d3s2 import vae.safetensors runs/vae --config configs/vae_512.yaml", "",
     VERB_RANK0, verb_import},
};
enum { N_VERBS = sizeof verbs / sizeof verbs[0] };

static const verb *find_verb(const char *name, const char **near) {
    int best = 1 << 20;
    for (int i = 0; i < N_VERBS; i++) {
        if (strcmp(name, verbs[i].name) == 0) return &verbs[i];
        int d = word_distance(name, verbs[i].name);
        if (d < best) best = d, *near = verbs[i].name;
    }
    return NULL;
}

static void print_overview(FILE *f) {
    fprintf(f,
            "d3s2 %s: trains Direct3D-S2 (sparse SDF auto-encoder and diffusion transformer) and generates meshes\n\n"
            "usage: [mpirun -np N] d3s2 VERB [--config FILE] [--device NAME] [--dry-run] [section.key=value ...] [PATH "
            "...]\n\n",
            D3S2_VERSION);
    for (int i = 0; i < N_VERBS; i++) fprintf(f, "  %-8s %s\n", verbs[i].name, verbs[i].summary);
    fprintf(f,
            "  %-8s %s\n  %-8s %s\n\n'd3s2 VERB --help' tells more, with all options of the verb and their defaults.\n",
            "help", "this page", "version", "the version");
}

static void print_help(const verb *v, FILE *f) {
    fprintf(f, "d3s2 %s: %s\n\nusage: %s\n\n%s\n\nexample: %s\n", v->name, v->summary, v->usage, v->text, v->example);
    fprintf(f, "\n  --dry-run           print the plan and stop\n");
    if (*v->options) {
        fprintf(f, "  --config FILE       YAML file with sections of options; may be repeated\n"
                   "  section.key=value   set one option\n");
        if (strstr(v->options, "train.device") || v->run == verb_train)
            fprintf(f, "  --device NAME       the same as train.device=NAME: auto, cpu, ref, cuda\n");
        if (strstr(v->options, "cond.weights"))
            fprintf(f, "  --weights FILE      the same as cond.weights=FILE: DINOv2 with registers, safetensors\n");
        if (v->run == verb_tokens || v->run == verb_train)
            fprintf(f, "  --encoder NAME      the same as cond.encoder=NAME: patches, dinov2\n");
        fprintf(f, "\noptions:\n");
        options_help(f, v->options);
    }
}

static bool wants_help(int argc, char **argv) {
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return true;
    return false;
}

static bool run_verb(const verb *v, const comm *world, int argc, char **argv, status *st) {
    app      a = {.world = world, .argc = argc, .argv = argv};
    options *o = a.opt = malloc(sizeof *o);
    CHECK(o, "no memory for the options");
    for (int i = 1; i < a.argc && v->kind != VERB_RAW_ARGS && *v->flag;
         i++) { /* the table of options does not know it */
        if (strcmp(argv[i], v->flag) != 0) continue;
        a.flag = true;
        memmove(argv + i, argv + i + 1, (size_t)(a.argc - i) * sizeof *argv);
        a.argc--;
    }
    bool ok = v->kind == VERB_RAW_ARGS || options_parse(a.argc, argv, o, st);
    ok = comm_agree(world, st) && ok;
    if (ok && (v->kind != VERB_RANK0 || world->rank == 0)) ok = v->run(&a, st);
    if (!ok && v->kind != VERB_RAW_ARGS) options_name_path(o, st);
    free(o);
    return ok;
}

int app_main(const comm *world, int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "", *near = "";
    status      st = {0};
    bool        first = world->rank == 0;
    bool        help = !strcmp(name, "help") || !strcmp(name, "--help") || !strcmp(name, "-h");
    if (help && argc == 2) {
        if (first) print_overview(stdout);
        return ST_OK;
    }
    if (help) name = argv[2];
    if (!strcmp(name, "version") || !strcmp(name, "--version")) {
        if (first) printf("d3s2 %s, git %s\n", D3S2_VERSION, D3S2_GIT_HASH);
        return ST_OK;
    }
    const verb *v = find_verb(name, &near);
    if (!*name) {
        if (first) print_overview(stderr);
        status_set(&st, ST_USAGE, "which verb? 'd3s2 help' lists them");
    } else if (!v) {
        status_set(&st, ST_USAGE, "'%.60s' is not a verb; did you mean '%s'? 'd3s2 help' lists them", name, near);
    } else if (help || (v->kind != VERB_RAW_ARGS && wants_help(argc - 1, argv + 1))) {
        if (first) print_help(v, stdout);
    } else {
        run_verb(v, world, argc - 1, argv + 1, &st);
    }
    fflush(stdout);
    comm_agree(world, &st);
    /* A failure without words has been told already (bench). */
    if (first && !status_ok(&st) && st.text[0])
        fprintf(stderr, "d3s2: %s%s\n", st.code == ST_REQUEUE ? "" : "error: ", st.text);
    return (int)st.code;
}
