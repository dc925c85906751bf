#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what is missing, builds ./bin/hattn, and shows on two real traces what every backend of this machine does with
# every hash map. With arguments: ./run.sh ARGUMENTS builds the same and runs `hattn ARGUMENTS`.
set -eu
cd "$(dirname "$0")"
. third_party/apt.sh
. third_party/bazel.sh
[ -e bazel-bin/tools/hattn ] ||
    tell_build "the hattn command" "the first time takes about a minute on two cores, with CUDA about fifteen"
quiet_bazel build -c opt //tools:hattn
mkdir -p bin
install -m 755 bazel-bin/tools/hattn bin/hattn
if [ $# -gt 0 ]; then
    exec bin/hattn "$@"
fi
bin/hattn info
for trace in examples/layer5.safetensors examples/layer3.safetensors; do
    echo
    bin/hattn decode --trace $trace --topk 512
    echo
    echo "HashAttention as published: each query head selects, 128 first and 128 last tokens always kept"
    bin/hattn decode --trace $trace --topk 512 --maps hashattention32 --select query --sink 128 --recent 128
done
