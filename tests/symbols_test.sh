#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The shared library exports what the header declares and nothing else, under its soname, and needs no GPU's library.
# Usage: symbols_test.sh LIBRARY HEADER
set -eu
declared=$(sed -nE 's/^HATTN_API [^(]*[ *](hattn_[a-z0-9_]+)\(.*/\1/p' "$2" | sort)
exported=$(nm -D --defined-only "$1" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort)

# Each declaration was read, and there are some.
[ -n "$declared" ]
[ "$(echo "$declared" | wc -l)" -eq "$(grep -c '^HATTN_API ' "$2")" ]
if [ "$declared" != "$exported" ]; then
    printf 'declared:\n%s\nexported:\n%s\n' "$declared" "$exported"
    exit 1
fi

readelf -d "$1" | grep 'SONAME.*\[libhattn\.so\.0\]'
readelf -d "$1" | grep 'NEEDED.*\[libc\.so'
if readelf -d "$1" | grep NEEDED | grep -iE 'cuda|nvrtc|nvidia|hip|hsa|rocm|amd|OpenCL|pocl'; then
    echo "a GPU's library must be found at run time, not linked"
    exit 1
fi
