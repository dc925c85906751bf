#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Proves the CUDA or HIP backend on a machine with a GPU, and the OpenCL backend on its first device:
# tools/gpu_check.sh [--backend cuda|hip] [--binaries DIR] [--out DIR] PART...
#   verify     conformance list, random problems, golden files both ways and those that came along, serving contract; CUDA: the other builds
#   memcheck   CUDA: the conformance list under compute-sanitizer's memcheck
#   racecheck  CUDA: a part of it under its racecheck
#   bench      hattn bench on the GPU
#   opencl     conformance list and hattn bench by OpenCL
#   peers      CUDA: hattn beside PyTorch (bench/peers_cuda.py)
# The binaries are those of `bazel build -c opt`, or of DIR as tools/gpu_bundle.sh makes it. Each part takes at most 8 minutes.
# JSON, JUnit and logs go to the output folder (gpu_check); the last line counts. Without a GPU each part is skipped. golden_BACKEND.safetensors
# there is for other machines: in examples/, tools/gpu_bundle.sh takes it along.
set -u
usage() {
    echo "usage: gpu_check.sh [--backend cuda|hip] [--binaries DIR] [--out DIR] verify|memcheck|racecheck|bench|opencl|peers..." >&2
    exit 2
}
root=$(cd "$(dirname "$0")/.." && pwd)
binaries= out=gpu_check parts= backend=cuda
limit=460 # seconds of a step
# The operations of conformance/checks.cc; those of decode and append go as one.
operations="decode attend_dense attend_sparse topk score merge encode_keys encode_queries sum_values"
while [ $# -gt 0 ]; do
    case $1 in
    --backend) backend=${2:?cuda or hip} && shift ;;
    --binaries) binaries=${2:?a folder} && shift ;;
    --out) out=${2:?a folder} && shift ;;
    verify | memcheck | racecheck | bench | opencl | peers) parts="$parts $1" ;;
    *) usage ;;
    esac
    shift
done
[ -n "$parts" ] || usage
case $backend in cuda | hip) ;; *) usage ;; esac

# Where a binary is: PATH_IN_BAZEL_BIN; its name in a bundle is the last part.
locate() {
    if [ -n "$binaries" ]; then echo "$binaries/${1##*/}"; else echo "$root/bazel-bin/$1"; fi
}
hattn=$(locate tools/hattn)
contract=$(locate tests/device_contract_test)
library=$(locate libhattn.so.0)
LD_LIBRARY_PATH=$(dirname "$library")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export LD_LIBRARY_PATH
mkdir -p "$out" || exit 2
rm -f "$out"/*.xml "$out"/*.json "$out"/*.log

escape() {
    tr -d '\000-\010\013-\037' | sed 's/&/\&amp;/g; s/</\&lt;/g; s/"/\&quot;/g'
}

# One case of its own in JUnit: NAME passed|failed|skipped REASON
report() {
    text=$(printf '%s' "$3" | escape)
    case $2 in
    passed) inside= ;;
    failed) inside="<failure message=\"$text\"/>" ;;
    skipped) inside="<skipped message=\"$text\"/>" ;;
    esac
    echo "<testsuite name=\"gpu_check\"><testcase classname=\"gpu_check\" name=\"$1\">$inside</testcase></testsuite>" >"$out/$1.case.xml"
    echo "$1: $2${3:+: $3}"
}

# Runs a step of a part: NAME COMMAND...; what it prints goes to NAME.log.
step() {
    name=$1
    shift
    start=$(date +%s)
    timeout -k 10 $limit "$@" >"$out/$name.log" 2>&1
    status=$?
    took="$(($(date +%s) - start)) s"
    case $status in
    0) report "$name" passed "$took" ;;
    124 | 137) report "$name" failed "not done after $limit s; see $name.log" ;;
    *) report "$name" failed "exit status $status after $took; see $name.log" && grep -E 'failed|FAILED|ERROR SUMMARY|=========.*(Invalid|Error|hazard)|error' "$out/$name.log" | head -20 ;;
    esac
    return "$status"
}

# NAME BINARY ARGUMENTS... : hattn verify with both reports.
verify() {
    name=$1 binary=$2
    shift 2
    step "$name" "$binary" verify --json "$out/$name.json" --junit "$out/$name.xml" "$@"
}

# Golden files: those that came along; this backend's and the reference's, both ways, of a part of the list, which only repeat; and one to keep,
# of the problems of examples/golden.safetensors.
check_golden() {
    for file in "${binaries:-$root/examples}"/golden*.safetensors; do
        [ -e "$file" ] || continue
        made=$(basename "$file" .safetensors)
        verify "against_$made" "$hattn" --backend "$backend" --against "$file"
    done
    verify golden_reference "$hattn" --backend reference --filter bits_1 --write "$out/reference.safetensors"
    verify "golden_${backend}_against_reference" "$hattn" --backend "$backend" --against "$out/reference.safetensors" --filter bits_1
    verify "golden_$backend" "$hattn" --backend "$backend" --filter bits_1 --write "$out/$backend.safetensors"
    verify "golden_reference_against_$backend" "$hattn" --backend reference --against "$out/$backend.safetensors" --filter bits_1
    rm -f "$out/reference.safetensors" "$out/$backend.safetensors"
    verify golden_keep "$hattn" --backend "$backend" --seed 3 --write "$out/golden_$backend.safetensors" \
        --filter plain_append/,codes_per_query_head_weighted/,f8_scale_per_head/,alternating_norms/,mlp_40/,heads_floor_tail/
}

# The host has most of the work: steps run side by side, and each chain of them one after the other.
part_verify() {
    for op in $operations; do
        verify "verify_list_$op" "$hattn" --backend "$backend" --filter "/$op" &
    done
    verify verify_random "$hattn" --backend "$backend" --filter random- --random 100 &
    check_golden &
    case $backend in hip) of='*/hip' ;; *) of='*' ;; esac
    for shard in 0 1 2 3 4 5; do
        step "contract_$shard" env GTEST_TOTAL_SHARDS=6 GTEST_SHARD_INDEX=$shard "$contract" --gtest_brief=1 "--gtest_filter=$of" \
            "--gtest_output=xml:$out/contract_$shard.xml" &
    done
    variants="ptx80 portable small"
    [ "$backend" = cuda ] || variants=
    for variant in $variants; do
        if [ -x "$hattn-$variant" ]; then
            for half in 0 1; do
                turn=0
                for op in $operations; do
                    [ $((turn % 2)) -ne $half ] || verify "verify_${variant}_$op" "$hattn-$variant" --backend cuda --filter "/$op"
                    turn=$((turn + 1))
                done &
            done
        else
            report "verify_$variant" skipped "no $hattn-$variant: tools/gpu_bundle.sh builds it"
        fi
    done
    wait
}

find_sanitizer() {
    command -v compute-sanitizer || { [ -x /usr/local/cuda/bin/compute-sanitizer ] && echo /usr/local/cuda/bin/compute-sanitizer; }
}

# TOOL FILTER...: parts of the conformance list, six side by side, and of the serving contract, under compute-sanitizer.
sanitize() {
    tool=$1
    shift
    if ! sanitizer=$(find_sanitizer); then
        report "$tool" skipped "compute-sanitizer is not installed"
        return
    fi
    under="$sanitizer --tool $tool --error-exitcode 9 --print-limit 20"
    # The list's runs leave an error of the caller's unread on purpose, which the tool would count.
    [ "$tool" != memcheck ] || under="$under --report-api-errors no"
    running=0
    # shellcheck disable=SC2086
    for filter in "$@"; do
        name=$(echo "$tool $filter" | tr -s ' /' _)
        step "${name%_}" $under "$hattn" verify --backend cuda --filter "$filter" --junit "$out/${name%_}.xml" &
        running=$((running + 1))
        [ $((running % 6)) -ne 0 ] || wait
    done
    # shellcheck disable=SC2086
    step "${tool}_contract" $under "$contract" --gtest_brief=1 "--gtest_filter=*PlansShareAWorkspaceInOrder*:*CallsOnlyEnqueue*" \
        "--gtest_output=xml:$out/${tool}_contract.xml" &
    wait
}

# The whole list, by operation.
part_memcheck() {
    # shellcheck disable=SC2046,SC2086
    sanitize memcheck $(printf '/%s ' $operations)
}

# Every kernel in its usual ways.
part_racecheck() {
    sanitize racecheck mla/ plain_append long_weighted/decode long_clustered_norms/decode norms_contiguous/ f8_scale_per_head/ \
        f8_128_q_bf16_group_11/ q_f32_kv_f32/ mlp_weighted_group/ q_ragged_padded/ bits_weighted_512/ \
        codes_per_query_head_weighted/ dim_128/ many_tokens/encode many_rows_norms/decode long_among_short_odd_bits_96/decode \
        floor_long_group_4/decode tail_dim_128/ tail_floor/ heads_floor_tail/ heads_long/decode
}

part_bench() {
    step bench "$hattn" bench --backend "$backend" --json "$out/bench.json"
    cat "$out/bench.log"
}

part_opencl() {
    for op in $operations; do
        verify "opencl_list_$op" "$hattn" --backend opencl --filter "/$op" &
    done
    wait
    step opencl_bench "$hattn" bench --backend opencl --json "$out/opencl_bench.json"
    cat "$out/opencl_bench.log"
}

part_peers() {
    if ! python3 -c 'import torch' 2>/dev/null; then
        report peers skipped "python3 has no torch"
        return
    fi
    step peers python3 "$root/bench/peers_cuda.py" --library "$library" --json "$out/peers.json" --markdown "$out/peers.md"
    cat "$out/peers.log"
}

for needed in "$hattn" "$contract" "$library"; do
    if [ ! -e "$needed" ]; then
        echo "no $needed: build it, or name a bundle with --binaries" >&2
        exit 2
    fi
done
# Why there is nothing to do here; empty where there is a device.
why_none() { # BACKEND
    "$hattn" verify --backend "$1" --filter no_tokens/encode_keys 2>&1 >/dev/null | sed -n 's/^hattn verify: nothing to verify; //p'
}
for part in $parts; do
    case $backend-$part in
    *-opencl) why=$(why_none opencl) ;;
    hip-memcheck | hip-racecheck | hip-peers) why="hip: it is for CUDA" ;;
    *) why=$(why_none "$backend") ;;
    esac
    if [ -n "$why" ]; then report "$part" skipped "$why"; else "part_$part"; fi
done
counts=$(python3 "$root/tests/summary.py" "$out"/*.xml)
echo "$counts"
case $counts in *" 0 failed,"*) ;; *) exit 1 ;; esac
