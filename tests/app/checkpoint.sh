#!/bin/sh
# Checkpoints of two ranks under faults: a rank killed at each step of the writer, writes that fail, folders that go away, other
# numbers of ranks. What goes on afterwards has the bits of the run that nothing happened to.   checkpoint.sh D3S2 MPIRUN SHARD_TOOL [POWER_LIBRARY]
set -u
here=$(cd "$(dirname "$0")" && pwd)
[ -w /dev/shm ] && TMPDIR=/dev/shm # fsync costs nothing there, and it is the page cache that survives a kill
. "$here/lib.sh"
power=${4:-}
cd "$tmp" || exit 1
clean_up() {
    umount "$tmp/read-only" 2>/dev/null
    cd / && rm -rf "$tmp"
}
mkdir meshes
for i in 1 2 3 4 5 6; do box "meshes/box-$i.obj" 1 "0.$((i + 2))" "0.$((9 - i))"; done
run prep prep.input=meshes prep.resolution=64 prep.views=1 prep.view_size=256 prep.min_tiles=1 prep.output=data
# The same folder name for all, as it is part of the configuration that a checkpoint holds.
train="train --config $here/tiny.yaml data.train=data dit.resolution=8 train.run=run train.steps=6 train.checkpoint_every=2
       train.keep_last=1"

# What a checkpoint says but for the configuration: hashes of all numbers, counters, data position.
state() { sed -E 's/"config":"([^"\\]|\\.)*",//; s/"checksum":"[0-9a-f]*",//' "run/step-$1/manifest.json"; }
losses() { sed -E 's/^(\{"step":[0-9]+,"loss":[^,]*),.*/\1/' run/metrics.jsonl; }
names() { (cd run && ls -d step-*) | tr '\n' ' '; }
no_faults() { unset D3S2_FAULT; }
inject() { export D3S2_FAULT="$1"; }

rm -rf run
both 0 "" $train
state 6 >golden.state
losses >golden.losses
[ "$(wc -l <golden.losses)" -eq 6 ] && [ -s golden.state ] || fail "the unbroken run has no results"

# as_golden WHAT: the run's folder holds what the unbroken run left.
as_golden() {
    state 6 | cmp -s - golden.state || fail "$1: another state than that of the unbroken run"
    losses | cmp -s - golden.losses || fail "$1: other losses than those of the unbroken run"
    [ "$(names)" = "step-6 " ] || fail "$1: $(names) instead of step-6"
}

both 0 "" $train train.run=aside train.checkpoint_async=false
rm -rf run && mv aside run
as_golden "checkpoints that training waits for"

# ---- killed: POINT:PASS RANK
while read -r point rank; do
    rm -rf run
    inject "kill@$point,rank=$rank"
    "$mpirun" -np 2 --oversubscribe "$d3s2" $train >out 2>err && fail "killed at $point on rank $rank: the job ended with 0"
    no_faults
    grep -q "^fault: rank $rank: kill" err || fail "nobody was killed at $point on rank $rank"
    for step in $(cd run && ls -d step-? 2>/dev/null); do run check "run/$step"; done
    both 0 "" $train
    as_golden "killed at $point on rank $rank"
done <<END
ckpt.begin:2 0
ckpt.copied:1 1
ckpt.before_part:2 0
ckpt.tables:3 1
ckpt.write:15 0
ckpt.write:18 1
ckpt.before_fsync:2 1
ckpt.after_part:3 1
ckpt.before_manifest:2 0
ckpt.after_manifest:1 0
ckpt.before_rename:3 0
ckpt.after_rename:2 0
ckpt.prune:1 0
END

# ---- failing: FAULT CAUSE: a warning with path and cause, and the next interval saves again
while read -r fault cause; do
    rm -rf run
    inject "$fault"
    both 0 "" $train
    no_faults
    grep -q "^fault: " "$tmp/err" || fail "$fault did not come"
    [ "$(grep -c "warning: .*no checkpoint of step 4: run/step-4.*$cause" "$tmp/err")" -eq 1 ] ||
        fail "$fault: not one warning that says $cause"
    as_golden "$fault"
done <<END
fail=ENOSPC@ckpt.write:15,rank=1 No space left
fail@ckpt.fsync:2,rank=0 Input/output error
fail=EDQUOT@ckpt.manifest:2,rank=0 quota
fail=EROFS@ckpt.begin:2,rank=0 Read-only
END
# The last one must be there.
rm -rf run
inject "fail@ckpt.fsync:3-,rank=1"
both 74 "run/step-6.part/part-00001.h5" $train
no_faults
[ "$(names)" = "step-4 " ] || fail "the last checkpoint fails: $(names) instead of step-4"
both 0 "" $train
as_golden "after the last checkpoint failed"
# Not failures: a disk that is slow on one rank (the next save waits for it), writes that end early or are broken off, no thread.
rm -rf run
inject "delay=60@ckpt.write:1-,rank=1; nan@ckpt.short:1-4; fail=EINTR@ckpt.write:2-3,rank=0; fail@ckpt.thread:2,rank=1"
both 0 "" $train
no_faults
[ "$(grep -c "^fault: " "$tmp/err")" -ge 20 ] || fail "the slow disk was not slow"
grep -q "warning: " "$tmp/err" && fail "a slow disk: a warning"
as_golden "slow disk"

# ---- power cuts: nothing has a name before it is on disk (power.c)
if [ -n "$power" ]; then
    power_run() {
        rm -rf run power.log
        "$mpirun" -np 2 --oversubscribe env LD_PRELOAD="$power" POWER_FOLDER="$(pwd -P)/run" POWER_LOG="$tmp/power.log" \
            ${1:-A=} "$d3s2" $train >out 2>"$tmp/err" || fail "the run under watch failed"
    }
    power_run
    # Two parts, manifest, folder of three saves, and two removals.
    [ "$(grep -c '^seen ' power.log)" -eq 14 ] || fail "power cut: $(grep -c '^seen ' power.log) renames, not 14"
    grep -v '^seen ' power.log && fail "a power cut would leave a name without its content"
    power_run POWER_FORGETS=1
    for rule in renamed removed left; do grep -q "^$rule: " power.log || fail "without fsync: nobody finds '$rule'"; done
fi

# ---- the folder goes away while the run is under way: it trains on, and says at the end that nothing is saved
rm -rf run
"$mpirun" -np 2 --oversubscribe "$d3s2" $train train.steps=60 >out 2>err &
job=$!
waited=0
until [ -d run/step-2 ] || [ $waited -gt 1000 ]; do
    sleep 0.02
    waited=$((waited + 1))
done
mv run gone
wait $job
[ $? -eq 74 ] || fail "the run's folder went away: not code 74"
[ -d run ] && fail "the run's folder was made anew"
grep -q "warning: .*no checkpoint of step .*No such file" err || fail "the run's folder went away: no warning"
[ "$(grep -c "^d3s2: error: .*step-60" err)" -eq 1 ] || fail "the run's folder went away: not one error"
rm -rf gone
mkdir read-only
if mount -t tmpfs -o size=20m tmpfs read-only 2>/dev/null; then
    both 0 "" $train train.run=read-only/run train.steps=2
    mount -o remount,ro read-only
    both 74 "read-only/run/lock: cannot be opened for writing: Read-only file system" $train train.run=read-only/run
    both 74 "read-only/new" $train train.run=read-only/new
    umount read-only
fi

# ---- other numbers of ranks, and the optimiser in one piece: losses to rounding
rm -rf run
run $train train.steps=2
"$mpirun" -np 3 --oversubscribe "$d3s2" $train train.steps=4 >out 2>"$tmp/err" || fail "3 ranks do not go on from 1"
grep -q "continuing from run/step-2" "$tmp/err" || fail "3 ranks start anew"
both 0 "" $train train.sharded_optimizer=false
grep -q "continuing from run/step-4" "$tmp/err" || fail "2 ranks start anew"
losses | tr -d '{}"' | tr ':' ' ' >mixed
tr -d '{}"' <golden.losses | tr ':' ' ' | paste -d ' ' - mixed |
    awk '{ d = $3 / $6 - 1; if (d < 0) d = -d; n++; if ($2 != $5 || !(d < 1e-6)) bad = 1 } END { exit bad || n != 6 }' ||
    fail "1, 3 and 2 ranks: $(paste golden.losses mixed)"
finish "checkpoints under faults"
