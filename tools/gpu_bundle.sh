#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds and strips what tools/gpu_check.sh runs, for a machine that has a GPU but no Bazel: tools/gpu_bundle.sh DIR
# [VARIANT...]. A VARIANT (see CONTRIBUTING) adds hattn-VARIANT; HATTN_HIP=1 in the environment adds HIP, HATTN_CUDA=0 leaves CUDA out. Golden
# files of examples/ come along. Fails if all of it is more than 40 MiB.
set -eu
dir=${1:?usage: gpu_bundle.sh DIR [VARIANT...]}
shift
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
cd "$(dirname "$0")/.."
. third_party/bazel.sh

for variant in "$@"; do
    quiet_bazel build -c opt "--//kernels_cuda:variant=$variant" //tools:hattn
    strip -o "$dir/hattn-$variant" bazel-bin/tools/hattn
done
quiet_bazel build -c opt //tools:hattn //tests:device_contract_test //:libhattn.so.0
for built in tools/hattn tests/device_contract_test libhattn.so.0; do
    strip --strip-unneeded -o "$dir/${built##*/}" "bazel-bin/$built"
done
cp examples/golden*.safetensors "$dir"
size=$(du -sk --apparent-size "$dir" | cut -f1)
echo "$dir: $size KiB"
[ "$size" -le 40960 ]
