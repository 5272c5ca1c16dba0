#!/bin/sh
# What a start asks of the file system, and data that are not there.   startup.sh D3S2 MPIRUN SHARD_TOOL
set -u
here=$(dirname "$0")
. "$here/lib.sh"
. "$here/fault_lib.sh"
tiny=$here/tiny.yaml
shards=24
meshes "$tmp/meshes" $shards
run prep prep.input="$tmp/meshes" prep.output="$tmp/data" prep.resolution=16 prep.views=1 prep.view_size=32 prep.min_tiles=1 \
    prep.shapes_per_shard=1
set -- data.train="$tmp/data" train.batch_samples=4 train.checkpoint_every=0 train.run="$tmp/run"
opened() { grep -c "fault: rank $1: delay at data.open" "$tmp/err"; }

# One rank reads the tables of all shards; the others open those that they read samples from: for the fullest batch, and their own.
job 4 "delay=1@data.open:1-" "$@" train.steps=2
code 0 "a start on 4 ranks"
[ "$(opened 0)" -eq $shards ] || fail "rank 0 opened $(opened 0) shards, not $shards"
for r in 1 2 3; do [ "$(opened $r)" -le 8 ] || fail "rank $r opened $(opened $r) shards"; done
echo "files opened by ranks 0 to 3: $(opened 0) $(opened 1) $(opened 2) $(opened 3) of $shards"

# A shard that is gone, unreadable, or goes while the run is under way: its name, code 66 on all ranks, within seconds.
rm -rf "$tmp/run"
job 3 "fail=EACCES@data.open:5,rank=0" "$@" train.steps=2
code 66 "an unreadable shard"
said "error: .*shard-[0-9-]*4\.h5: cannot open: Permission denied" "an unreadable shard"
rm -rf "$tmp/run"
job 3 "fail=ENOENT@data.open:9-,rank=1" "$@" train.steps=30 data.cache_mb=0
code 66 "a shard that goes away"
said "error: .*shard-[0-9-]*\.h5: cannot open: No such file" "a shard that goes away"
later "$(when 'fault: rank 1')" "$(date +%s.%N)" 10 "a shard that goes away: ended after"
rm -rf "$tmp/run" "$tmp/data"
job 2 "" "$@" train.steps=2
code 66 "no data"
finish "start"
