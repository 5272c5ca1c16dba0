# For scripts that break jobs on purpose (core/fault.h). Sourced after lib.sh, with the tiny configuration in $tiny.
meshes() { # meshes FOLDER N: so many boxes
    mkdir -p "$1"
    i=1
    while [ $i -le "$2" ]; do
        box "$1/box-$i.obj" 1 "0.$((i + 20))" "0.$((90 - i))"
        i=$((i + 1))
    done
}

# A launcher that ends the others at once when a rank has failed, instead of giving them two seconds.
export OMPI_MCA_odls_base_sigkill_timeout=0

# job RANKS FAULT ARGS...: one training job; its code in $rc, its lines in $tmp/err, each after the second it came at.
job() {
    ranks=$1 fault=$2
    shift 2
    rm -f "$tmp"/pid.*
    {
        RC=$tmp/pid PRELOAD=$PRELOAD D3S2_FAULT=$fault "$mpirun" -np "$ranks" --oversubscribe $mpi_flags \
            sh -c 'echo $$ >"$RC.$OMPI_COMM_WORLD_RANK"; export LD_PRELOAD=$PRELOAD; exec "$0" "$@"' "$d3s2" train --config "$tiny" "$@" 2>&1
        echo $? >"$tmp/rc"
    } | $lines >"$tmp/err"
    rc=$(cat "$tmp/rc")
    [ -z "${D3S2_TEST_VERBOSE:-}" ] || cat "$tmp/err"
}
mpi_flags=
PRELOAD=
stamp() { while IFS= read -r line; do echo "$(date +%s.%N) $line"; done; }
lines=stamp # what the lines go through

code() { [ "$rc" -eq "$1" ] || fail "$2: code $rc, not $1"; }
said() { grep -qE -- "$1" "$tmp/err" || fail "$2: no '$1'"; }
# The second at which a line first came.
when() { grep -m 1 -E -- "$1" "$tmp/err" | cut -d' ' -f1; }
# later A B MOST WHAT: at most so many seconds lie between.
later() { awk -v a="$1" -v b="$2" -v m="$3" 'BEGIN { exit !(a != "" && b != "" && b - a <= m) }' ||
    fail "$4: $(awk -v a="$1" -v b="$2" 'BEGIN { print b - a }') s, not $3"; }
last_value() { tail -n 1 "$1/metrics.jsonl" | grep -oE "\"$2\":[^,}]*" | cut -d: -f2; }
