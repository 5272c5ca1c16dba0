#!/bin/sh
# The disk fills up while shards, latents, meshes and checkpoints are written: one line, code 74, nothing half done; with more
# space the same command ends well.   full_disk.sh D3S2 MPIRUN SHARD_TOOL
set -u
here=$(dirname "$0")
. "$here/lib.sh"
tiny=$here/tiny.yaml
disk=$tmp/disk
mkdir "$disk"
if ! mount -t tmpfs -o size=1m tmpfs "$disk" 2>/dev/null; then
    echo "skipped: mounting a small tmpfs needs root"
    exit 77
fi
clean_up() {
    umount "$disk"
    rm -rf "$tmp"
}
size() { mount -o "remount,size=$1" "$disk"; }
left() { find "$disk" -name '*.part' -o -name 'step-*' -o -name '*.h5' -o -name '*.glb' | sort; }

mkdir "$tmp/meshes"
for i in 1 2 3 4 5 6; do box "$tmp/meshes/box-$i.obj" 1 "0.$((i + 2))" "0.$((9 - i))"; done
small="prep.input=$tmp/meshes prep.resolution=64 prep.views=1 prep.view_size=256 prep.min_tiles=1"

# ---- shards: not even one of a single shape (94 kB) fits. Where it does, a rank that got only one before the other failed rightly
# keeps its whole shard.
size 60k
both 74 "$disk/data" prep $small prep.output="$disk/data"
[ -z "$(left)" ] || fail "prep on a full disk left $(left)"
size 20m
both 0 "" prep $small prep.output="$disk/data"
run check "$disk/data"
cp -r "$disk/data" "$tmp/data"
rm -rf "$disk/data"

# ---- checkpoints: the last one must be there; one on the way is missed with a warning
train="train --config $tiny data.train=$tmp/data dit.resolution=8 train.run=$disk/run"
size 150k
both 74 "$disk/run" $train train.checkpoint_every=0
[ -z "$(left)" ] || fail "train on a full disk left $(left)"
size 1m
both 74 "$disk/run/step-2" $train # the first checkpoint has room
[ "$(left)" = "$disk/run/step-1
$disk/run/step-1/part-00000.h5
$disk/run/step-1/part-00001.h5" ] || fail "train on a disk for one checkpoint left $(left)"
run check "$disk/run"
size 20m
both 0 "" $train
grep -q "continuing from $disk/run/step-1" "$tmp/err" || fail "the run does not go on from its checkpoint"
run check "$disk/run"
cp -r "$disk/run" "$tmp/run"
rm -rf "$disk/run"

# ---- latents and results
size 60k
both 74 "$disk/latents" encode encode.input="$tmp/data" encode.vae="$tmp/run" encode.output="$disk/latents"
[ -z "$(left)" ] || fail "encode on a full disk left $(left)"
size 20k
rm -rf "$disk/latents"
both 74 "$disk/eval" eval "$tmp/data" eval.checkpoint="$tmp/run" eval.output="$disk/eval" eval.points=1000
[ -z "$(find "$disk" -name results.json -o -name '*.part')" ] || fail "eval on a full disk left results"
finish "full disk"
