#!/bin/sh
# Long runs that break all the time and are started again by a loop, as a batch script does.
#   endurance.sh D3S2 MPIRUN SHARD_TOOL turns STEPS EVERY  a fault every EVERY steps, by turns: a killed rank, a bad number, a stall,
#                                                          a full disk
#   endurance.sh D3S2 MPIRUN SHARD_TOOL mtbf SECONDS       a rank of four is killed at random, every 60 s on average
# turns ends with the bits of the run in which nobody was killed or hung. mtbf needs nobody, and loses little more than the interval
# between faults makes it lose. D3S2_ENDURANCE=FOLDER keeps what the runs leave.
set -u
here=$(dirname "$0")
. "$here/lib.sh"
. "$here/fault_lib.sh"
what=$4 amount=$5 every=${6:-0}
tiny=$here/tiny.yaml
export OMPI_MCA_mpi_yield_when_idle=1
if [ -n "${D3S2_ENDURANCE:-}" ]; then
    mkdir -p "$D3S2_ENDURANCE"
    clean_up() { mv "$tmp" "$D3S2_ENDURANCE/$what"; }
fi
meshes "$tmp/meshes" 12
run prep prep.input="$tmp/meshes" prep.output="$tmp/data" prep.resolution=16 prep.views=1 prep.view_size=32 prep.min_tiles=1 \
    prep.shapes_per_shard=4

newest() { # RUN: the step of the newest whole checkpoint
    ls -d "$1"/step-*/manifest.json 2>/dev/null | sed 's/.*step-\([0-9]*\).*/\1/' | sort -n | tail -n 1 | grep . || echo 0
}
# Hashes of all numbers of the last checkpoint; losses, the repeated lines of a killed start being gone from the file.
state() { sed -n 's/.*"ranges":\(\[.*\]\),"seed".*/\1/p' "$1/step-$amount/manifest.json"; }
losses() { sed 's/,"grad_norm".*//' "$1/metrics.jsonl"; }

# ---- by turns: of 8 faults 1 kill, 2 NaN, 3 slow loader, 4 full disk, 5 kill, 6 NaN, 7 hang, 8 full disk

cycle=$((8 * every)) save=$((every / 2))
# passes FAULT FROM: the first pass of the step of a fault of the cycle, for a process that goes on after step FROM.
passes() { echo $((($1 * every + cycle - $2 % cycle - 1) % cycle + 1)); }
# What does not end a process: the same steps are hit however often it is started. A checkpoint is one pass.
mild() { # FROM
    printf "nan@step.gradient:%d-/$cycle,rank=1; nan@step.loss:%d-/$cycle,rank=0; delay=300@loader.read:%d-/$cycle,rank=0; " \
        "$(passes 2 "$1")" "$(passes 6 "$1")" "$(passes 3 "$1")"
    printf 'fail=ENOSPC@ckpt.fsync:%d-/16,rank=1; fail=ENOSPC@ckpt.fsync:%d-/16,rank=0' \
        $(($(passes 4 "$1") / save)) $(($(passes 8 "$1") / save))
}
# What does, in turn: each comes once.
hard() { # NUMBER FROM
    case $(($1 % 3)) in
        0) at=1 fault=kill@step.reduce rank=0 ;;
        1) at=5 fault=kill@step.reduce rank=1 ;;
        2) at=7 fault=stop@step.reduce rank=1 ;;
    esac
    at=$(($1 / 3 * cycle + at * every))
    [ $at -ge "$amount" ] || echo "$fault:$((at - $2)),rank=$rank; "
}

# watch_memory FILE: "seconds rank KB descriptors" of the running job's ranks every two seconds, until FILE.stop is there.
watch_memory() {
    until [ -e "$1.stop" ]; do
        for r in 0 1; do
            p=$(cat "$tmp/pid.$r" 2>/dev/null) && kb=$(sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$p/status" 2>/dev/null) &&
                [ -n "$kb" ] && echo "$(date +%s.%N) $r $kb $(ls "/proc/$p/fd" | wc -l)"
        done
        sleep 2
    done >"$1"
}

turns() {
    set -- data.train="$tmp/data" train.batch_samples=2 train.checkpoint_every=$save train.keep_last=2 train.steps="$amount" \
        train.hang_timeout_s=3 train.log_every=10
    golden=$tmp/golden run=$tmp/run
    watch_memory "$tmp/memory" &
    job 2 "$(mild 0)" "$@" train.run="$golden"
    touch "$tmp/memory.stop"
    code 0 "the run that is never ended"
    [ "$(grep -c 'fault: rank' "$tmp/err")" -ge $((amount / cycle * 5)) ] || fail "the run that is never ended: too few faults"
    awk '$2 == 0 { t = $1 - (n ? first : first = $1); n++; at[n] = t; kb[n] = $3; fd[n] = $4 }
        END { from = int(n / 5) + 1
            for (i = from; i <= n; i++) { m++; x += at[i]; y += kb[i]; xx += at[i] ^ 2; xy += at[i] * kb[i]
                if (m == 1 || fd[i] < low) low = fd[i]; if (fd[i] > high) high = fd[i] }
            d = m * xx - x * x
            slope = (d > 0 ? (m * xy - x * y) / d * 3600 / 1024 : 0)
            printf "memory of rank 0: %.1f to %.1f MB in %.0f s, slope %.2f MB/h; %d to %d files open\n", kb[from] / 1024,
                kb[n] / 1024, at[n] - at[from], slope, low, high }' "$tmp/memory"

    n=0 starts=0 unplanned=0
    while :; do
        fault=$(hard $n "$(newest "$run")")
        job 2 "$fault$(mild "$(newest "$run")")" "$@" train.run="$run"
        starts=$((starts + 1))
        cat "$tmp/err" >>"$tmp/all.err"
        [ "$rc" -ne 0 ] || break
        if grep -qE 'fault: rank .: (kill|stop) ' "$tmp/err"; then n=$((n + 1)); else unplanned=$((unplanned + 1)); fi
        [ $unplanned -le $((n / 10 + 1)) ] || { fail "starts end for other reasons than those planned, the last with code $rc"; return; }
    done
    wanted=0
    while [ -n "$(hard $wanted 0)" ]; do wanted=$((wanted + 1)); done
    [ $n -eq $wanted ] || fail "$n of $wanted kills and hangs came"
    [ -n "$(state "$run")" ] && [ "$(state "$run")" = "$(state "$golden")" ] || fail "other numbers than those of the run that is never ended"
    losses "$golden" >"$tmp/losses.golden"
    losses "$run" | cmp -s - "$tmp/losses.golden" || fail "other losses than those of the run that is never ended"
    [ "$(du -sm "$run/logs" "$run/metrics.jsonl" | awk '{ s += $1 } END { print s }')" -lt 100 ] || fail "the logs have more than 100 MB"
    echo "$amount steps, $n kills and hangs, $(grep -c 'fault: rank' "$tmp/all.err") faults in all, $starts starts, $unplanned of them" \
        "ended unplanned; logs and metrics $(du -sk "$run/logs" "$run/metrics.jsonl" | awk '{ s += $1 } END { print s / 1024 }') MB"
}

# ---- at random

mean=60
# One of the four ranks, after times whose logarithm is even, until $tmp/stop is there. A rank that is not there is no fault.
killer() {
    awk -v m=$mean 'BEGIN { srand(1); for (;;) printf "%.2f %d\n", -m * log(1 - rand()), rand() * 4 }' | while read -r pause rank; do
        sleep "$pause"
        [ ! -e "$tmp/stop" ] || exit
        kill -9 "$(cat "$tmp/pid.$rank" 2>/dev/null)" 2>/dev/null && echo "$(date +%s.%N) rank $rank" >>"$tmp/kills"
    done
}

mtbf() {
    # Ranks that sleep most of a step: its length is the same on a loaded machine.
    set -- data.train="$tmp/data" train.batch_samples=4 train.steps=1000000 train.checkpoint_every=100 train.keep_last=2 \
        train.hang_timeout_s=10 train.log_every=1 train.run="$tmp/run"
    : >"$tmp/kills"
    few() { grep -v '^fault: rank .: delay'; }
    lines=few
    killer &
    starts=0 t0=$(date +%s)
    while [ $(($(date +%s) - t0)) -lt "$amount" ]; do
        job 4 "delay=20@step.forward:1-" "$@" &
        job=$! starts=$((starts + 1))
        while kill -0 $job 2>/dev/null && [ $(($(date +%s) - t0)) -lt "$amount" ]; do sleep 0.1; done
        if [ $(($(date +%s) - t0)) -ge "$amount" ]; then
            for r in 0 1 2 3; do kill -TERM "$(cat "$tmp/pid.$r")" 2>/dev/null; done
        fi
        wait $job
        rc=$(cat "$tmp/rc")
        case $rc in 64 | 65 | 66 | 70 | 74 | 78) fail "somebody is needed: code $rc"; break ;; esac
    done
    touch "$tmp/stop"
    total=$(($(date +%s) - t0))
    # Daly: with faults every M seconds, an interval of t useful seconds, d seconds for a checkpoint and R for a restart, the share
    # t / (M exp(R/M) (exp((t+d)/M) - 1)) is useful.
    grep -o '"[a-z_]*":[^,}]*' "$tmp/run/goodput.json" | tr -d '"' | awk -F: -v M=$mean -v total=$total -v starts=$starts \
        -v kills="$(wc -l <"$tmp/kills")" '
        { v[$1] = $2 }
        END { R = (v["run_start_s"] + v["run_down_s"]) / starts
            steps = v["step"]; t = v["run_useful_s"] / (steps / 100); d = v["run_checkpoint_s"] / (steps / 100)
            best = t / (M * exp(R / M) * (exp((t + d) / M) - 1)); is = v["run_useful_s"] / total
            printf "%d s, %d kills, %d starts, %d steps: useful %.1f %%, redone or skipped %.1f, starting and down %.1f, checkpoints %.2f; ",
                total, kills, starts, steps, 100 * is, 100 * v["run_lost_s"] / total, 100 * (v["run_start_s"] + v["run_down_s"]) / total,
                100 * v["run_checkpoint_s"] / total
            printf "a restart takes %.2f s, an interval %.2f s, its checkpoint %.4f s: Daly allows %.1f %%\n", R, t, d, 100 * best
            exit !(is >= 0.8 * best) }' || fail "less than 80 % of what the faults allow"
    [ "$(wc -l <"$tmp/kills")" -gt 0 ] || fail "nobody was killed"
    "$d3s2" check "$tmp/run" >/dev/null 2>&1 || fail "a bad checkpoint"
    awk -F'[:,]' '{ if ($2 != NR) exit 1 }' "$tmp/run/metrics.jsonl" || fail "not one line a step"
}

"$what"
finish "endurance, $what"
