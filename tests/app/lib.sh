# What the scripts of this folder share. Sourced with the program and mpirun ("" none) in $1 and $2. D3S2_TEST_VERBOSE=1 shows
# the error lines that were asked for.
d3s2=$1
mpirun=${2:-}
tmp=$(mktemp -d "${TMPDIR:-/tmp}/d3s2-app-XXXXXX")
n_bad=0

clean_up() { rm -rf "$tmp"; }
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

fail() {
    echo "FAILED: $1" >&2
    [ ! -f "$tmp/err" ] || tail -n 20 "$tmp/err" | sed 's/^/    /' >&2
    n_bad=$((n_bad + 1))
}

finish() {
    [ $n_bad -eq 0 ] && echo "$1: all as expected"
    [ $n_bad -eq 0 ]
}

# expect CODE TEXT ARGS...: exit code, and TEXT in the only line of stderr, which starts like an error of this program.
expect() {
    code=$1 text=$2
    shift 2
    "$d3s2" "$@" >"$tmp/out" 2>"$tmp/err"
    rc=$?
    [ -z "${D3S2_TEST_VERBOSE:-}" ] || cat "$tmp/err"
    [ "$rc" -eq "$code" ] || fail "$*: code $rc, not $code"
    [ "$(grep -c '^d3s2: error: ' "$tmp/err")" -eq 1 ] || fail "$*: not one error line"
    [ "$(wc -l <"$tmp/err")" -eq 1 ] || fail "$*: more than one line"
    grep -qF -- "$text" "$tmp/err" || fail "$*: no '$text'"
}

# expect_ok TEXT ARGS...: code 0, nothing on stderr, TEXT on stdout.
expect_ok() {
    text=$1
    shift
    "$d3s2" "$@" >"$tmp/out" 2>"$tmp/err"
    rc=$?
    [ "$rc" -eq 0 ] || fail "$*: code $rc"
    [ ! -s "$tmp/err" ] || fail "$*: something on stderr"
    grep -qF -- "$text" "$tmp/out" || fail "$*: no '$text' on stdout"
}

# run ARGS...: code 0; whatever it says.
run() {
    "$d3s2" "$@" >"$tmp/out" 2>"$tmp/err" || fail "$*: code $?"
}

# both CODE TEXT ARGS...: on two ranks, both end with CODE; for another code than 0 there is one error line and it has TEXT.
both() {
    code=$1 text=$2
    shift 2
    rm -f "$tmp"/rc.*
    # Each rank notes its own code: mpirun reports one, and ends the other rank.
    RC=$tmp/rc "$mpirun" -np 2 --oversubscribe sh -c '"$0" "$@"; echo $? >"$RC.$$"' "$d3s2" "$@" >"$tmp/out" 2>"$tmp/err" ||
        fail "2 ranks, $*: mpirun failed"
    [ "$(cat "$tmp"/rc.* | sort | uniq -c | tr -s ' ')" = " 2 $code" ] ||
        fail "2 ranks, $*: codes $(cat "$tmp"/rc.* | tr '\n' ' '), not twice $code"
    [ "$code" -eq 0 ] && return
    [ -z "${D3S2_TEST_VERBOSE:-}" ] || grep '^d3s2: ' "$tmp/err"
    [ "$(grep -c '^d3s2: error: ' "$tmp/err")" -eq 1 ] || fail "2 ranks, $*: not one error line"
    grep '^d3s2: error: ' "$tmp/err" | grep -qF -- "$text" || fail "2 ranks, $*: no '$text'"
}

# box FILE X Y Z: a box of that size.
box() {
    awk -v x="$2" -v y="$3" -v z="$4" 'BEGIN {
        for (i = 0; i < 8; i++) print "v", i % 2 * x, int(i / 2) % 2 * y, int(i / 4) * z
        print "f 1 3 4 2\nf 5 6 8 7\nf 1 2 6 5\nf 3 7 8 4\nf 1 5 7 3\nf 2 4 8 6"
    }' >"$1"
}

# Everything a folder holds, with checksums.
content() { (cd "$1" && find . -type f -exec cksum {} + | sort); }
