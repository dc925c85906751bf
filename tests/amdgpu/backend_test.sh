#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `hattn verify` of the HIP backend on an emulated device, none refused, none skipped: all operations of random problems, a quarter of them with
# floors of probability, whose dims are small; and of the list what attends by each kind of products of matrices, floors, tails, values that are not
# read and scores per query head.
# The outcomes are kept among the test's outputs, as JSON for tools/matrix.py.
# Usage: backend_test.sh HATTN ARCHITECTURE SEED
set -eu
. tests/amdgpu/environment.sh
export LD_LIBRARY_PATH="$PWD/tests/amdgpu" HATTN_AMDGPU_ARCHITECTURE="$2"
listed='one_kv_head dim_64 dim_128 q_bf16_kv_bf16 f8_128_q_f16_group_3 f8_128_q_bf16_group_1
    floor_hamming floor_lengths_around_k floor_sinks_and_recents floor_q_len_8_contiguous floor_pattern_7
    tail_dim_64_floor tail_dim_128 tail_fixed_k tail_skip_fixed_k tail_skip_of_heads heads_fixed_k heads_floor_tail'
filter=small-
for problem in $listed; do filter=$filter,$problem/; done
"$1" verify --backend hip --filter "$filter" --small 64 --seed "$3" --junit "$TEST_TMPDIR/verify.xml" \
    --json "${TEST_UNDECLARED_OUTPUTS_DIR:-$TEST_TMPDIR}/verify.json" >"$TEST_TMPDIR/printed" || true
tail -n 20 "$TEST_TMPDIR/printed"
grep -q '^[1-9][0-9]* passed, 0 failed, 0 refused, 0 skipped' "$TEST_TMPDIR/printed"
for operation in encode_keys encode_queries score topk attend_sparse attend_dense merge sum_values decode; do
    grep -q "/$operation\"" "$TEST_TMPDIR/verify.xml" || { echo "no problem has $operation" && exit 1; }
done
for problem in $listed; do
    grep -q "\"$problem/decode\"" "$TEST_TMPDIR/verify.xml" || { echo "no decode of $problem" && exit 1; }
done
count_cases "$TEST_TMPDIR/verify.xml"
