#!/bin/sh
# A rank stops, loops, waits for its loader for ever, or is gone while MPI does not notice: found within the limit and 2 s, all
# ranks in one table, the guilty one named with its stack, and everything ended within 10 s. What may take long does not alarm.
#   hang.sh D3S2 MPIRUN SHARD_TOOL
set -u
tool=$3
here=$(dirname "$0")
. "$here/lib.sh"
. "$here/fault_lib.sh"
tiny=$here/tiny.yaml
meshes "$tmp/meshes" 6
run prep prep.input="$tmp/meshes" prep.output="$tmp/data" prep.resolution=32 prep.views=1 prep.view_size=32 prep.min_tiles=1
limit=2
set -- data.train="$tmp/data" train.batch_samples=3 train.checkpoint_every=0 train.hang_timeout_s=$limit train.steps=8

# found FAULT RANK SECTION STATE WHAT ARGS...
found() {
    fault=$1 rank=$2 section=$3 state=$4 what=$5
    shift 5
    rm -rf "$tmp/run"
    job 3 "$fault" "$@" train.run="$tmp/run"
    code 71 "$what"
    said "^[0-9.]+ fault: rank $rank" "$what"
    for r in 0 1 2; do said "d3s2: +$r +[0-9]+ +[0-9-]+ +[a-z]+ +[0-9.]+ .*#[0-9]+ [a-z]" "$what: the table"; done
    said "rank $rank on .* keeps the others waiting: $state in $section" "$what"
    later "$(when '^[0-9.]+ fault: rank')" "$(when 'a rank hangs or is gone')" $((limit + 2)) "$what: found after"
    later "$(when 'a rank hangs or is gone')" "$(date +%s.%N)" 10 "$what: ended after"
    grep -q "keeps the others waiting" "$tmp"/run/logs/rank-?.txt || fail "$what: not in a rank's log"
}
found "stop@step.forward:4,rank=1" 1 forward "STOPPED by a signal" "a stopped rank" "$@"
found "fail@step.loop:4,rank=2" 2 forward HANGS "an endless loop" "$@"
said "stack of rank 2, main thread" "an endless loop"
said "d3s2\(step_run" "an endless loop"
found "delay=100000@loader.read:4,rank=0" 0 data HANGS "a sleeping loader" "$@"
said "stack of rank 0, loader thread" "a sleeping loader"
said "fault_at" "a sleeping loader"

# mpirun as blind as a launcher can be: a killed rank is no reason for it to end the others. Its own code then says nothing.
rm -rf "$tmp/run"
mpi_flags=--enable-recovery
job 3 "kill@step.reduce:4,rank=1" "$@" train.run="$tmp/run" train.hang_timeout_s=60
mpi_flags=
said "rank 1 on .* keeps the others waiting: GONE in reduce" "a killed rank"
later "$(when 'a rank hangs or is gone')" "$(date +%s.%N)" 10 "a killed rank: ended after"
grep -q "step 8 saved" "$tmp/err" && fail "a killed rank: the others went on"

# Longer than the limit, and right: the start, an evaluation, a whole job that is stopped and let go on.
rm -rf "$tmp/run"
job 2 "delay=$((limit + 1))000@train.start; delay=$((limit + 1))000@train.eval,rank=1" "$@" train.run="$tmp/run" \
    data.heldout="$tmp/meshes/../data/." train.eval_every=4
code 0 "a long start and evaluation"
rm -rf "$tmp/run"
job 2 "delay=300@step.forward:3-" "$@" train.run="$tmp/run" &
until [ -s "$tmp/pid.1" ] && grep -q '"step":4' "$tmp/run/metrics.jsonl" 2>/dev/null; do sleep 0.05; done
kill -STOP "$(cat "$tmp/pid.0")" "$(cat "$tmp/pid.1")"
sleep $((limit + 2))
kill -CONT "$(cat "$tmp/pid.0")" "$(cat "$tmp/pid.1")"
wait
rc=$(cat "$tmp/rc")
code 0 "a suspended job"
# The time of day jumps by hours: nobody looks at it. Under a sanitizer nothing can be loaded before it.
if ! ldd "$d3s2" | grep -q asan; then
    rm -rf "$tmp/run"
    PRELOAD=$(dirname "$tool")/libjump_clock.so
    [ -f "$PRELOAD" ] || fail "no $PRELOAD"
    job 2 "delay=400@step.forward:1-" "$@" train.run="$tmp/run"
    code 0 "a clock that jumps"
    awk -v now="$(date +%s)" -v then="$(last_value "$tmp/run" time)" 'BEGIN { exit !(then != "" && now - then > 3000) }' ||
        fail "the clock did not jump: $(last_value "$tmp/run" time) at $(date +%s)"
fi
finish "hanging ranks"
