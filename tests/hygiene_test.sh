#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A library does not end, print into or throw into its host: no object of ours asks for what would. Kernels and the
# reference do not allocate either. Usage: hygiene_test.sh ARCHIVE_OF_ALL ARCHIVE_OF_KERNELS
set -eu

# The undefined symbols of an archive's objects, one a line: "object symbol". The CUDA runtime in it is not ours.
wanted() {
    nm -A --undefined-only "$1" | grep -v ':cudart_static\.o:' | awk '{ n = split($1, at, ":"); sub(/@.*/, "", $NF); print at[n - 1], $NF }'
}

# Fails if the archive ($1) wants a symbol that matches the whole pattern ($2).
refuse() {
    if wanted "$1" | grep -E " ($2)\$"; then
        echo "$1: the symbols above are refused"
        exit 1
    fi
}

# The lists are read: what is surely wanted is there.
wanted "$1" | grep -qE ' (__)?vsnprintf(_chk)?$'
wanted "$1" | grep -qE ' calloc$'
wanted "$2" | grep -qE ' exp$'
[ "$(wanted "$2" | cut -d' ' -f1 | sort -u | grep -c '_scalar\.')" -ge 3 ]

refuse "$1" '_?exit|_Exit|quick_exit|abort|raise|kill|__assert(_fail|_perror_fail)?|__cxa_throw'
refuse "$1" '(__)?v?d?f?printf(_chk)?|f?puts|f?putc(har)?|_IO_putc|f?write|perror|psignal|v?syslog|stdin|stdout|stderr'
refuse "$2" '[mc]alloc|realloc(array)?|free|aligned_alloc|(posix_)?memalign|p?valloc|strn?dup|mmap|s?brk|_Zn[aw].*|_Zd[al].*'
