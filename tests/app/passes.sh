#!/bin/sh
# What a pass of an auto-encoder takes is said by a dry run, and is what the real one takes: encoding whole, decoding in chunks.
#   passes.sh D3S2 MPIRUN SHARD_TOOL
set -u
here=$(dirname "$0")
. "$here/lib.sh"
tiny=$here/tiny.yaml
mkdir "$tmp/mesh"
box "$tmp/mesh/box.obj" 1 1 1
for R in 64 512; do # of 296 and 22,328 tiles
    run prep prep.input="$tmp/mesh" prep.output="$tmp/$R" prep.resolution=$R prep.views=1 prep.view_size=32
done
run train --config "$tiny" data.train="$tmp/64" train.run="$tmp/vae" train.batch_samples=1

# The grid is another than the network's: that is told, and goes on.
for verb in "eval $tmp/512 eval.checkpoint=$tmp/vae eval.output=$tmp/o" "encode encode.input=$tmp/512 encode.vae=$tmp/vae encode.output=$tmp/o"; do
    run $verb --device cpu --dry-run
    grep -q "warning: $tmp/vae.* was trained on grids of R = 64 to 64, the data have R = 512" "$tmp/err" || fail "${verb%% *}: another grid is not told"
    run ${verb%% *} $(echo "${verb#* }" | sed 's#/512#/64#') --device cpu --dry-run
    grep -q warning: "$tmp/err" && fail "${verb%% *}: warns of the grid it was trained on"
    run prep prep.input="$tmp/mesh" prep.output="$tmp/thick" prep.resolution=64 prep.views=1 prep.view_size=32 prep.tau_voxels=4
    run ${verb%% *} $(echo "${verb#* }" | sed 's#/512#/thick#') --device cpu --dry-run
    grep -q "warning: $tmp/vae.* the data's are within 16: the values mean other distances" "$tmp/err" || fail "${verb%% *}: another tau is not told"
done

# dry FOLDER PASS: the megabytes and tiles that a dry run of eval names
dry() {
    run eval "$tmp/$1" --device cpu eval.checkpoint="$tmp/vae" eval.output="$tmp/out-$1" --dry-run
    sed -n "s/.*$2 the largest sample, \([0-9]*\) tiles: \([0-9.]*\) MB for activations, .*/\1 \2/p" "$tmp/err"
}
# real FOLDER PASS: the same, predicted and used, of a real run
real() {
    sed -n "s/.*$2 \([0-9]*\) tiles: predicted \([0-9.]*\) MB for activations, used \([0-9.]*\) of.*/\1 \2 \3/p" "$tmp/real-$1"
}
for R in 64 512; do
    run eval "$tmp/$R" --device cpu eval.checkpoint="$tmp/vae" eval.output="$tmp/out-$R" eval.points=100
    cp "$tmp/err" "$tmp/real-$R"
    rm -rf "$tmp/out-$R"
    for pass in encoding decoding; do
        said=$(dry $R $pass)
        [ -n "$said" ] || fail "R = $R: nothing is said of $pass"
        [ "$(real $R $pass)" = "$said ${said#* }" ] || fail "R = $R, $pass: said '$said', the run '$(real $R $pass)'"
    done
    [ ! -e "$tmp/out-$R" ] || fail "a dry run left results"
done
run encode --device cpu encode.input="$tmp/512" encode.vae="$tmp/vae" encode.output="$tmp/latents" --dry-run
said=$(sed -n 's/.*encoding the largest sample, \([0-9]*\) tiles: \([0-9.]*\) MB for activations, .*/\1 \2/p' "$tmp/err")
run encode --device cpu encode.input="$tmp/512" encode.vae="$tmp/vae" encode.output="$tmp/latents"
cp "$tmp/err" "$tmp/real-encode"
[ -n "$said" ] && [ "$(real encode encoding)" = "$said ${said#* }" ] ||
    fail "encode: said '$said', the run '$(real encode encoding)'"
# Decoding in chunks takes less than encoding.
e=$(dry 512 encoding) d=$(dry 512 decoding)
[ "$(echo "$e $d" | awk '{print ($4 < $2)}')" = 1 ] || fail "22,328 tiles: encoding $e, decoding $d"
finish "passes"
