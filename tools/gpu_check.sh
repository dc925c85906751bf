#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Proves the CUDA backend on a machine with a GPU: tools/gpu_check.sh [--binaries DIR] [--out DIR] PART...
#   verify     conformance list, random problems, golden files both ways, serving contract, the other builds of the kernels
#   memcheck   the conformance list under compute-sanitizer's memcheck
#   racecheck  and under its racecheck
#   bench      hattn bench on the GPU
#   peers      hattn beside PyTorch (bench/peers_cuda.py)
# The binaries are those of `bazel build -c opt`, or of DIR as tools/gpu_bundle.sh makes it. Each part takes at most 8 minutes.
# JSON, JUnit and logs go to the output folder (gpu_check); the last line counts. Without a GPU each part is skipped.
set -u
usage() {
    echo "usage: gpu_check.sh [--binaries DIR] [--out DIR] verify|memcheck|racecheck|bench|peers..." >&2
    exit 2
}
root=$(cd "$(dirname "$0")/.." && pwd)
binaries= out=gpu_check parts=
while [ $# -gt 0 ]; do
    case $1 in
    --binaries) binaries=${2:?a folder} && shift ;;
    --out) out=${2:?a folder} && shift ;;
    verify | memcheck | racecheck | bench | peers) parts="$parts $1" ;;
    *) usage ;;
    esac
    shift
done
[ -n "$parts" ] || usage

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

# Runs a step of a part: NAME SECONDS COMMAND...; what it prints goes to NAME.log.
step() {
    name=$1 seconds=$2
    shift 2
    start=$(date +%s)
    timeout -k 10 "$seconds" "$@" >"$out/$name.log" 2>&1
    status=$?
    took="$(($(date +%s) - start)) s"
    case $status in
    0) report "$name" passed "$took" ;;
    124 | 137) report "$name" failed "not done after $seconds s; see $name.log" ;;
    *) report "$name" failed "exit status $status after $took; see $name.log" && grep -E 'failed|FAILED|ERROR SUMMARY|=========.*(Invalid|Error|hazard)|error' "$out/$name.log" | head -20 ;;
    esac
    return "$status"
}

# NAME SECONDS BINARY ARGUMENTS... : hattn verify with both reports.
verify() {
    name=$1 seconds=$2 binary=$3
    shift 3
    step "$name" "$seconds" "$binary" verify --json "$out/$name.json" --junit "$out/$name.xml" "$@"
}

# The conformance list is host's work for most of its time: steps run side by side.
part_verify() {
    verify verify_reference_written 240 "$hattn" --backend reference --write "$out/reference.safetensors"
    verify verify_list_against_reference 300 "$hattn" --backend cuda --against "$out/reference.safetensors" &
    verify verify_random 300 "$hattn" --backend cuda --filter random- --random 200 &
    {
        verify verify_cuda_written 200 "$hattn" --backend cuda --filter decode --write "$out/cuda.safetensors"
        verify verify_reference_against_cuda 200 "$hattn" --backend reference --filter decode --against "$out/cuda.safetensors"
    } &
    for shard in 0 1 2 3; do
        step "contract_$shard" 300 env GTEST_TOTAL_SHARDS=4 GTEST_SHARD_INDEX=$shard "$contract" --gtest_brief=1 \
            "--gtest_output=xml:$out/contract_$shard.xml" &
    done
    for variant in ptx80 portable; do
        if [ -x "$hattn-$variant" ]; then
            verify "verify_$variant" 300 "$hattn-$variant" --backend cuda &
        else
            report "verify_$variant" skipped "no $hattn-$variant: tools/gpu_bundle.sh builds it"
        fi
    done
    wait
    rm -f "$out/reference.safetensors" "$out/cuda.safetensors"
}

find_sanitizer() {
    command -v compute-sanitizer || { [ -x /usr/local/cuda/bin/compute-sanitizer ] && echo /usr/local/cuda/bin/compute-sanitizer; }
}

# TOOL: the conformance list, an operation each, and a part of the serving contract, under compute-sanitizer side by side.
sanitize() {
    tool=$1
    if ! sanitizer=$(find_sanitizer); then
        report "$tool" skipped "compute-sanitizer is not installed"
        return
    fi
    for op in decode encode_queries encode_keys score topk attend_sparse attend_dense merge; do
        step "${tool}_$op" 420 "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 20 \
            "$hattn" verify --backend cuda --filter "/$op" --junit "$out/${tool}_$op.xml" &
    done
    step "${tool}_contract" 420 "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 20 "$contract" --gtest_brief=1 \
        "--gtest_filter=*PlansShareAWorkspaceInOrder*:*CallsOnlyEnqueue*" "--gtest_output=xml:$out/${tool}_contract.xml" &
    wait
}

part_memcheck() {
    sanitize memcheck
}

part_racecheck() {
    sanitize racecheck
}

part_bench() {
    step bench 460 "$hattn" bench --backend cuda --json "$out/bench.json"
    cat "$out/bench.log"
}

part_peers() {
    if ! python3 -c 'import torch' 2>/dev/null; then
        report peers skipped "python3 has no torch"
        return
    fi
    step peers 460 python3 "$root/bench/peers_cuda.py" --library "$library" --json "$out/peers.json" --markdown "$out/peers.md"
    cat "$out/peers.log"
}

for needed in "$hattn" "$contract" "$library"; do
    if [ ! -e "$needed" ]; then
        echo "no $needed: build it, or name a bundle with --binaries" >&2
        exit 2
    fi
done
# Why there is nothing to do here; empty where there is a GPU.
why=$("$hattn" verify --backend cuda --filter no_tokens/encode_keys 2>&1 >/dev/null | sed -n 's/^hattn verify: nothing to verify; //p')
for part in $parts; do
    if [ -n "$why" ]; then report "$part" skipped "$why"; else "part_$part"; fi
done
counts=$(python3 "$root/tests/summary.py" "$out"/*.xml)
echo "$counts"
case $counts in *" 0 failed,"*) ;; *) exit 1 ;; esac
