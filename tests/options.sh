#!/bin/sh
# Every row of src/io/options.def is read by the program (section.key outside the table, its checks and texts).
set -eu
cd "$(dirname "$0")/.."
bad=0
for row in $(sed -nE 's/^OPTION_(INT|FLOAT|BOOL|STRING|INTS|FLOATS|ENUM)\((\w+), (\w+),.*/\2.\3/p' src/io/options.def); do
    if ! grep -rhE "o(pt|ptions)?(->|\.)$(echo "$row" | sed 's/\./\\./')\b" src data_prep --include=*.c --exclude=config_check.c >/dev/null; then
        echo "$row has no effect" >&2
        bad=1
    fi
done
exit $bad
