#!/bin/sh
# What data preparation promises about a folder: duplicates, splits, one run at a time, files made to hurt.   prep.sh D3S2 MPIRUN
# SHARD_TOOL
set -u
here=$(dirname "$0")
. "$here/lib.sh"
tool=$3
small="prep.resolution=32 prep.views=1 prep.view_size=32 prep.min_tiles=1 prep.shapes_per_shard=4"

# ---- duplicates: one of each geometry, whoever comes first, on two ranks and over a restart
mkdir "$tmp/twins"
for i in 1 2 3 4 5 6; do
    box "$tmp/twins/a-$i.obj" 1 "0.$((i + 3))" "0.$((9 - i))"
    { echo "# the same"; cat "$tmp/twins/a-$i.obj"; } >"$tmp/twins/b-$i.obj"
done
both 0 "" prep prep.input="$tmp/twins" prep.output="$tmp/twin-data" prep.dedupe=true $small
[ "$("$tool" list "$tmp"/twin-data/shard-*.h5 | sed 's/^[ab]/x/' | sort | uniq -c | awk '$1 == 1' | wc -l)" -eq 6 ] ||
    fail "duplicates: $("$tool" list "$tmp"/twin-data/shard-*.h5)"
[ "$(grep -c '"reason":"[^"]*duplicate of [ab]-[1-6].obj"' "$tmp/twin-data/rejects.jsonl")" -eq 6 ] ||
    fail "duplicates: not six rejects: $(cat "$tmp/twin-data/rejects.jsonl")"
content "$tmp/twin-data" | grep -v '/lock$' >"$tmp/before"
both 0 "" prep prep.input="$tmp/twins" prep.output="$tmp/twin-data" prep.dedupe=true $small
content "$tmp/twin-data" | grep -v '/lock$' | cmp -s - "$tmp/before" || fail "duplicates: a second start changes something"
rm "$tmp"/twin-data/shard-*.h5 # as if the run had been killed before any shard was whole: the names keep what they claimed
printf '0123456789abcdef torn' >>"$tmp/twin-data/geometry.txt"
both 0 "" prep prep.input="$tmp/twins" prep.output="$tmp/twin-data" prep.dedupe=true $small
[ "$("$tool" list "$tmp"/twin-data/shard-*.h5 | wc -l)" -eq 6 ] || fail "duplicates: $("$tool" list "$tmp"/twin-data/shard-*.h5)"
run prep prep.input="$tmp/twins" prep.output="$tmp/all-data" $small
[ "$("$tool" list "$tmp"/all-data/shard-*.h5 | wc -l)" -eq 12 ] || fail "without dedupe not all twelve are there"

# ---- a share is held out; more meshes do not move those that were there
share="prep.heldout_share=0.4 $small"
run prep prep.input="$tmp/twins" prep.output="$tmp/split" $share
"$tool" list "$tmp"/split/heldout/shard-*.h5 | sort >"$tmp/held"
[ -s "$tmp/held" ] && [ "$(wc -l <"$tmp/held")" -lt 12 ] || fail "split: $(wc -l <"$tmp/held") of 12 are held out"
cp "$tmp/twins/a-1.obj" "$tmp/twins/c-1.obj"
run prep prep.input="$tmp/twins" prep.output="$tmp/split-2" $share
"$tool" list "$tmp"/split-2/heldout/shard-*.h5 | grep -v '^c-' | sort | cmp -s - "$tmp/held" || fail "split: adding a mesh moves others"
rm "$tmp/twins/c-1.obj"
expect 64 "give one" prep prep.input="$tmp/twins" prep.output="$tmp/o" $share prep.heldout_count=2

# ---- so many are held out, and their names are told; a run that is refused leaves what is there
count="prep.heldout_count=3 $small"
run prep prep.input="$tmp/twins" prep.output="$tmp/count" $count --dry-run
[ ! -e "$tmp/count" ] || fail "count: a dry run wrote"
both 0 "" prep prep.input="$tmp/twins" prep.output="$tmp/count" $count
"$tool" list "$tmp"/count/heldout/shard-*.h5 | sort >"$tmp/counted"
sort "$tmp/count/heldout.txt" | cmp -s - "$tmp/counted" && [ "$(wc -l <"$tmp/counted")" -eq 3 ] ||
    fail "count: held out are $(cat "$tmp/counted"), heldout.txt says $(cat "$tmp/count/heldout.txt")"
cp "$tmp/count/heldout.txt" "$tmp/names"
both 78 "use another output folder" prep prep.input="$tmp/twins" prep.output="$tmp/count" $count prep.heldout_count=5 prep.tau_voxels=1.5
both 78 "without held-out shapes" prep prep.input="$tmp/twins" prep.output="$tmp/all-data" $count
both 64 "leaves none" prep prep.input="$tmp/twins" prep.output="$tmp/count" $small prep.heldout_count=12
cmp -s "$tmp/count/heldout.txt" "$tmp/names" || fail "count: a refused prep rewrote heldout.txt"
[ ! -e "$tmp/all-data/heldout.txt" ] || fail "count: a refused prep wrote heldout.txt"

# ---- one mesh by its name, and nothing but rejects
run prep prep.input="$tmp/twins/a-2.obj" prep.output="$tmp/one" $small
[ "$("$tool" list "$tmp"/one/shard-*.h5)" = a-2.obj ] || fail "one mesh: $("$tool" list "$tmp"/one/shard-*.h5)"
printf 'v 0 0 0\n' >"$tmp/point.obj"
for again in 1 2; do both 65 "none of 1 meshes could be used" prep prep.input="$tmp/point.obj" prep.output="$tmp/nothing" $small; done
grep -q '"source":"point.obj"' "$tmp/nothing/rejects.jsonl" || fail "one bad mesh: no reason"

# ---- what an earlier run held out, or did not, cannot be changed by preparing on
both 78 "without held-out shapes" prep prep.input="$tmp/twins" prep.output="$tmp/all-data" $share
both 78 "with held-out shapes" prep prep.input="$tmp/twins" prep.output="$tmp/split" $small
[ ! -e "$tmp/all-data/train" ] || fail "split: a refused prep left a folder"
run prep prep.input="$tmp/twins" prep.output="$tmp/split" $share
grep -q "other settings of what is held out" "$tmp/err" && fail "split: the same settings are taken for others"
run prep prep.input="$tmp/twins" prep.output="$tmp/split" prep.heldout_share=0.9 $small
grep -q "prepared with other settings of what is held out" "$tmp/err" || fail "split: another share is not told"
"$tool" list "$tmp"/split/heldout/shard-*.h5 | sort | cmp -s - "$tmp/held" || fail "split: another share moves shapes"

# ---- the same of a data set that is there: by the same names, without touching a shard, whole or not at all
set=$tmp/all-data
content "$set" >"$tmp/before"
run split "$set" prep.heldout_share=0.4
content "$set" | grep -v ' ./split/' | cmp -s - "$tmp/before" || fail "split: the data set changed"
"$tool" list "$set"/split/heldout/shard-*.h5 | sort | cmp -s - "$tmp/held" || fail "split: not what prep holds out"
"$tool" list "$set"/split/*/shard-*.h5 | sort >"$tmp/both"
"$tool" list "$set"/shard-*.h5 | sort | cmp -s - "$tmp/both" || fail "split: the sides together are not the data set"
expect_ok "ok       selection" check "$set/split"
expect_ok "$set/split/heldout: " info "$set/split/heldout"
content "$set/split" >"$tmp/before"
mkdir "$set/split.part" "$set/split.part/train" # of a run that was killed
cp "$set/shard-0000-00000.h5" "$set/split.part/train/old.h5"
run split "$set/" prep.heldout_share=0.4
content "$set/split" | cmp -s - "$tmp/before" || fail "split: a second run makes another one"
[ ! -e "$set/split.part" ] && [ ! -e "$set/split.old.part" ] || fail "split: something is left"
expect_ok "(not written)" split "$set" prep.heldout_count=2 --dry-run
content "$set/split" | cmp -s - "$tmp/before" || fail "split: --dry-run writes"
run split "$set" prep.heldout_count=2
[ "$("$tool" list "$set"/split/heldout/shard-*.h5 | wc -l)" -eq 2 ] || fail "split: not two held out"
cp "$tmp/twins/a-1.obj" "$tmp/twins/c-1.obj"
run prep prep.input="$tmp/twins" prep.output="$set" $small
rm "$tmp/twins/c-1.obj"
run split "$set" prep.heldout_share=0.4 split.output="$tmp/elsewhere/deep/"
"$tool" list "$tmp"/elsewhere/deep/heldout/shard-*.h5 | grep -v '^c-' | sort | cmp -s - "$tmp/held" || fail "split: adding a mesh moves others"
run train --config "$here/tiny.yaml" data.train="$tmp/elsewhere/deep/train" data.heldout="$set/split/heldout" train.run="$tmp/vae"
run encode encode.input="$tmp/elsewhere/deep/train" encode.vae="$tmp/vae" encode.output="$tmp/latents"
expect_ok "ok       latents" check "$tmp/latents"
expect 64 "one of them" split "$set"
expect 64 "one of them" split "$set" prep.heldout_share=0.4 prep.heldout_count=2
expect 64 "needs a folder" split prep.heldout_share=0.4
expect 64 "of 7 samples 7 would be held out" split "$tmp/split-2/train" prep.heldout_count=12
expect 66 "$tmp/none" split "$tmp/none" prep.heldout_count=2
expect 64 "was not made by" split "$set" prep.heldout_count=2 split.output="$tmp/twins"
mv "$set/shard-0000-00000.h5" "$tmp/moved.h5"
expect 66 "selects from another file" info "$tmp/elsewhere/deep/train"
mv "$tmp/moved.h5" "$set/shard-0000-00000.h5"

# ---- cameras all around: other pictures of the same shapes
run prep prep.input="$tmp/twins" prep.output="$tmp/orbit" $small prep.cameras=orbit
expect_ok "ok " check "$tmp/orbit"

# ---- the user's own pictures; what they must be: tests/unit/test_prep_pictures.c
expect 66 "prep.images" prep prep.input="$tmp/twins" prep.output="$tmp/pictured" $small prep.images="$tmp/none"
mkdir "$tmp/pictures"
both 65 "none of 12 meshes could be used" prep prep.input="$tmp/twins" prep.output="$tmp/pictured" $small prep.images="$tmp/pictures"
[ "$(grep -c "no picture of it: neither $tmp/pictures/[ab]-[1-6].png" "$tmp/pictured/rejects.jsonl")" -eq 12 ] ||
    fail "pictures: $(cat "$tmp/pictured/rejects.jsonl")"

# ---- what it looks like
expect_ok "solid parts" info "$tmp/all-data" info.sheet="$tmp/sheet.png" # the data set and both sides of its split
for sheet in sheet sheet-2 sheet-3; do
    [ "$(head -c 4 "$tmp/$sheet.png" | tail -c 3)" = PNG ] || fail "info: no contact sheet $sheet.png"
done
expect 74 "none/sheet.png" info "$tmp/all-data" info.sheet="$tmp/none/sheet.png"

# ---- one run at a time in a folder
mkdir "$tmp/many"
i=0
while [ $i -lt 60 ]; do
    box "$tmp/many/box-$i.obj" 1 "0.$((i + 20))" "0.$((90 - i))"
    i=$((i + 1))
done
"$d3s2" prep prep.input="$tmp/many" prep.output="$tmp/busy" $small >"$tmp/out-1" 2>&1 &
job=$!
waited=0
until [ -s "$tmp/busy/lock" ] || [ $waited -gt 1000 ]; do
    sleep 0.02
    waited=$((waited + 1))
done
both 78 "in use by another job (process $job on " prep prep.input="$tmp/many" prep.output="$tmp/busy" $small
wait $job || fail "the first run is disturbed: $(cat "$tmp/out-1")"
[ "$("$tool" list "$tmp"/busy/shard-*.h5 | wc -l)" -eq 60 ] || fail "two runs: not sixty shapes"
run prep prep.input="$tmp/many" prep.output="$tmp/busy" $small # the lock is gone with its run

# ---- files made to hurt: headers that promise 100 million triangles, and 90 mutations of sound files
mkdir "$tmp/bad"
{ head -c 80 /dev/zero; printf '\000\341\365\005'; head -c 500 /dev/zero; } >"$tmp/bad/claims.stl"
printf 'ply\nformat ascii 1.0\nelement vertex 100000000\nproperty float x\nproperty float y\nproperty float z\nelement face 100000000\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n' >"$tmp/bad/claims.ply"
printf 'OFF\n100000000 100000000 0\n0 0 0\n' >"$tmp/bad/claims.off"
cp "$tmp/twins/a-1.obj" "$tmp/bad/good.obj"
mkdir "$tmp/seed"
cp "$tmp/twins/a-2.obj" "$tmp/seed/s.obj"
cat >"$tmp/seed/s.wrl" <<'EOF'
#VRML V2.0 utf8
Transform { rotation 0 1 0 0.5 children [ DEF a Shape { appearance Appearance { material Material { diffuseColor 1 0 0 } } geometry
IndexedFaceSet { coord Coordinate { point [0 0 0, 1 0 0, 1 1 0, 0 1 0, 0 0 1, 1 0 1, 1 1 1, 0 1 1] } coordIndex [3 2 1 0 -1,
4 5 6 7 -1, 0 1 5 4 -1, 2 3 7 6 -1, 1 2 6 5 -1, 3 0 4 7 -1] } } Transform { translation 2 0 0 children USE a } ] }
EOF
cat >"$tmp/seed/s.off" <<'EOF'
OFF
4 4 6
0 0 0
1 0 0
0 1 0
0 0 1
3 0 2 1
3 0 1 3
3 0 3 2
3 1 2 3
EOF
i=0
while [ $i -lt 90 ]; do # one byte each, from a stream that is the same every time
    set -- obj wrl off
    shift $((i % 3))
    f=$tmp/bad/m-$i.$1
    cp "$tmp/seed/s.$1" "$f"
    size=$(wc -c <"$f")
    r=$(((i * 7919 + 104729) * 1103515245 + 12345))
    printf "\\$(printf %o $((r / 65536 % 256)))" | dd of="$f" bs=1 seek=$((r / 8388608 % size)) conv=notrunc 2>/dev/null
    i=$((i + 1))
done
both 0 "" prep prep.input="$tmp/bad" prep.output="$tmp/bad-data" $small prep.seconds_per_mesh=10 prep.mb_per_mesh=512
for name in claims.stl claims.ply claims.off; do
    grep -q "\"source\":\"$name\"" "$tmp/bad-data/rejects.jsonl" || fail "$name is not rejected"
done
made=$("$tool" list "$tmp"/bad-data/shard-*.h5 | wc -l)
turned=$(wc -l <"$tmp/bad-data/rejects.jsonl")
[ $((made + turned)) -eq 94 ] && [ "$made" -gt 10 ] && [ "$turned" -gt 10 ] || fail "of 94 files $made are in and $turned rejected"
"$tool" list "$tmp"/bad-data/shard-*.h5 | grep -q '^good.obj$' || fail "the good file among the bad is missing"
grep -v '"reason":"[^"]' "$tmp/bad-data/rejects.jsonl" && fail "a reject without a reason"
expect_ok "ok " check "$tmp/bad-data"
finish "data preparation"
