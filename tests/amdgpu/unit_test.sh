#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# unit.cu and products.cu on the emulator, for waves of 64 and of 32. Usage: unit_test.sh UNIT
set -eu
. tests/amdgpu/environment.sh
for architecture in gfx942 gfx1100; do
    for name in unit products; do
        clang-19 -x hip -nogpuinc -nogpulib --cuda-device-only --no-gpu-bundle-output -mcode-object-version=5 -std=c++17 -O2 \
            -I. -DHATTN_HIP_TARGETS="\"$architecture\"" --offload-arch=$architecture tests/amdgpu/$name.cu -o "$TEST_TMPDIR/$architecture-$name"
    done
    HATTN_AMDGPU_ARCHITECTURE=$architecture "$1" "$TEST_TMPDIR/$architecture-unit" "$TEST_TMPDIR/$architecture-products" \
        "--gtest_output=xml:$TEST_TMPDIR/$architecture.xml"
done
count_cases "$TEST_TMPDIR/gfx942.xml" "$TEST_TMPDIR/gfx1100.xml"
