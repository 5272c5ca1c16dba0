# What the jobs share: start the program on the ranks, pass signals on, decide what its exit code means. Sourced.
# shellcheck shell=bash disable=SC1091,SC2034

job=${SLURM_JOB_NAME:-job}
say() { printf '%s %s: %s\n' "$(date +%FT%T)" "$job" "$*" >&2; }
die() { say "$*"; exit 64; }

# At the start of a job, once.
job_begin() {
    # shellcheck source=site.conf
    . "$D3S2_ROOT/slurm/site.conf"
    site_environment
    [ -x "$D3S2_BIN" ] || die "$D3S2_BIN is not there: build it, or set D3S2_BIN in slurm/site.conf"
    # The program stops by itself before the job's time is up (train.stop_before). SLURM 22.05 does not say when that is.
    if [ -z "${SLURM_JOB_END_TIME:-}" ]; then
        local end
        end=$(squeue -h -j "$SLURM_JOB_ID" -o %e 2>/dev/null | head -n 1) || end=
        end=$(date -d "$end" +%s 2>/dev/null) || end=
        [ -z "$end" ] || export SLURM_JOB_END_TIME=$end
    fi
    [ "${SLURM_RESTART_COUNT:-0}" -eq 0 ] || [ "$D3S2_LAUNCH" != srun ] || clear_nodes
    say "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), ${SLURM_JOB_NODELIST:-}, ${SLURM_NTASKS:-1} ranks by $D3S2_LAUNCH"
}

# A node that lost power keeps the folder of PMIx of the step it ran. A requeued job counts its steps from 0 again, and the plugin
# does not start a step whose folder is there.
clear_nodes() {
    local folder
    folder=$(scontrol show config | sed -n 's/^TmpFS *= *//p')
    # shellcheck disable=SC2016
    srun --mpi=none --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 sh -c '
        folder=$(echo "$1" | sed "s/%n/$SLURMD_NODENAME/g; s/%h/$(hostname)/g")
        rm -rf "$folder/spmix_appdir_$(id -u)_$SLURM_JOB_ID".*' sh "$folder" || true
}

asked='' child='' rc=0
# SLURM warns the batch shell alone (--signal=B:USR1): srun and mpirun both hand USR1 on to all ranks.
on_warning() {
    asked=yes woken=yes
    say "asked to stop: the ranks are told"
    [ -z "$child" ] || kill -USR1 "$child" 2>/dev/null || true
}

# launch RANKS WORDS...: the program on so many ranks; its exit code is left in $rc.
launch() {
    local ranks=$1 per nodes code woken
    local -a start flags container
    shift
    read -ra container <<<"$D3S2_CONTAINER"
    per=${SLURM_NTASKS_PER_NODE:-$ranks} # ranks fill a node before they go to the next
    [ "$per" -le "$ranks" ] || per=$ranks
    nodes=$(((ranks + per - 1) / per))
    case $D3S2_LAUNCH in
        srun)
            read -ra flags <<<"$D3S2_SRUN_FLAGS"
            # One rank that dies takes the others down at once; they would wait for it.
            start=(srun --mpi=pmix --kill-on-bad-exit=1 --nodes="$nodes" --ntasks="$ranks" --ntasks-per-node="$per"
                --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "${flags[@]}")
            ;;
        mpirun)
            read -ra flags <<<"$D3S2_MPIRUN_FLAGS"
            start=(mpirun -np "$ranks" --map-by "ppr:$per:node" -x OMP_NUM_THREADS -x OPENBLAS_NUM_THREADS -x UCX_MEM_EVENTS
                -x NCCL_DEBUG -x HDF5_USE_FILE_LOCKING "${flags[@]}")
            ;;
        *) die "D3S2_LAUNCH is srun or mpirun, not '$D3S2_LAUNCH'" ;;
    esac
    trap on_warning USR1 TERM
    "${start[@]}" "${container[@]}" "$D3S2_BIN" "$@" &
    child=$!
    # A trap ends `wait` while the program is still writing.
    while :; do
        woken='' code=0
        wait "$child" || code=$?
        # 127: the signal came after the end, and the code is known already.
        [ "$code" -eq 127 ] || rc=$code
        [ -n "$woken" ] || break
    done
    child=
}

# The newest whole checkpoint of a run folder.
newest_step() {
    local f n most=-1
    for f in "$1"/step-*/manifest.json; do
        n=${f%/manifest.json} n=${n##*step-}
        case $n in '' | *[!0-9]*) continue ;; esac
        [ "$n" -le "$most" ] || most=$n
    done
    echo "$most"
}

requeue() {
    # The number of an array's last task is the array's own: by it all its tasks would be requeued.
    local id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
    id=${id:-$SLURM_JOB_ID}
    scontrol requeue "$id" 2>/dev/null && exit 0
    # Preemption and lost nodes requeue by themselves.
    [[ $(scontrol show job "$id") != *JobState=RUNNING* ]] ||
        die "SLURM does not requeue this job: submit it again, it goes on where it stopped"
    exit 0
}

# job_end RC FOLDER: requeues what was stopped, and what failed for a reason that another start may not have. FOLDER: where the
# job writes, a run folder for training.
job_end() {
    local code=$1 note=$2/.failures-$SLURM_JOB_ID step before=-1 n=0
    case $code in
        0)
            rm -f "$note"
            say "done"
            exit 0
            ;;
        75)
            say "stopped after a checkpoint: requeued"
            requeue
            ;;
        73) die "code 73, see the line above: a host computes wrongly; leave it out (sbatch --exclude) and submit again" ;;
        64 | 65 | 66 | 74 | 78) die "code $code, see the line above: another start would end the same way, mend it and submit again" ;;
    esac
    if [ -n "$asked" ]; then
        say "asked to stop where there is no checkpoint (code $code): requeued, what is complete is kept"
        requeue
    fi
    # SLURM_RESTART_COUNT also counts the planned stops of a long run, so failures are counted beside the run.
    step=$(newest_step "$2")
    [ ! -f "$note" ] || read -r before n <"$note"
    [ "$step" -gt "$before" ] && n=0
    n=$((n + 1))
    [ "$n" -le "$D3S2_RETRIES" ] || {
        say "code $code, failure $n since step $step: given up; find the first error above, then submit again"
        exit "$code"
    }
    mkdir -p "$2"
    echo "$step $n" >"$note"
    say "code $code, failure $n of $D3S2_RETRIES since step $step (start $((${SLURM_RESTART_COUNT:-0} + 1)) of the job): requeued"
    requeue
}
