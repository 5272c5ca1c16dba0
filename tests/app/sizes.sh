#!/bin/sh
# Samples of no tile, of one tile with one voxel near the surface, and of fifty times the median, through the whole path: the empty
# one is left out, the others are trained on, alike on any number of ranks.   sizes.sh D3S2 MPIRUN SHARD_TOOL
set -u
here=$(dirname "$0")
. "$here/lib.sh"
. "$here/fault_lib.sh"
tool=$3
tiny=$here/tiny.yaml
mkdir "$tmp/data" "$tmp/nothing"
"$tool" sizes "$tmp/data/shard-0.h5" 8 0 1 8 8 8 400 1 8 || fail "no shard"
"$tool" sizes "$tmp/nothing/shard-0.h5" 0 || fail "no shard of an empty sample"
"$d3s2" check "$tmp/data" >"$tmp/out" 2>"$tmp/err"
rc=$?
code 65 "check"
said "sample 1 \(sample-1\): has no tile" "check"
losses() { sed -E 's/^\{"step":([0-9]+),"loss":([0-9.e-]+).*/\1 \2/' "$1/metrics.jsonl"; }

# alike WHAT ARGS...: on 1 and 3 ranks, with batches of 4 and of one sample, where two ranks have nothing.
alike() {
    what=$1
    shift
    for batch in 4 1; do
        for ranks in 1 3; do
            job $ranks "" "$@" train.batch_samples=$batch train.steps=8 train.run="$tmp/$what-$batch-$ranks" train.checkpoint_every=0
            code 0 "$what, batches of $batch on $ranks ranks"
            said "data: 8 samples \(1 left out\), 442 tokens, largest 400" "$what, batches of $batch on $ranks ranks"
        done
        losses "$tmp/$what-$batch-1" >"$tmp/one"
        losses "$tmp/$what-$batch-3" | paste -d ' ' "$tmp/one" - |
            awk '{ d = $2 / $4 - 1; n += $1 == $3 && d * d < 1e-10 } END { exit n != 8 }' || fail "$what, batches of $batch: $(cat "$tmp/one")"
    done
}
alike vae data.train="$tmp/data"
run encode encode.input="$tmp/data" encode.vae="$tmp/vae-4-1" encode.output="$tmp/latents" train.device=cpu
expect_ok "ok " check "$tmp/latents"
alike dit data.train="$tmp/data" data.latents="$tmp/latents" train.model=dit dit.resolution=8

# Nothing but empty samples: refused with the numbers.
both 66 "holds no sample to train on (1 left out" train --config "$tiny" data.train="$tmp/nothing" train.run="$tmp/run"
finish "sizes"
