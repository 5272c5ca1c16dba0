#!/bin/sh
# What the documentation names is there: options, verbs, links and their headings, files.
set -eu
cd "$(dirname "$0")/.."
bad=0
missing() { # FILE:LINE WHAT
    echo "$1: there is no $2" >&2
    bad=1
}
# named PATTERN FILE...: FILE:LINE:WORD of each word that matches.
named() { grep -nowE "$@" /dev/null | sort -u; }

# section.key of the table's sections, or the beginning of some (train.cost_*). What ends like a file is one; points of
# D3S2_FAULT look alike.
texts="README.md docs/*.md docs/decisions/*.md docs/perf/*.md"
pages="$texts quickstart slurm/* configs/*.yaml"
sections=$(sed -nE 's/^OPTION_SECTION\((\w+),.*/\1/p' src/io/options.def | paste -sd '|')
options=$(sed -nE 's/^OPTION_[A-Z]+\((\w+), (\w+),.*/ \1.\2 /p' src/io/options.def)
points=$(grep -rhoE '"[a-z]+\.[a-z_]+"' src --include=*.c | tr '"' ' ' | sort -u)
for word in $(named "($sections)\.[a-z][a-z0-9_]*" $pages); do
    name=${word##*:}
    case $name in
        *.c | *.h | *.md | *.json | *.jsonl | *.sbatch | *.svg | *.csv | *.glb | *.key) continue ;;
        *_) known=$options name=" $name" ;;
        *) known=$options$points name=" $name " ;;
    esac
    case $known in *"$name"*) ;; *) missing "${word%:*}" "option $name" ;; esac
done

verbs=$(sed -nE 's/^    \{"([a-z]+)", "[^"]*",?.*/\1/p' src/app/app.c)
for word in $(named 'd3s2 [a-z]+' README.md docs/data.md docs/formats.md docs/s*.md docs/faults.md slurm/* configs/*.yaml | sed 's/d3s2 //'); do
    echo "$verbs" | grep -qx "${word##*:}" || missing "${word%:*}" "verb ${word##*:}"
done

# anchors FILE: what links to its headings end with, by GitHub's rule.
anchors() {
    sed -nE '/^```/,/^```/d; s/\]\([^)]*\)//g; s/^#+ +//p' "$1" | tr 'A-Z ' 'a-z-' | sed 's/[^a-z0-9_-]//g' |
        awk '{ print $0 (n[$0] ? "-" n[$0] : ""); n[$0]++ }'
}

for page in $texts; do
    for link in $(grep -oE '\]\([^):]+\)' "$page" | sed -E 's/^\]\((.*)\)$/\1/' | sort -u); do
        file=${link%%#*}
        file=${file:+$(dirname "$page")/$file}
        file=${file:-$page}
        [ -e "$file" ] || missing "$page" "$link"
        case $link in *#*) anchors "$file" | grep -qxF -- "${link#*#}" || missing "$page" "heading $link" ;; esac
    done
done

# What is built may not be there. A program is named without its ending .c, a decision by its number.
for word in $(named '(build/[a-z-]+/)?(tests|src|docs|configs|slurm|kernels|data_prep)/[A-Za-z0-9_./-]*[A-Za-z0-9_]' $pages src/app/*.c); do
    case ${word##*:} in build/*) continue ;; esac
    ls -d "${word##*:}" >/dev/null 2>&1 || ls "${word##*:}"[.-]* >/dev/null 2>&1 || missing "${word%:*}" "${word##*:}"
done
exit $bad
