#!/bin/sh
# The command line: one clear line on stderr, the right exit code, on one rank and on two.   cli.sh D3S2 [MPIRUN]
set -u
. "$(dirname "$0")/lib.sh"

# ---- help and verbs
for verb in prep split check info train encode tokens sample eval report export import; do
    expect_ok "d3s2 $verb" "$verb" --help
    expect_ok "d3s2 $verb" help "$verb"
    for part in usage: example: --dry-run; do grep -qF -- "$part" "$tmp/out" || fail "$verb --help: no $part"; done
done
expect_ok "train.steps=" train --help
expect_ok "sample.guidance=" sample --help
expect_ok "sample.ema=" export --help
grep -q "sample.steps" "$tmp/out" && fail "export --help shows options that it does not use"
expect 64 "--tiles is not known" sample --tiles "$tmp"
expect_ok "usage:" help
expect_ok "usage:" --help
expect_ok "d3s2 " version
expect_ok "processor" info --device
expect 64 "did you mean 'train'" trian
expect 64 "did you mean 'report'" raport x
expect 64 "did you mean 'train'" help trian
"$d3s2" >"$tmp/out" 2>"$tmp/err"
[ $? -eq 64 ] || fail "no verb"

# ---- options
expect 64 "did you mean train.steps" train train.stpes=3
expect 64 "train.steps" train train.steps=many
expect 64 "train.steps" train train.steps=-1
expect 64 "train.lr" train train.lr=1e9
expect 64 "train.model" train train.model=gan
expect 64 "--frobnicate" train --frobnicate
expect 64 "--config" train --config
expect 66 "$tmp/none.yaml" train --config "$tmp/none.yaml"
printf 'train:\n  stesp: 3\n' >"$tmp/wrong.yaml"
expect 64 "did you mean train.steps" train --config "$tmp/wrong.yaml"
expect 64 "argument" train "$tmp"
expect 64 "one of auto, cpu, ref, cuda" train --device tpu
expect 64 "--device" train --device
expect 64 "--weights needs" tokens --weights
expect 64 "one of patches, dinov2" tokens --encoder clip
expect 78 "has no GPU to use" train --device cuda
expect 78 "train.precision" train --device cpu train.precision=bf16
expect 64 "multiple of 8" prep prep.input="$tmp" prep.output="$tmp/o" prep.resolution=100
expect 64 "100 is not a multiple of 8" prep prep.input="$tmp" prep.output="$tmp/o" "prep.resolutions=[64, 100]"

# ---- files
expect 64 "needs a path" check
tiny=$(dirname "$0")/tiny.yaml
expect_ok "ok       configuration" check --config "$tiny" train.model=dit
expect 64 "wrong.yaml:2" check --config "$tmp/wrong.yaml"
expect 78 "vae.heads" check --config "$tiny" vae.heads=3
expect_ok "GPU" info
expect 66 "$tmp/none" check "$tmp/none"
expect 66 "$tmp/none" info "$tmp/none"
mkdir "$tmp/empty"
expect 66 "$tmp/empty" check "$tmp/empty"
expect 66 "$tmp/empty" report "$tmp/empty"
expect 66 "$tmp/none" report "$tmp/none"
expect 64 "one folder" report
echo "this is no HDF5 file" >"$tmp/shard-0.h5"
expect 65 "1 of 1 files are wrong" check "$tmp/shard-0.h5"
grep -q WRONG "$tmp/out" || fail "check: no WRONG in the table"
expect 65 "shard-0.h5" info "$tmp/shard-0.h5"
: >"$tmp/empty/shard-0.h5"
expect 65 "1 of 1 files are wrong" check "$tmp/empty"
expect 64 "prep.input" prep
expect 66 "$tmp/none" prep prep.input="$tmp/none" prep.output="$tmp/o"
expect 64 "encode.input" encode
expect 64 "tokens.input" tokens
expect 64 "--encoder dinov2" tokens tokens.input=a tokens.output="$tmp/o"
expect 64 "sample.checkpoint" sample "$tmp"
expect 64 "eval.checkpoint" eval "$tmp"
expect 64 "one folder of shards" sample sample.checkpoint=a sample.vae=b sample.output="$tmp/o"
expect 66 "$tmp/none" sample "$tmp/none" sample.checkpoint=a sample.vae=b sample.output="$tmp/o"
expect 66 "$tmp/none" eval "$tmp/none" eval.checkpoint=a eval.output="$tmp/o"
expect 64 "sample.level" sample "$tmp" sample.checkpoint=a sample.vae=b sample.output="$tmp/o" sample.level=1
expect 64 "export takes" export "$tmp"
expect 66 "$tmp/none" export "$tmp/none" "$tmp/w.safetensors"
expect 64 "import takes" import "$tmp"
expect 66 "$tmp/none" import "$tmp/none" "$tmp/run"
head -c 100 /dev/zero >"$tmp/zero.safetensors"
expect 65 "zero.safetensors" import "$tmp/zero.safetensors" "$tmp/run"

[ ! -e "$tmp/run" ] || fail "a failed import left a folder"

# A folder that may not be read (root reads everything: then there is nothing to test).
mkdir "$tmp/locked"
chmod 000 "$tmp/locked"
if [ "$(id -u)" -ne 0 ]; then expect 66 "$tmp/locked" check "$tmp/locked"; fi
chmod 700 "$tmp/locked"

# ---- a data set of one cube: prepared, checked twice, told about, and none of it changed by that
mkdir "$tmp/meshes"
box "$tmp/meshes/cube.obj" 1 1 1
"$d3s2" prep prep.input="$tmp/meshes" prep.output="$tmp/data" prep.resolution=32 prep.views=1 prep.view_size=32 prep.min_tiles=1 \
    >"$tmp/out" 2>"$tmp/err" || fail "prep of a cube"
find "$tmp/data" -type f -exec cksum {} + | sort >"$tmp/before"
[ "$(grep -c 'shard-.*h5$' "$tmp/before")" -eq 1 ] || fail "prep of a cube: not one shard"
expect_ok "ok " check "$tmp/data"
expect_ok "ok " check "$tmp/data"
expect_ok "samples     1 with 1 views" info "$tmp/data"
expect_ok ".h5: shard" info --dry-run "$tmp/data"
find "$tmp/data" -type f -exec cksum {} + | sort >"$tmp/after"
cmp -s "$tmp/before" "$tmp/after" || fail "check and info change files"
expect 66 "none" sample "$tmp/data" sample.checkpoint="$tmp/none" sample.vae="$tmp/none" sample.output="$tmp/o"
expect 66 "none" eval "$tmp/data" eval.checkpoint="$tmp/none" eval.output="$tmp/o"
expect 66 "(encode.input)" encode encode.input="$tmp/none" encode.vae="$tmp/other" encode.output="$tmp/o"
expect 64 "bench --help" bench nosuchop
expect 64 "leaves none" prep prep.input="$tmp/meshes" prep.output="$tmp/o" prep.heldout_count=1
for shard in $(find "$tmp/data" -name 'shard-*.h5'); do
    size=$(wc -c <"$shard")
    head -c $((size / 2)) "$shard" >"$tmp/cut.h5"
    expect 65 "1 of 1 files are wrong" check "$tmp/cut.h5"
    [ -f "$tmp/cut.h5" ] || fail "check removes a damaged file"
done

[ ! -e "$tmp/o" ] || fail "a failed verb left a folder"

# ---- a report of what there is
mkdir -p "$tmp/exp/vae"
i=1
while [ $i -le 40 ]; do
    echo "{\"step\": $i, \"loss\": 0.$((90 - i))}"
    i=$((i + 1))
done >"$tmp/exp/vae/metrics.jsonl"
echo '{"step": 41, "loss": null}' >>"$tmp/exp/vae/metrics.jsonl"
echo 'train: {steps: "<b>&"}' >"$tmp/exp/vae/config.yaml"
expect_ok "report.html" report "$tmp/exp"
for text in "<svg" "Loss of vae" "proves nothing" "&lt;b&gt;&amp;" "</html>"; do
    grep -qF "$text" "$tmp/exp/report.html" || fail "report: no $text"
done
grep -q '"loss": 0.5' "$tmp/exp/summary.json" || fail "summary.json: no last loss"
grep -Eq '(src|href)="?https?:' "$tmp/exp/report.html" && fail "report: needs the network"
echo '{"kind": ' >"$tmp/exp/results.json"
expect 65 "results.json" report "$tmp/exp"

# ---- a chain of jobs is not submitted when its last one could not start
submitted() { # CODE TEXT WORDS...: no job begins
    code=$1 text=$2
    shift 2
    D3S2_BIN=$d3s2 D3S2_DEVICE=cpu "$(dirname "$0")/../../slurm/submit" all "$@" >"$tmp/out" 2>"$tmp/err"
    rc=$?
    [ $rc -eq "$code" ] && grep -qF -- "$text" "$tmp/err" && [ ! -s "$tmp/out" ] || fail "submit all $*: code $rc"
}
submitted 64 "wrong.yaml:2" "$tmp/meshes" "$tmp/work" "$tiny" "$tmp/wrong.yaml"
submitted 64 "none.yaml is not a file" "$tmp/meshes" "$tmp/work" "$tiny" "$tmp/none.yaml"
submitted 64 "none is not there" "$tmp/none" "$tmp/work" "$tiny" "$tiny"
printf 'train: {model: dit}\n' >"$tmp/dit.yaml"
submitted 64 "the order is" "$tmp/meshes" "$tmp/work" "$tmp/dit.yaml" "$tiny"

# ---- two ranks: one line, one code on both, and mpirun ends with it
if [ -n "$mpirun" ]; then
    both 64 "did you mean 'train'" trian
    both 64 "did you mean train.steps" train train.stpes=3
    both 64 "train.steps" train train.steps=many
    both 64 "[0, 10]" train train.lr=1e9
    both 66 "$tmp/none.yaml" train --config "$tmp/none.yaml"
    both 66 "$tmp/none" check "$tmp/none"
    both 66 "$tmp/none" sample "$tmp/none" sample.checkpoint=a sample.vae=b sample.output="$tmp/o"
    both 65 "files are wrong" check "$tmp/shard-0.h5"
    both 0 "" version
    [ "$(wc -l <"$tmp/out")" -eq 1 ] || fail "2 ranks: the version is not printed once"
    "$mpirun" -np 2 --oversubscribe "$d3s2" check "$tmp/none" >"$tmp/out" 2>"$tmp/err"
    [ $? -eq 66 ] || fail "mpirun does not end with the code of the ranks"
fi

finish "command line"
