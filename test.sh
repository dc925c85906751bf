#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, runs every test, and puts three of the bugs of tests/mutants into a copy of the tree, which the tests must
# find: other ones each day. The Python tests run where their virtual environment is; --python makes it first. With --sanitizers, the tests
# under gcc's address, undefined behaviour and thread sanitizers instead, of the conformance list a fifth, each day another; with
# --mutants, all bugs instead, which takes an hour. The last line counts test cases and bugs.
set -eu
cd "$(dirname "$0")"
part=
case "$*" in
"") configs=opt python= ;;
--python) configs=opt python=--install ;;
--sanitizers) configs="asan ubsan tsan" ;;
--mutants) configs= ;;
*)
    echo "usage: ./test.sh [--python | --sanitizers | --mutants]" >&2
    exit 2
    ;;
esac
. third_party/apt.sh
. third_party/bazel.sh
if [ -z "$configs" ]; then
    exec tests/mutants/run.py
fi
case $configs in
opt) tell_build "every test" "then all of them run, which takes minutes" ;;
*)
    part="$(($(date +%s) / 86400 % 5))/5"
    echo "building and running every test under each of: $configs, of the conformance list part $part, which takes an hour or two" >&2
    ;;
esac
status=0
events=$(mktemp -d)
trap 'rm -r "$events"' EXIT
for config in $configs; do
    quiet_bazel test --keep_going --max_test_output_bytes=60000 ${part:+--test_env=HATTN_PROBLEMS=$part} --config=$config --build_event_json_file="$events/$config" //... || status=$?
done
if [ $status -eq 0 ] && [ "$configs" = opt ]; then
    tests/mutants/run.py --few 3 --seed "$(date +%Y%m%d)" --junit "$events/mutants.xml" || status=$?
fi
if [ "$configs" = opt ]; then
    tests/python/run.py $python --junit "$events/python.xml" || status=$?
fi
python3 tests/summary.py "$events"/*
exit $status
