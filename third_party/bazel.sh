# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts at the root: quiet_bazel COMMAND OPTIONS... is Bazel with little to say (its progress on a
# terminal), that also runs where HOME cannot be written and where the user has no name.
if [ -z "${USER:-}" ]; then
    USER=$(id -un 2>/dev/null || id -u)
    export USER
fi
if [ -n "${HOME:-}" ] && mkdir -p "$HOME/.cache" 2>/dev/null && [ -w "$HOME/.cache" ]; then
    bazel_root=
else
    bazel_root=--output_user_root=${TMPDIR:-/tmp}/bazel-$(id -u)
fi

quiet_bazel() {
    quiet_bazel_command=$1
    shift
    quiet_bazel_progress=--noshow_progress
    [ ! -t 2 ] || quiet_bazel_progress=--show_progress
    bazel $bazel_root "$quiet_bazel_command" $quiet_bazel_progress --show_result=0 "$@"
}

# tell_build WHAT HOW_LONG: says on stderr what is about to take minutes, and whether CUDA and HIP are built.
tell_build() {
    tell_build_nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
    if [ "${HATTN_CUDA:-1}" = 0 ]; then
        tell_build_cuda="without CUDA (HATTN_CUDA is 0)"
    elif [ -x "$tell_build_nvcc" ]; then
        tell_build_cuda="with CUDA by $tell_build_nvcc (HATTN_CUDA=0 leaves it out)"
    else
        tell_build_cuda="without CUDA (there is no nvcc)"
    fi
    echo "building $1 $tell_build_cuda: $2" >&2
    if [ "${HATTN_HIP:-0}" != 0 ] && command -v clang-19 >/dev/null; then
        echo "and with HIP by $(command -v clang-19), many minutes more the first time" >&2
    fi
}
