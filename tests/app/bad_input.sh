#!/bin/sh
# Bad files and settings in every stage, on two ranks: one line that names the file and the mend, the same code on both ranks,
# nothing left that a later run would take for good.   bad_input.sh D3S2 MPIRUN SHARD_TOOL
set -u
here=$(dirname "$0")
. "$here/lib.sh"
tool=$3
tiny=$here/tiny.yaml
small="prep.resolution=32 prep.views=1 prep.view_size=32 prep.min_tiles=1 prep.shapes_per_shard=2"

# ---- meshes: the good ones go in, the others are counted and told
mkdir "$tmp/meshes" "$tmp/bad"
for i in 1 2 3 4; do box "$tmp/meshes/box-$i.obj" 1 "0.$((i + 3))" "0.$((9 - i))"; done
cp "$tmp/meshes/box-1.obj" "$tmp/bad/good.obj"
: >"$tmp/bad/empty.obj"
echo "this is no mesh" >"$tmp/bad/words.obj"
printf 'v 0 0 0\nv nan 0 0\nv 0 1 0\nf 1 2 3\n' >"$tmp/bad/nan.obj"
printf 'v 2 2 2\nv 2 2 2\nv 2 2 2\nf 1 2 3\n' >"$tmp/bad/point.obj"
head -c 3000 /dev/urandom >"$tmp/bad/noise.glb"
both 0 "" prep prep.input="$tmp/bad" prep.output="$tmp/bad-data" $small
grep -q "1 shapes in .*, 5 rejected" "$tmp/err" || fail "prep of bad meshes: wrong counts"
[ "$(wc -l <"$tmp/bad-data/rejects.jsonl")" -eq 5 ] || fail "prep of bad meshes: not five lines of rejects"
for name in empty words nan point noise; do
    grep "\"source\":\"$name\." "$tmp/bad-data/rejects.jsonl" | grep -q '"reason":"[^"]*'"$name"'\.[a-z]*: .' ||
        fail "prep: no reason for $name: $(cat "$tmp/bad-data/rejects.jsonl")"
done
[ "$("$tool" list "$tmp"/bad-data/shard-*.h5)" = "good.obj" ] || fail "prep of bad meshes: the good one is missing"
mkdir "$tmp/no-meshes"
both 66 "$tmp/no-meshes" prep prep.input="$tmp/no-meshes" prep.output="$tmp/o" $small
both 66 "$tmp/none" prep prep.input="$tmp/none" prep.output="$tmp/o" $small

# ---- the material of the rest: shards, two auto-encoders, their latents
run prep prep.input="$tmp/meshes" prep.output="$tmp/data" $small
set -- "$tmp"/data/shard-*.h5
[ $# -eq 2 ] || fail "prep: $# shards, not 2"
first=$1
run train --config "$tiny" data.train="$tmp/data" train.run="$tmp/vae"
run train --config "$tiny" data.train="$tmp/data" train.run="$tmp/vae-2" train.seed=2
for k in "" -2; do run encode encode.input="$tmp/data" encode.vae="$tmp/vae$k" encode.output="$tmp/latents$k"; done
dit="train.model=dit data.latents=$tmp/latents train.run=$tmp/dit"
run train --config "$tiny" data.train="$tmp/data" $dit

# ---- missing
train="train --config $tiny train.run=$tmp/run"
both 66 "$tmp/none" $train data.train="$tmp/none"
both 66 "$tmp/none" $train data.train="$tmp/data" train.init_from="$tmp/none"
both 66 "$tmp/none" $train data.train="$tmp/data" train.model=dit data.latents="$tmp/none"
both 66 "$tmp/none" encode encode.input="$tmp/data" encode.vae="$tmp/none" encode.output="$tmp/o"
both 66 "$tmp/none" encode encode.input="$tmp/none" encode.vae="$tmp/vae" encode.output="$tmp/o"

# ---- shards: cut, changed, of another version, of another grid. The sound data set is not touched, so a new folder each.
spoilt() {
    rm -rf "$tmp/spoilt"
    cp -r "$tmp/data" "$tmp/spoilt"
    bad=$tmp/spoilt/$(basename "$first")
}
use() { # every verb that reads shards refuses
    both "$1" "$2" $train data.train="$tmp/spoilt"
    both "$1" "$2" encode encode.input="$tmp/spoilt" encode.vae="$tmp/vae" encode.output="$tmp/o"
    both "$1" "$2" eval "$tmp/spoilt" eval.checkpoint="$tmp/vae" eval.output="$tmp/figures"
    [ -z "$(find "$tmp/run" "$tmp/o" "$tmp/figures" -name 'step-*' -o -name "$(basename "$bad")" -o -name results.json 2>/dev/null)" ] ||
        fail "$2: something was left"
    rm -rf "$tmp/run" "$tmp/o" "$tmp/figures"
}
spoilt
head -c 3000 "$first" >"$bad"
use 65 "$bad"
both 65 "remove it" prep prep.input="$tmp/meshes" prep.output="$tmp/spoilt" $small
rm "$bad"
both 0 "" prep prep.input="$tmp/meshes" prep.output="$tmp/spoilt" $small
[ "$("$tool" list "$tmp"/spoilt/shard-*.h5 | sort | tr '\n' ' ')" = "box-1.obj box-2.obj box-3.obj box-4.obj " ] ||
    fail "prep does not make a removed shard again"
spoilt
"$tool" attr "$bad" version 99
use 65 "version 99"
spoilt
"$tool" flip "$bad" tile/value
use 65 "$bad"
spoilt
run prep prep.input="$tmp/meshes" prep.output="$tmp/data-64" $small prep.resolution=64 prep.max_shapes=1
cp "$tmp"/data-64/shard-*.h5 "$tmp/spoilt/shard-64.h5"
use 65 "shard-64.h5"
both 78 "use another output folder" prep prep.input="$tmp/meshes" prep.output="$tmp/data" $small prep.resolution=64
both 78 "data.resolution" $train data.train="$tmp/data" data.resolution=64

# ---- latents and transformers of another auto-encoder
rm -rf "$tmp/mixed"
cp -r "$tmp/latents" "$tmp/mixed"
cp "$tmp/latents-2/$(basename "$first")" "$tmp/mixed/"
both 78 "$tmp/mixed" $train data.train="$tmp/data" train.model=dit data.latents="$tmp/mixed"
content "$tmp/dit" >"$tmp/before"
both 78 "another auto-encoder" train --config "$tiny" data.train="$tmp/data" $dit train.steps=3 data.latents="$tmp/latents-2"
both 78 "auto-encoder" sample "$tmp/data" sample.checkpoint="$tmp/dit" sample.vae="$tmp/vae-2" sample.output="$tmp/o"
both 78 "vae" sample "$tmp/data" sample.checkpoint="$tmp/vae" sample.vae="$tmp/vae" sample.output="$tmp/o"
both 78 "dit" encode encode.input="$tmp/data" encode.vae="$tmp/dit" encode.output="$tmp/o"

# ---- a folder for results that holds something else: nothing of it is touched
content "$tmp/data" >"$tmp/kept"
both 78 "is a d3s2-shard file and stays" encode encode.input="$tmp/data" encode.vae="$tmp/vae" encode.output="$tmp/data"
both 64 "sample.output=$tmp/data/. holds shard-" sample "$tmp/data" sample.checkpoint="$tmp/dit" sample.vae="$tmp/vae" \
    sample.output="$tmp/data/."
both 64 "eval.output=$tmp/data holds shard-" eval "$tmp/data" eval.checkpoint="$tmp/vae" eval.output="$tmp/data"
both 64 "give eval.vae=RUN" eval "$tmp/data" eval.checkpoint="$tmp/dit" eval.output="$tmp/o"
content "$tmp/data" >"$tmp/now"
cmp -s "$tmp/kept" "$tmp/now" || fail "a verb writes into its shards: $(diff "$tmp/kept" "$tmp/now")"
mkdir "$tmp/other-meshes"
box "$tmp/other-meshes/other.obj" 1 0.3 0.2
run prep prep.input="$tmp/other-meshes" prep.output="$tmp/other" $small
content "$tmp/latents" >"$tmp/kept"
both 78 "holds encoded latents of other shapes" encode encode.input="$tmp/other" encode.vae="$tmp/vae" encode.output="$tmp/latents"
content "$tmp/latents" >"$tmp/now"
cmp -s "$tmp/kept" "$tmp/now" || fail "latents of other shapes are replaced: $(diff "$tmp/kept" "$tmp/now")"

# ---- a configuration that does not fit the run's checkpoint: refused, and the run stays what it is
both 78 "shape" train --config "$tiny" data.train="$tmp/data" $dit train.steps=3 dit.width=64
both 78 "train.model" train --config "$tiny" data.train="$tmp/data" train.run="$tmp/dit" train.steps=3
content "$tmp/dit" >"$tmp/after"
cmp -s "$tmp/before" "$tmp/after" || fail "a refused continuation changes the run folder: $(diff "$tmp/before" "$tmp/after")"
both 0 "" train --config "$tiny" data.train="$tmp/data" $dit train.steps=3
[ "$(grep -c "changed since the last start" "$tmp/err")" -eq 1 ] && grep -q "start: train.steps: 2 -> 3" "$tmp/err" ||
    fail "other options of a run that goes on are not told"

# ---- what a run's checkpoints hold, its options once
expect_ok "checkpoint of the vae at step 2, 36689 parameters in 64 tensors, with averaged weights, with the optimiser" info "$tmp/vae"
[ "$(grep -c "vae.width: 512 -> 16" "$tmp/out")" -eq 1 ] && [ "$(grep -c "checkpoint of" "$tmp/out")" -eq 2 ] || fail "info: $(cat "$tmp/out")"
grep -q "vae.mlp_ratio" "$tmp/out" && fail "info: tells a default"

# ---- imported weights start a run, and go neither into one nor on as one
run export "$tmp/vae" "$tmp/vae.safetensors"
both 78 "holds a run at step 2" import "$tmp/vae.safetensors" "$tmp/vae" --config "$tiny"
[ ! -e "$tmp/vae/step-0" ] || fail "a refused import left a checkpoint"
for again in 1 2; do run import "$tmp/vae.safetensors" "$tmp/imported" --config "$tiny"; done
both 78 "train.init_from" train --config "$tiny" data.train="$tmp/data" train.run="$tmp/imported"
both 66 "d3s2 import" train --config "$tiny" data.train="$tmp/data" train.run="$tmp/run" train.init_from="$tmp/vae.safetensors"
both 0 "" train --config "$tiny" data.train="$tmp/data" train.run="$tmp/from-imported" train.init_from="$tmp/imported"

# ---- checkpoints: a damaged one is passed over, and without any other the run stops
rm -rf "$tmp/vae-3"
cp -r "$tmp/vae" "$tmp/vae-3"
head -c 1000 "$tmp/vae/step-2/part-00000.h5" >"$tmp/vae-3/step-2/part-00000.h5"
both 65 "step-2" encode encode.input="$tmp/data" encode.vae="$tmp/vae-3/step-2" encode.output="$tmp/o"
both 65 "files are wrong" check "$tmp/vae-3"
for step in "$tmp"/vae-3/step-*; do echo "{" >"$step/manifest.json"; done
content "$tmp/vae-3" >"$tmp/before"
both 65 "$tmp/vae-3" train --config "$tiny" data.train="$tmp/data" train.run="$tmp/vae-3" train.steps=3
content "$tmp/vae-3" >"$tmp/after"
cmp -s "$tmp/before" "$tmp/after" || fail "a run without a good checkpoint is changed: $(diff "$tmp/before" "$tmp/after")"

[ ! -e "$tmp/run" ] || fail "a refused run left its folder"
[ ! -e "$tmp/o" ] || fail "a refused verb left its folder"
finish "bad input"
