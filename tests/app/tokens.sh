#!/bin/sh
# An image encoder with weights in every stage: tokens on one and two ranks, training, sampling and evaluation with them, and
# what is refused.   tokens.sh D3S2 MPIRUN SHARD_TOOL
set -u
here=$(dirname "$0")
. "$here/lib.sh"
tool=$3
tiny=$here/tiny.yaml

mkdir "$tmp/meshes"
for i in 1 2 3 4; do box "$tmp/meshes/box-$i.obj" 1 "0.$((i + 3))" "0.$((9 - i))"; done
run prep prep.input="$tmp/meshes" prep.output="$tmp/data" prep.resolution=32 prep.views=2 prep.view_size=48 prep.min_tiles=1 \
    prep.shapes_per_shard=2
run train --config "$tiny" data.train="$tmp/data" train.run="$tmp/vae"
run encode encode.input="$tmp/data" encode.vae="$tmp/vae" encode.output="$tmp/latents"
"$tool" dino "$tmp/net.safetensors" 1 || fail "weights"
"$tool" dino "$tmp/other.safetensors" 1000 || fail "weights"

# ---- tokens: two ranks write what one writes, to the byte; what is there is kept
make="tokens --config $tiny --encoder dinov2 tokens.input=$tmp/data"
run $make --weights "$tmp/net.safetensors" tokens.output="$tmp/tokens"
grep -Eq "tokens: [0-9.]+ views/s without the start; the network alone on one rank [0-9.]+ views/s, [1-9][0-9]* tokens/s" "$tmp/err" ||
    fail "tokens: no rate"
sleep 1 # no file holds the time it was made
both 0 "" $make --weights "$tmp/net.safetensors" tokens.output="$tmp/tokens-2"
for f in "$tmp"/tokens/*.h5; do
    cmp -s "$f" "$tmp/tokens-2/$(basename "$f")" || fail "two ranks write another $(basename "$f")"
done
content "$tmp/tokens" >"$tmp/before"
run $make --weights="$tmp/net.safetensors" tokens.output="$tmp/tokens"
grep -q "0 views of 0 shards to do, 2 shards are there" "$tmp/err" || fail "tokens: not kept"
content "$tmp/tokens" | cmp -s - "$tmp/before" || fail "tokens: kept files changed"
expect_ok "ok       tokens" check "$tmp/tokens"
expect_ok "foreground tokens of shard" info "$tmp/tokens"
run export "$tmp/vae" "$tmp/vae.safetensors"
both 65 "no class token" $make --weights "$tmp/vae.safetensors" tokens.output="$tmp/o"
both 66 "none.safetensors" $make --weights "$tmp/none.safetensors" tokens.output="$tmp/o"
[ ! -e "$tmp/o" ] || fail "a failed tokens left a folder"

both 78 "is a d3s2-shard file and stays" $make --weights "$tmp/net.safetensors" tokens.output="$tmp/data"
run check "$tmp/data"

# ---- training, sampling, evaluation
dit="train --config $tiny data.train=$tmp/data train.model=dit data.latents=$tmp/latents --encoder dinov2 dit.cond_width=64"
run $dit data.tokens="$tmp/tokens" train.run="$tmp/dit"
both 78 "data.tokens" $dit train.run="$tmp/dit-2"
sample="$tmp/data sample.checkpoint=$tmp/dit sample.vae=$tmp/vae sample.steps=2 eval.points=500"
expect 64 "--weights" sample $sample sample.output="$tmp/made"
expect 78 "are not the weights" sample $sample sample.output="$tmp/made" --weights "$tmp/other.safetensors"
run sample $sample sample.output="$tmp/made" --weights "$tmp/net.safetensors" --dry-run
need=$(sed -n 's/.*decoding the largest sample, \([0-9]* tiles: \)\([0-9.]* MB for activations\),.*/\1predicted \2/p' "$tmp/err")
[ -n "$need" ] && [ ! -e "$tmp/made" ] || fail "sample --dry-run: nothing said of decoding, or something written"
run sample $sample sample.output="$tmp/made" --weights "$tmp/net.safetensors"
grep -q "decoding $need" "$tmp/err" || fail "sample: its decoding takes other than '$need'"
ls "$tmp"/made/*-view.png >/dev/null 2>&1 || fail "sample: nothing written"
view=$(ls "$tmp"/made/*-view.png | head -n 1)
cp "$view" "$tmp/mine.png"
run sample $sample sample.output="$tmp/made-2" --weights "$tmp/net.safetensors" sample.image="$tmp/mine.png"
cmp -s "$(ls "$tmp"/made/*-latents.h5)" "$(ls "$tmp"/made-2/*-latents.h5)" || fail "an image file gives other latents than the same view"
run eval "$tmp/data" eval.checkpoint="$tmp/dit" eval.vae="$tmp/vae" eval.output="$tmp/eval" eval.points=500 eval.max_samples=2 \
    sample.steps=2 --weights "$tmp/net.safetensors"

finish "tokens"
