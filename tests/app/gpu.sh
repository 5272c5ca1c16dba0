#!/bin/sh
# The whole program on a GPU: train, go on, encode, sample, evaluate; and what it says where ranks and GPUs do not fit.
# Exit code 77: no GPU here.   gpu.sh D3S2 MPIRUN SHARD_TOOL
set -u
here=$(dirname "$0")
. "$here/lib.sh"
tiny=$here/tiny.yaml
"$d3s2" info --device >"$tmp/info"
if ! grep -q '^GPU 0 ' "$tmp/info"; then
    sed -n 's/^GPUs *//p' "$tmp/info"
    exit 77
fi
cat "$tmp/info"
grep -q '^CUDA .*NCCL 2\.' "$tmp/info" || fail "info: no versions"
grep -q '^back ends .*cuda' "$tmp/info" || fail "info: no back end cuda"

mkdir "$tmp/meshes"
for i in 1 2 3 4; do box "$tmp/meshes/box-$i.obj" 1 "0.$((i + 3))" "0.$((9 - i))"; done
run prep prep.input="$tmp/meshes" prep.output="$tmp/data" prep.resolution=32 prep.views=1 prep.view_size=32 prep.min_tiles=1
vae="train --config $tiny --device cuda data.train=$tmp/data train.run=$tmp/vae"

run $vae --dry-run
cat "$tmp/out" "$tmp/err" | grep -q 'device: cuda, bf16: ' || fail "dry run: no GPU"
cat "$tmp/out" "$tmp/err" | grep 'memory of the GPU' || fail "dry run: no memory"
[ ! -e "$tmp/vae" ] || fail "dry run: left a folder"
run $vae
run $vae train.steps=4
grep -q '"step": *4' "$tmp/vae/metrics.jsonl" || fail "the run did not go on"
run encode --device cuda encode.input="$tmp/data" encode.vae="$tmp/vae" encode.output="$tmp/latents"
run train --config "$tiny" --device cuda train.model=dit data.train="$tmp/data" data.latents="$tmp/latents" train.run="$tmp/dit"
run sample "$tmp/data" --device cuda sample.checkpoint="$tmp/dit" sample.vae="$tmp/vae" sample.output="$tmp/samples" sample.count=2 \
    sample.steps=3 eval.points=1000
run eval "$tmp/data" --device cuda eval.checkpoint="$tmp/vae" eval.output="$tmp/eval-vae" eval.points=1000
run eval "$tmp/data" --device cuda eval.checkpoint="$tmp/dit" eval.vae="$tmp/vae" eval.output="$tmp/eval-dit" eval.points=1000 \
    eval.generate=1 sample.steps=3
run check "$tmp/vae" "$tmp/dit" "$tmp/latents"
export CUDA_VISIBLE_DEVICES=0
if [ -n "$mpirun" ]; then
    both 78 "share one GPU" $vae train.steps=8
    both 0 "" sample "$tmp/data" --device cuda sample.checkpoint="$tmp/dit" sample.vae="$tmp/vae" sample.output="$tmp/samples-2" \
        sample.count=2 sample.steps=3 eval.points=1000
fi
# On the CPU from what the GPU trained, and the other way round. Nothing is sampled with this auto-encoder from here on:
# it is no longer the one that encoded the latents.
run train --config "$tiny" --device cpu data.train="$tmp/data" train.run="$tmp/vae" train.steps=5
run $vae train.steps=6

export CUDA_VISIBLE_DEVICES=
expect 78 "has no GPU to use" $vae train.steps=8
run train --config "$tiny" --device auto data.train="$tmp/data" train.run="$tmp/vae" train.steps=7

finish "GPU"
