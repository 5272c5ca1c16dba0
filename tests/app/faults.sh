#!/bin/sh
# Bad numbers, drifting replicas, damaged samples, slow ranks, signals at bad moments, starts that lead nowhere: what the job does,
# alike on all ranks.   faults.sh D3S2 MPIRUN SHARD_TOOL
set -u
here=$(dirname "$0")
. "$here/lib.sh"
. "$here/fault_lib.sh"
tool=$3
tiny=$here/tiny.yaml
meshes "$tmp/meshes" 12
run prep prep.input="$tmp/meshes" prep.output="$tmp/data" prep.resolution=32 prep.views=1 prep.view_size=32 prep.min_tiles=1 \
    prep.shapes_per_shard=4
r=$tmp/run
set -- data.train="$tmp/data" train.run="$r" train.batch_samples=4 train.checkpoint_every=0 train.check_replicas_every=1
new() { rm -rf "$r" "$tmp/err"; }
losses() { grep '"loss":' "$1/metrics.jsonl" | grep -oE '"(step|loss)":[^,]*' | tr '\n' ' '; }

# ---- one rank's NaN skips the step on all; the replicas stay equal, which is looked at after every step
for point in step.gradient step.loss loader.batch; do
    new
    job 3 "nan@$point:3,rank=1" "$@" train.steps=5
    code 0 "NaN at $point"
    said "step 3 skipped: .*nan.*1 in a row, 1 in all" "NaN at $point"
    ! grep "other weights" "$tmp/err" || fail "NaN at $point: the replicas differ"
    [ "$(last_value "$r" skipped_total)" = 1.0 ] || fail "NaN at $point: not counted"
done

# ---- too many in a row: the end, or back to the checkpoint and on behind the bad batches, as often as allowed
new
job 2 "nan@step.gradient:4-,rank=1" "$@" train.steps=12 train.checkpoint_every=2 train.max_bad_steps=3 train.rollback=1
code 65 "bad steps without end"
said "rolled back from step 6 to the checkpoint of step 4, which goes on with batch 6 .1 of 1" "bad steps without end"
said "3 steps in a row were skipped" "bad steps without end"
new
job 2 "nan@step.gradient:4-6,rank=1" "$@" train.steps=9 train.checkpoint_every=3 train.max_bad_steps=3 train.rollback=2
code 0 "a rollback"
[ "$(last_value "$r" rollbacks)" = 1 ] || fail "a rollback: not counted"
[ "$(grep -c . "$r/metrics.jsonl")" -eq 9 ] || fail "a rollback: not one line a step"

# ---- a flipped bit in one rank's weights
new
job 3 "nan@step.weight:3,rank=1" "$@" train.steps=5 train.sharded_optimizer=false
code 0 "a drifting replica of three"
said "after step 3 other weights than on the other ranks: rank 1 on [^,]*; mended" "a drifting replica of three"
[ "$(grep -c 'other weights' "$tmp/err")" -eq 1 ] || fail "a drifting replica of three: mended more than once"
new
job 2 "nan@step.weight:3,rank=1" "$@" train.steps=5 train.sharded_optimizer=false
code 70 "a drifting replica of two"
said "no majority agrees: rank 0 on .* rank 1 on" "a drifting replica of two"

# ---- one rank's products are wrong now and then: all get the same spoiled sum, so the replicas stay equal
new
job 3 "nan@op.product:40-,rank=1" "$@" train.steps=8 train.check_arithmetic_every=4
code 73 "wrong products"
said "after step 4 not all ranks compute the same gradient of one sample; suspect: rank 1 on [^,;]*; what .* after step 0 may" "wrong products"
! grep "other weights" "$tmp/err" || fail "wrong products: the replicas differ"
new
job 2 "nan@op.product:40-/37,rank=1" "$@" train.steps=40 train.check_arithmetic_every=4
code 73 "a wrong product now and then"
said "suspect: rank 1 on [^,;]* \(two results of one sample\);" "a wrong product now and then"

# ---- a slow rank
new
job 3 "delay=200@step.forward:1-,rank=2" "$@" train.steps=22 train.check_replicas_every=0 train.check_arithmetic_every=5
code 0 "a slow rank"
said "rank 2 on .* is slow: .* [0-9.]+ times" "a slow rank"
[ "$(grep -c 'rank 2 on .* is slow' "$tmp/err")" -eq 1 ] || fail "a slow rank: told more than once"

# ---- a flipped bit in a shard: its sample is left out, alike on any number of ranks, up to the limit
cp -r "$tmp/data" "$tmp/sound"
"$tool" flip "$(ls "$tmp"/data/shard-*.h5 | head -n 1)" tile/value
for ranks in 1 3; do
    new
    job $ranks "" "$@" train.steps=6 data.max_bad_samples=0.5
    code 0 "a damaged sample on $ranks ranks"
    said "a sample is left out: .*shard-.*[1-9] bad of 12" "a damaged sample on $ranks ranks"
    [ "$(last_value "$r" bad_samples)" -ge 1 ] || fail "a damaged sample on $ranks ranks: not counted"
    tail -n 1 "$r/metrics.jsonl" | grep -oE '"(loss":[0-9]+\.[0-9]{5}|bad_samples.*rollbacks)' >"$tmp/loss.$ranks"
done
cmp -s "$tmp/loss.1" "$tmp/loss.3" || fail "a damaged sample: $(cat "$tmp"/loss.?) on 1 and 3 ranks"
new
job 2 "" "$@" train.steps=6
code 65 "a damaged sample too many"
said "error: .*shard-.*: its tiles do not match their checksum" "a damaged sample too many"

# ---- other data than those the run began with
rm -rf "$tmp/data"
cp -r "$tmp/sound" "$tmp/data"
new
job 2 "" "$@" train.steps=2
rm "$(ls "$tmp"/data/shard-*.h5 | tail -n 1)"
job 2 "" "$@" train.steps=4
code 78 "a shard less"
said "other samples or another order \(train.balance\) than those of .*step-2" "a shard less"
job 2 "" "$@" train.steps=4 data.accept_new=true
code 0 "a shard less, accepted"
said "warning: .*other samples" "a shard less, accepted"
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do box "$tmp/meshes/box-$i.obj" 1 "0.$((i + 30))" "0.$((90 - i))"; done
rm -rf "$tmp/data"
run prep prep.input="$tmp/meshes" prep.output="$tmp/data" prep.resolution=32 prep.views=1 prep.view_size=32 prep.min_tiles=1 \
    prep.shapes_per_shard=4
cp -r "$tmp/sound" "$tmp/data-2"
new
job 2 "" "$@" train.steps=2
job 2 "" "$@" train.steps=3 data.train="$tmp/data-2"
code 78 "other content of the same names"
said "the same names with other content than those of .*step-2" "other content of the same names"
rm -rf "$tmp/data"
cp -r "$tmp/sound" "$tmp/data"

# ---- TERM and USR1, each twice, while it starts, saves, evaluates: one checkpoint, code 75 on every rank, and on from there
new
job 2 "" "$@" train.steps=6
losses "$r" >"$tmp/golden"
for moment in train.start train.eval ckpt.fsync; do
    new
    job 2 "delay=1000@$moment" "$@" train.steps=6 train.eval_every=2 train.checkpoint_every=2 data.heldout="$tmp/sound" &
    until grep -q "fault: rank 0" "$tmp/err" 2>/dev/null && [ -s "$tmp/pid.1" ]; do sleep 0.05; done
    for signal in TERM USR1 USR1 TERM; do
        kill -$signal "$(cat "$tmp/pid.0")"
        kill -$signal "$(cat "$tmp/pid.1")"
        sleep 0.1
    done
    wait
    rc=$(cat "$tmp/rc")
    code 75 "signals at $moment"
    said "12 of 12 held-out samples are in data.train too" "held-out shapes that are trained on"
    [ -z "$(find "$r" -name '*.part')" ] || fail "signals at $moment: a half checkpoint"
    "$d3s2" check "$r" >/dev/null 2>&1 || fail "signals at $moment: a bad checkpoint"
    job 2 "" "$@" train.steps=6
    code 0 "on after signals at $moment"
    [ "$(losses "$r" | cut -c1-2000)" = "$(cat "$tmp/golden" | cut -c1-2000)" ] || fail "signals at $moment: other losses"
done

# ---- Ctrl-C on one process: a checkpoint as well
new
: >"$tmp/err"
D3S2_FAULT="delay=1000@train.start" env --default-signal=INT "$d3s2" train --config "$tiny" "$@" train.steps=6 2>"$tmp/err" &
until grep -q "fault: rank 0" "$tmp/err"; do sleep 0.05; done
kill -INT $!
wait $!
rc=$?
code 75 "Ctrl-C"
"$d3s2" check "$r" >/dev/null 2>&1 || fail "Ctrl-C: no good checkpoint"

# ---- a second job on the folder, a rank that is gone before the first step, ranks without work, a launcher that lies
new
job 2 "delay=3000@step.reduce:2,rank=1" "$@" train.steps=3 &
until grep -q "fault: rank 1" "$tmp/err" 2>/dev/null; do sleep 0.05; done
t0=$(date +%s.%N)
"$d3s2" train --config "$tiny" "$@" train.steps=3 >"$tmp/out" 2>"$tmp/second"
[ $? -eq 78 ] || fail "a second job on the folder: not refused"
later "$t0" "$(date +%s.%N)" 2 "a second job on the folder: refused after"
grep -q "in use by another job (process $(cat "$tmp/pid.0") on " "$tmp/second" || fail "a second job: $(cat "$tmp/second")"
wait
rc=$(cat "$tmp/rc")
code 0 "the first job on the folder"
new
t0=$(date +%s.%N)
job 3 "kill@train.start,rank=0" "$@" train.steps=3
[ "$rc" -ne 0 ] || fail "a rank that is gone at the start: code 0"
later "$t0" "$(date +%s.%N)" 10 "a rank that is gone at the start: ended after"
new
job 3 "" "$@" train.steps=2 train.batch_samples=2
code 0 "ranks without work"
said "1 of them have nothing to do" "ranks without work"
SLURM_STEP_NUM_TASKS=4 "$d3s2" version >"$tmp/out" 2>"$tmp/err"
rc=$?
code 70 "a wrong number of ranks"
said "srun started 4 tasks but MPI sees 1" "a wrong number of ranks"

# ---- the account of the time: what was waited for is in it
new
job 2 "delay=2000@loader.read:4,rank=1" "$@" train.steps=6 data.read_ahead=1 train.check_replicas_every=0
code 0 "a stall"
awk -v s="$(last_value "$r" run_stalled_s)" 'BEGIN { exit !(s > 1.2 && s < 2.3) }' ||
    fail "a stall of 2 s: $(last_value "$r" run_stalled_s) s in the account"
grep -o '"[a-z_]*":[^,}]*' "$r/goodput.json" | tr -d '"' | awk -F: '/^run_/ { sum += $2 } $1 == "total_s" { total = $2 }
    END { exit !(total > 2 && (sum - total) ^ 2 < (total / 1000) ^ 2) }' || fail "goodput.json: $(cat "$r/goodput.json")"

# ---- three starts that reach no new step, and no fourth
new
job 2 "" "$@" train.steps=1
for start in 1 2 3; do job 2 "kill@step.forward,rank=0" "$@" train.steps=3; done
job 2 "" "$@" train.steps=3
code 78 "a crash loop"
said "3 starts in a row ended before a step beyond 1" "a crash loop"
job 2 "" "$@" train.steps=3 train.max_idle_starts=0
code 0 "a crash loop, mended"
finish "faults"
