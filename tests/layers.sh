#!/bin/sh
# Fails on an upward include: who may include whom is docs/architecture.md, "Folders".
set -eu
cd "$(dirname "$0")/.."
bad=0
# check FOLDER ALLOWED...: quoted includes of FOLDER's files must start with one of ALLOWED.
check() {
    folder=$1
    shift
    [ -d "$folder" ] || return 0
    allowed=$(printf '%s|' "$@" | sed 's/|$//')
    found=$(grep -rnE '^#include "' "$folder" --include=*.c --include=*.h --include=*.cu --include=*.cuh |
        grep -vE "#include \"($allowed)" || true)
    if [ -n "$found" ]; then
        echo "$folder may include only: $*" >&2
        echo "$found" >&2
        bad=1
    fi
}
# CUDA and NCCL stay in their places: kernels, one file of core, those of dist.
found=$(grep -rnE '^#include <(cuda|cublas|nccl|nvtx|cub/)' src kernels tests data_prep --include=*.c --include=*.h \
    --include=*.cu --include=*.cuh | grep -vE '^(kernels/cuda/|src/core/device_cuda\.c:|src/dist/[a-z_]*nccl[a-z_]*\.[ch]:)' || true)
if [ -n "$found" ]; then
    echo "CUDA headers belong to kernels/cuda, src/core/device_cuda.c and src/dist/*nccl*:" >&2
    echo "$found" >&2
    bad=1
fi
check src/core core/
check src/sparse core/ sparse/
check src/ops core/ sparse/ ops/ kernels/backend.h
check kernels core/ sparse/ ops/ kernels/
check src/nn core/ sparse/ ops/ nn/ kernels/backend.h
check src/model core/ sparse/ ops/ nn/ model/ kernels/backend.h
check src/io core/ io/
check src/dist core/ dist/
check src/data core/ io/ sparse/ data/
check data_prep core/ io/ sparse/ data/ dist/ data_prep/
check src/eval core/ io/ sparse/ data/ eval/ data_prep/
check src/train core/ io/ sparse/ ops/ nn/ model/ data/ dist/ train/ kernels/backend.h
check src/app core/ io/ sparse/ ops/ nn/ model/ data/ dist/ train/ eval/ app/ data_prep/ kernels/backend.h
exit $bad
