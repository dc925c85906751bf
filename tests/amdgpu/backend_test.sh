#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `hattn verify` of the HIP backend on emulated devices. All operations of some random problems, none skipped, and some of the list.
# Usage: backend_test.sh HATTN
set -eu
. tests/amdgpu/environment.sh
LD_LIBRARY_PATH=$PWD/tests/amdgpu
export LD_LIBRARY_PATH
verify() { # ARCHITECTURE ARGUMENT...: its last line is "N passed, 0 failed, ..."
    HATTN_AMDGPU_ARCHITECTURE=$1
    export HATTN_AMDGPU_ARCHITECTURE
    shift
    "$hattn" verify --backend hip "$@" | tee "$TEST_TMPDIR/printed" | tail -n 20
    grep -q '^[1-9][0-9]* passed, 0 failed, ' "$TEST_TMPDIR/printed"
}
hattn=$1
verify gfx942 --filter small- --small 40 --seed 1
verify gfx1100 --filter small- --small 40 --seed 41
