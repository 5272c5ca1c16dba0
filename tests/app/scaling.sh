#!/bin/sh
# Steps over ranks, from measurement to report, and what is only computed.   scaling.sh D3S2 MPIRUN
set -u
. "$(dirname "$0")/lib.sh"
config=$(dirname "$0")/tiny.yaml

# step RANKS SAMPLES WORDS...: a row in $tmp/rows.csv.
step() {
    ranks=$1 samples=$2
    shift 2
    "$mpirun" -np "$ranks" --oversubscribe "$d3s2" bench step --csv "$tmp/rows.csv" --config "$config" bench.samples="$samples" \
        bench.steps=2 bench.warmup=1 "$@" >"$tmp/out" 2>"$tmp/err" || fail "bench step on $ranks ranks"
}
# column NAME ROW: that field of $tmp/rows.csv.
column() {
    awk -F, -v name="$1" -v row="$2" '{ gsub(/"[^"]*"/, "") } NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) at = i } NR == row + 1 { print $at }' \
        "$tmp/rows.csv"
}
is() { awk -v x="$1" -v y="$3" "BEGIN { exit !(x $2 y) }" || fail "$4: $1 is not $2 $3"; }

step 1 2 train.model=dit bench.tokens=64
step 1 2 train.model=dit bench.tokens=128
step 1 4 train.model=dit bench.tokens=64
step 2 2 train.model=dit bench.tokens=64
step 2 2 train.model=vae bench.tokens=64 bench.spread=0.6 bench.batches=2 train.balance=steps
[ "$(wc -l <"$tmp/rows.csv")" -eq 6 ] || fail "rows.csv has not 5 rows"
is "$(column balance 1)" == 1 "one rank"
is "$(column balance 5)" '<' 1 "a spread of sizes"
is "$(column balance 5)" '>' 0.7 "a spread of sizes"
is "$(column busy_balance 5)" '<=' 1 "measured balance"
is "$(column busy_balance 4)" '>' 0 "measured balance"
is "$(column reduced_mb 1)" '>' 0 "bytes of gradients"
is "$(column exposed_min_ms 4)" '<=' "$(column exposed_ms 4)" "the rank that waits least"
"$d3s2" bench step --csv "$tmp/rows.csv" --config "$config" bench.tokens=64 --dry-run >"$tmp/out" 2>"$tmp/err" || fail "bench step --dry-run"
[ "$(wc -l <"$tmp/rows.csv")" -eq 6 ] && [ ! -s "$tmp/out" ] || fail "bench step --dry-run makes a row"
echo 'a,b' >"$tmp/other.csv"
expect 65 "has other columns" bench step --csv "$tmp/other.csv" --config "$config" train.model=dit bench.tokens=64

# ---- the cost model
expect_ok "train.cost_token=" bench cost "$tmp/rows.csv"
grep -q "3 rows" "$tmp/out" || fail "bench cost: not the three rows of one rank"
expect 64 "bench cost takes files" bench cost
expect 65 "is not one" bench cost "$config"

expect_ok "cluster.inside_us=0 cluster.inside_gb_s=318." bench links 2:268.4:0.91 4:268.4:1.19
expect_ok "cluster.inside_us=10 cluster.inside_gb_s=100" bench links 2:100:1.02 4:100:1.56 2:1:0.03
expect 64 "is not RANKS:MB:MS" bench links 1:268:0.91
expect 64 "bench links takes" bench links

# ---- the report
expect_ok "$tmp/page/scaling.md" report --scaling "$tmp/rows.csv" --config "$config" report.output="$tmp/page"
for file in scaling.md scaling.csv tokens.svg efficiency.svg exposed.svg; do
    [ -s "$tmp/page/$file" ] || fail "report --scaling: no $file"
done
grep -q '^## dit, 2 x 64 tokens each' "$tmp/page/scaling.md" || fail "no weak series"
grep -q '^## dit, 4 x 64 tokens in all (strong)' "$tmp/page/scaling.md" || fail "no strong series"
grep -q '^## vae, 2 x 64 tokens each, spread 0.6' "$tmp/page/scaling.md" || fail "no series with a spread"
[ "$(grep -c '^weak,.*,1024,model,' "$tmp/page/scaling.csv")" -eq 3 ] || fail "no prediction for 1024 ranks"
expect 64 "report.output=FOLDER" report --scaling "$tmp/rows.csv"
expect 66 "$tmp/none.csv" report --scaling "$tmp/none.csv" report.output="$tmp/page"
printf 'a,b\n1,2\n' >"$tmp/other.csv"
expect 65 "row 2 is not one" report --scaling "$tmp/other.csv" report.output="$tmp/page"

# ---- the computed cluster: the largest there is, in seconds
expect_ok "16384" bench cluster --config "$config" train.model=dit cluster.steps=20 cluster.data_samples=50000 \
    cluster.hours=20 bench.spread=0.5
expect_ok "steps" bench balance cluster.steps=20 cluster.data_samples=20000 'cluster.ranks=[8, 64]' bench.spread=0.5
expect 64 "cluster.ranks" bench cluster 'cluster.ranks=[0]'
expect 78 "train.balance = steps" train --config "$config" train.model=dit train.balance=steps train.batch_tokens=100 train.micro_tokens=10
finish scaling
