#!/bin/sh
# tests/bench/furniture_vae from meshes to table, and pictures of an evaluation, at a size for a CPU.   furniture.sh D3S2 MPIRUN
set -u
. "$(dirname "$0")/lib.sh"
root=$(cd "$(dirname "$0")/../.." && pwd)
command -v python3 >/dev/null || { echo "no python3"; exit 77; }
mkdir "$tmp/meshes"
for i in 1 2 3 4 5; do box "$tmp/meshes/box-$i.obj" 1 "0.$((i + 3))" "0.$((9 - i))"; done

# start TOTAL ARGS...: the script, with the widths of a test.
start() {
    total=$1
    shift
    python3 "$root/tests/bench/furniture_vae" --meshes "$tmp/meshes" --out "$tmp/out dir" --d3s2 "$d3s2" --mpirun "$mpirun --oversubscribe" \
        --device cpu --cores 2 --resolutions 32,64 --tau-voxels 1 --heldout 2 --trained 1 --pictures 2 --points 1000 --seconds 4 --total "$total" \
        vae.width=16 vae.blocks=1 vae.heads=2 vae.enc_widths=[8,8,16] vae.dec_widths=[16,8,8] vae.groups=2 vae.crop_tiles=8 \
        vae.frame=64 train.batch_samples=2 train.eval_every=20 "$@" >"$tmp/log" 2>"$tmp/err"
}
# number PATH: from the script's JSON, by keys with | between.
number() { python3 -c 'import json, sys, functools
print(functools.reduce(lambda x, k: x[int(k)] if k.isdigit() else x[k], sys.argv[2].split("|"), json.load(open(sys.argv[1]))))' "$tmp/out dir/furniture_vae.json" "$1"; }

start 9 && fail "nine seconds: it says it is complete"
grep -q "no time left for prepare" "$tmp/log" || fail "nine seconds: $(cat "$tmp/log")"
start 600 || { fail "the script: $(cat "$tmp/log" "$tmp/out dir"/*.log)"; exit 1; }
for set in "heldout, R = 32" "heldout, R = 64" "train, R = 32" "train, R = 64"; do
    grep -q "^$set " "$tmp/log" || fail "no '$set' in the table"
    case $(number "means|$set|sign_accuracy|mean") in 0.[1-9]* | 1.0) ;; *) fail "$set: signs $(number "means|$set|sign_accuracy|mean")" ;; esac
done
[ "$(number "means|heldout, R = 32|shapes")" -eq 2 ] && [ "$(number "means|train, R = 32|shapes")" -eq 1 ] || fail "not two held out and one trained on"
[ "$(number steps)" -eq "$(number "planned|steps")" ] || fail "$(number steps) steps of $(number "planned|steps")"
# one row of two triples: the stored view, its surface and the reconstruction (white alone would be two kilobytes)
for r in 32 64; do
    at="$tmp/out dir/eval/heldout-$r/pictures.png"
    size=$(python3 -c 'import struct, sys; print(*struct.unpack(">II", open(sys.argv[1], "rb").read()[16:24]))' "$at")
    [ "$size" = "1728 288" ] || fail "pictures of R = $r: $size pixels"
    [ "$(wc -c <"$at")" -gt 8000 ] || fail "pictures of R = $r: $(wc -c <"$at") bytes"
    [ "$(find "$tmp/out dir/eval/heldout-$r" -name '*.glb' | wc -l)" -eq 0 ] || fail "eval.worst=0 leaves meshes"
done
[ "$(grep -o 'stored view; truth' "$tmp/out dir/report.html" | wc -l)" -ge 4 ] || fail "the report does not show four rows"
before=$(number ended)
start 600 || fail "again: $(cat "$tmp/log")"
! grep -q ": vae:\|: prepare:\|: timing:" "$tmp/log" || fail "what was complete is done again: $(cat "$tmp/log")"
[ "$(number ended)" != "$before" ] || fail "again: no new summary"
finish "furniture"
