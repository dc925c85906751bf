#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing and runs every test; with --sanitizers, under gcc's address, undefined behaviour and thread
# sanitizers instead. The last line counts test cases; the exit status is Bazel's.
set -eu
cd "$(dirname "$0")"
case "$*" in
"") configs=opt ;;
--sanitizers) configs="asan ubsan tsan" ;;
*)
    echo "usage: ./test.sh [--sanitizers]" >&2
    exit 2
    ;;
esac
. third_party/apt.sh
. third_party/bazel.sh
case $configs in
opt) tell_build "every test" "then all of them run, which takes minutes" ;;
*) echo "building and running every test under each of: $configs, which takes many minutes" >&2 ;;
esac
status=0
events=$(mktemp -d)
trap 'rm -r "$events"' EXIT
for config in $configs; do
    quiet_bazel test --keep_going --max_test_output_bytes=60000 --config=$config --build_event_json_file="$events/$config" //... || status=$?
done
python3 tests/summary.py "$events"/*
exit $status
