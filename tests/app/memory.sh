#!/bin/sh
# Memory runs out on one rank: it recomputes more and the run has the same losses; or one line with rank, host and sizes, and all end
# within seconds with code 72. What can be known is told before the first step.   memory.sh D3S2 MPIRUN SHARD_TOOL
set -u
here=$(dirname "$0")
. "$here/lib.sh"
. "$here/fault_lib.sh"
tiny=$here/tiny.yaml
meshes "$tmp/meshes" 4
run prep prep.input="$tmp/meshes" prep.output="$tmp/data" prep.resolution=32 prep.views=1 prep.view_size=32 prep.min_tiles=1
set -- data.train="$tmp/data" train.batch_samples=4 train.checkpoint_every=0 train.steps=4
losses() { sed 's/,"grad_norm".*//' "$1/metrics.jsonl"; }

job 2 "" "$@" train.run="$tmp/golden"
code 0 "memory enough"
job 2 "fail=ENOMEM@engine.room:1,rank=1" "$@" train.run="$tmp/less"
code 0 "less memory for activations"
said "warning: rank 1: no memory on this host for [0-9.]+ MB of activations: more is recomputed" "less memory for activations"
[ "$(losses "$tmp/less")" = "$(losses "$tmp/golden")" ] || fail "less memory for activations: other losses"

# ends FAULT TEXT WHAT ARGS...
ends() {
    fault=$1 text=$2 what=$3
    shift 3
    job 2 "$fault" "$@" train.run="$tmp/run"
    code 72 "$what"
    said "$text" "$what"
    later "$(when 'fault: rank 1')" "$(date +%s.%N)" 5 "$what: ended after"
    rm -rf "$tmp/run"
}
ends "fail=ENOMEM@engine.room:1-,rank=1" "error: rank 1 on .*: no memory for [0-9]+ MB of activations of .* are left: lower train" \
    "no memory for activations" "$@"
ends "fail=ENOMEM@engine.room:1-,rank=1" "error: rank 1 on .*, or set train.recompute=auto" "no memory, nothing recomputed" "$@" \
    train.recompute=off
cp -r "$tmp/data" "$tmp/heldout"
# Every evaluation takes memory for a batch.
ends "fail=ENOMEM@arena.new:24,rank=1" "fatal: rank 1 of 2 on .*: no memory for arena .*: [0-9.]+ MB; [0-9]+ MB are left here" \
    "no memory for a batch" "$@" train.steps=40 train.eval_every=1 data.heldout="$tmp/heldout"

# A dry run of samples that a CPU takes long for only counts, and says what the host would have to give.
mkdir "$tmp/large"
box "$tmp/large/box.obj" 1 1 1
run prep prep.input="$tmp/large" prep.output="$tmp/large-data" prep.resolution=256 prep.views=1 prep.view_size=32
run train --config "$tiny" "$@" data.train="$tmp/large-data" train.run="$tmp/large-run" train.batch_samples=1 --dry-run
grep -q "time: not measured" "$tmp/err" || fail "a large dry run: timed"
plan="memory of the host: [1-9][0-9]* MB for activations,"
grep -Eq "$plan [1-9][0-9]* weights and optimiser, [1-9][0-9]* scratch, .* share of what is left is [1-9]" "$tmp/err" ||
    fail "a large dry run: no plan"
[ ! -e "$tmp/large-run" ] || fail "a dry run left a folder"

# A batch of more tokens than the data set has takes samples several times, and is counted so.
run train --config "$tiny" "$@" train.run="$tmp/large-run" train.batch_tokens=20000 train.micro_tokens=2000 --dry-run
full=$(sed -nE 's/.*the fullest has ([0-9]+) in ([0-9]+) samples.*/\1 \2/p' "$tmp/err")
[ "${full% *}" -gt 1500 ] && [ "${full% *}" -le 2000 ] && [ "${full#* }" -gt 4 ] || fail "a batch over the data set: counted as $full"
expect 78 "train.batch_tokens = 9000000000000000000 is some" train --config "$tiny" "$@" train.run="$tmp/large-run" \
    train.batch_tokens=9000000000000000000

# A limit that is real: of address space. A sanitizer needs too much of that.
if ! ldd "$d3s2" | grep -q asan; then
    ulimit -S -v 1200000
    # limited WHAT ARGS...: a model too wide for that, refused with code 72
    limited() {
        what=$1
        shift
        "$d3s2" train --config "$tiny" "$@" train.run="$tmp/run" vae.width=256 'vae.enc_widths=[128,128,128]' \
            'vae.dec_widths=[256,256,256]' >"$tmp/out" 2>"$tmp/err"
        rc=$?
        code 72 "$what"
    }
    limited "a model too large for this host" "$@" --dry-run
    # Told before memory is taken, or, where libraries of a GPU fill address space, when the weights find none.
    said "(error: rank 0 on|fatal: rank 0 of 1 on) .*(needs|no memory for) .*[0-9]+ MB" "a model too large for this host"
    ulimit -S -v 2400000
    set -- "$@" data.train="$tmp/large-data" train.batch_samples=1
    needs="error: rank 0 on .*: a micro-batch of [0-9]+ tiles.* needs [0-9]+ MB"
    left="its share of the host's memory leaves [0-9]+:"
    for dry in "" --dry-run; do
        what="a sample too large for this host $dry"
        limited "$what" "$@" $dry
        said "$needs with .* recomputed, $left start fewer ranks" "$what"
        said "$plan" "$what"
        [ ! -s "$tmp/run/metrics.jsonl" ] || fail "$what: it began"
    done
    what="more than there is in train.memory_mb"
    limited "$what" "$@" train.memory_mb=90000
    said "$needs within train.memory_mb=90000, $left lower train.memory_mb" "$what"
fi
finish "memory"
