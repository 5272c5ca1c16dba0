#!/bin/sh
# One rank of `d3s2 prep` is killed while it works; the next start ends with every shape once.   kill.sh D3S2 MPIRUN SHARD_TOOL
set -u
. "$(dirname "$0")/lib.sh"
tool=$3
mkdir "$tmp/meshes"
n=80
i=0
while [ $i -lt $n ]; do
    box "$tmp/meshes/box-$i.obj" 1 "0.$((i + 20))" "0.$((90 - i))"
    i=$((i + 1))
done
prep="prep prep.input=$tmp/meshes prep.output=$tmp/data prep.resolution=32 prep.views=2 prep.view_size=32 prep.min_tiles=1
      prep.shapes_per_shard=3"

# The ranks note their own number, so that the right process is hit; importers of meshes are children of these.
RC=$tmp/pid "$mpirun" -np 2 --oversubscribe sh -c 'echo $$ >"$RC.$$"; exec "$0" "$@"' "$d3s2" $prep >"$tmp/out" 2>"$tmp/err" &
job=$!
waited=0
until [ "$(ls "$tmp"/data/*.h5 2>/dev/null | wc -l)" -ge 1 ] && [ "$(ls "$tmp"/data/*.part 2>/dev/null | wc -l)" -ge 1 ]; do
    sleep 0.02
    waited=$((waited + 1))
    if [ $waited -gt 3000 ] || ! kill -0 $job 2>/dev/null; then break; fi
done
kill -9 "$(cat "$tmp"/pid.* | tail -n 1)" || fail "there was no rank to kill"
wait $job
[ $? -ne 0 ] || fail "the job with a killed rank ended with 0"
done_before=$("$tool" list "$tmp"/data/shard-*.h5 | wc -l)
[ "$done_before" -lt $n ] || fail "the job was through before the rank was killed"
both 0 "" $prep
grep -q " $done_before done or rejected before" "$tmp/err" || fail "the whole shards of the killed job were not kept"
"$tool" list "$tmp"/data/shard-*.h5 | sort >"$tmp/is"
(cd "$tmp/meshes" && ls | sort) >"$tmp/should"
cmp -s "$tmp/is" "$tmp/should" || fail "the samples are not those of an unbroken run: $(diff "$tmp/is" "$tmp/should")"
[ -z "$(find "$tmp/data" -name '*.part')" ] || fail "parts of the killed job are left"
expect_ok "ok " check "$tmp/data"
finish "killed rank"
