#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `hattn verify` of the HIP backend on an emulated device: all operations of random problems, none refused, none skipped.
# Usage: backend_test.sh HATTN ARCHITECTURE SEED
set -eu
. tests/amdgpu/environment.sh
export LD_LIBRARY_PATH="$PWD/tests/amdgpu" HATTN_AMDGPU_ARCHITECTURE="$2"
"$1" verify --backend hip --filter small- --small 64 --seed "$3" --junit "$TEST_TMPDIR/verify.xml" >"$TEST_TMPDIR/printed" || true
tail -n 20 "$TEST_TMPDIR/printed"
grep -q '^[1-9][0-9]* passed, 0 failed, 0 refused, 0 skipped' "$TEST_TMPDIR/printed"
for operation in encode_keys encode_queries score topk attend_sparse attend_dense merge decode; do
    grep -q "/$operation\"" "$TEST_TMPDIR/verify.xml" || { echo "no problem has $operation" && exit 1; }
done
count_cases "$TEST_TMPDIR/verify.xml"
