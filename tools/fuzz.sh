#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The long random run, on all processors: tools/fuzz.sh [--binaries DIR] [--seed S] PROBLEMS HEADERS
# PROBLEMS small random problems of seeds S, S + 1, ... (problems/random_problem.cc), each on every instruction set that this machine
# has, and HEADERS traces with a damaged header. The binaries are those of `bazel build -c opt`, or lie in DIR. The last line says
# what was done; what failed, and how to repeat it, is printed before. On a GPU: hattn verify --backend cuda --small N.
set -u
usage() {
    echo "usage: fuzz.sh [--binaries DIR] [--seed S] PROBLEMS HEADERS" >&2
    exit 2
}
is_number() {
    case $1 in '' | *[!0-9]*) return 1 ;; esac
}
root=$(cd "$(dirname "$0")/.." && pwd)
binaries=$root/bazel-bin/tests
seed=1
while [ $# -gt 2 ]; do
    case $1 in
    --binaries) binaries=$2 && shift ;;
    --seed) seed=$2 && shift ;;
    *) usage ;;
    esac
    shift
done
if [ $# -ne 2 ] || ! is_number "$seed" || ! is_number "$1" || ! is_number "$2"; then usage; fi
problems=$1 headers=$2
for needed in random_test safetensors_test; do
    if [ ! -x "$binaries/$needed" ]; then
        echo "no $binaries/$needed: bazel build -c opt //tests:$needed" >&2
        exit 2
    fi
done

logs=$(mktemp -d)
trap 'rm -r "$logs"' EXIT
# Devices are left out, and threads that wait sleep: there is a process for each processor.
export CUDA_VISIBLE_DEVICES= OMP_WAIT_POLICY=passive
processes=$(nproc) given=0 i=0 running= status=0
while [ $i -lt "$processes" ]; do
    i=$((i + 1))
    number=$((problems * i / processes - given))
    if [ $number -gt 0 ]; then
        "$binaries/random_test" --problems=0 --small=$number --seed=$((seed + given)) >"$logs/$i" 2>&1 &
        running="$running $!"
    fi
    given=$((given + number))
done
if [ "$headers" -gt 0 ]; then
    HATTN_DAMAGED_HEADERS=$headers "$binaries/safetensors_test" '--gtest_filter=*Fuzzed*' --gtest_brief=1 >"$logs/headers" 2>&1 &
    running="$running $!"
fi
for pid in $running; do
    wait "$pid" || status=1
done
# What did not run did not pass.
counted=$(cat "$logs"/* | awk '/ problems from seed / { sum += $1 } END { print sum + 0 }')
[ "$counted" -eq "$problems" ] || status=1
[ "$headers" -eq 0 ] || grep -q 'PASSED.* 1 test\.' "$logs/headers" || status=1
[ $status -eq 0 ] || grep -hE 'failed|FAILED|error|fault' "$logs"/* | head -40
cat "$logs"/* | awk -v headers="$headers" -v status=$status '/ problems from seed / { problems += $1; passed += $6; failed += $9; refused += $11 }
    END { printf "%d problems, %d operations passed, %d failed, %d refused; %d damaged headers; %s\n",
                 problems, passed, failed, refused, headers, status ? "something was wrong" : "nothing was wrong" }'
exit $status
