#!/bin/sh
# Every op of BACKEND_OPS (kernels/backend.h) has all that an op consists of and that the compiler does not ask for.
set -eu
cd "$(dirname "$0")/.."
bad=0
# has NAME WHAT WHERE PATTERN FILE...
has() {
    name=$1 what=$2 where=$3 pattern=$4
    shift 4
    grep -qE "$pattern" "$@" && return
    echo "$name: no $what in $where" >&2
    bad=1
}
for name in $(sed -nE '/define BACKEND_OPS/,/^$/s/^ *X\((\w+), .*/\1/p' kernels/backend.h); do
    has "$name" "entry" kernels/cpu/table.c "\.$name = $name" kernels/cpu/table.c
    has "$name" "test, OPTEST_FN($name)," "tests/ops" "OPTEST_FN\($name\)" tests/ops/*.c
    has "$name" "BENCH_ROW" "src/app/bench_dense.c and its kin" "BENCH_ROW\($name," src/app/bench_*.c
    has "$name" "BENCH_GPU_ROW" "src/app/bench_dense.c and its kin" "BENCH_GPU_ROW\($name," src/app/bench_*.c
done
exit $bad
