#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tools/gpu_check.sh where there is no GPU to see: each part says why it is skipped, and nothing fails. Where something fails,
# it is counted. Usage: gpu_check_test.sh HATTN CONTRACT LIBRARY
set -eu
all="verify memcheck racecheck bench opencl peers"
mkdir "$TEST_TMPDIR/binaries" "$TEST_TMPDIR/broken"
for binary in "$@"; do
    ln -s "$PWD/$binary" "$TEST_TMPDIR/binaries/"
    printf '#!/bin/sh\nexit 3\n' >"$TEST_TMPDIR/broken/${binary##*/}"
done
chmod +x "$TEST_TMPDIR/broken/"*

# shellcheck disable=SC2086
CUDA_VISIBLE_DEVICES= OCL_ICD_VENDORS="$TEST_TMPDIR/none/" tools/gpu_check.sh --binaries "$TEST_TMPDIR/binaries" --out "$TEST_TMPDIR/out" $all >"$TEST_TMPDIR/printed"
cat "$TEST_TMPDIR/printed"
[ "$(tail -n 1 "$TEST_TMPDIR/printed")" = "0 passed, 0 failed, 6 skipped" ]
[ "$(grep -c '^[a-z]*: skipped: [a-z]*: .' "$TEST_TMPDIR/printed")" -eq 6 ]

# HIP's parts likewise; what is CUDA's says so.
# shellcheck disable=SC2086
HIP_VISIBLE_DEVICES= OCL_ICD_VENDORS="$TEST_TMPDIR/none/" tools/gpu_check.sh --backend hip --binaries "$TEST_TMPDIR/binaries" --out "$TEST_TMPDIR/out_hip" $all >"$TEST_TMPDIR/printed"
cat "$TEST_TMPDIR/printed"
[ "$(tail -n 1 "$TEST_TMPDIR/printed")" = "0 passed, 0 failed, 6 skipped" ]
[ "$(grep -c '^[a-z]*: skipped: hip: .' "$TEST_TMPDIR/printed")" -eq 5 ]
[ "$(grep -c '^[a-z]*: skipped: hip: it is for CUDA' "$TEST_TMPDIR/printed")" -eq 3 ]
for backend in '' opencl; do
    if tools/gpu_check.sh --backend "$backend" --binaries "$TEST_TMPDIR/binaries" --out "$TEST_TMPDIR/out_none" verify; then
        echo "backend '$backend' passed"
        exit 1
    fi
done

# Of a backend that is there: what each part runs, and with which golden files. Stand-ins note how they are called.
mkdir "$TEST_TMPDIR/there"
for binary in "$@"; do
    printf '#!/bin/sh\necho "${0##*/} $*" >>"%s"\n' "$TEST_TMPDIR/calls" >"$TEST_TMPDIR/there/${binary##*/}"
done
chmod +x "$TEST_TMPDIR/there/"*
touch "$TEST_TMPDIR/there/golden_cuda.safetensors"
tools/gpu_check.sh --backend hip --binaries "$TEST_TMPDIR/there" --out "$TEST_TMPDIR/out_there" verify bench >"$TEST_TMPDIR/printed"
tail -n 1 "$TEST_TMPDIR/printed" | grep '^[1-9][0-9]* passed, 0 failed, 0 skipped$'
[ "$(grep -c -- '--backend cuda' "$TEST_TMPDIR/calls")" -eq 0 ]
grep -q -- '^hattn verify .*--backend hip --against .*/golden_cuda.safetensors$' "$TEST_TMPDIR/calls"
grep -q -- '^hattn verify .*--backend hip .*--write .*/golden_hip.safetensors ' "$TEST_TMPDIR/calls"
grep -q -- '^hattn bench --backend hip ' "$TEST_TMPDIR/calls"
[ "$(grep -c -- '^device_contract_test .*--gtest_filter=\*/hip ' "$TEST_TMPDIR/calls")" -eq 6 ]
# Of each operation of the list, whose names are conformance's own.
operations=$(sed -n 's/^    {"\([a-z_]*\)", check_.*/\1/p' conformance/checks.cc | grep -v '^decode_append$')
[ "$(echo "$operations" | wc -l)" -ge 9 ]
for op in $operations; do
    grep -q -- "^hattn verify .*--filter /$op\$" "$TEST_TMPDIR/calls"
done

if tools/gpu_check.sh --binaries "$TEST_TMPDIR/broken" --out "$TEST_TMPDIR/out_broken" verify >"$TEST_TMPDIR/printed"; then
    echo "broken binaries passed"
    exit 1
fi
tail -n 1 "$TEST_TMPDIR/printed" | grep '^0 passed, [1-9][0-9]* failed, [0-9]* skipped$'
if tools/gpu_check.sh --binaries "$TEST_TMPDIR/none" --out "$TEST_TMPDIR/out_none" verify; then
    echo "no binaries passed"
    exit 1
fi

# Bazel counts the parts.
{
    echo '<testsuites><testsuite name="gpu_check_test"><testcase name="gpu_check_test"/></testsuite>'
    cat "$TEST_TMPDIR/out"/*.xml
    echo '</testsuites>'
} >"$XML_OUTPUT_FILE"
