# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts at the root: quiet_bazel COMMAND OPTIONS... is Bazel with little to say, that also runs where
# HOME cannot be written and where the user has no name.
if [ -z "${USER:-}" ]; then
    USER=$(id -un 2>/dev/null || id -u)
    export USER
fi
bazel_cache=${HOME:-/nonexistent}/.cache
if mkdir -p "$bazel_cache" 2>/dev/null && [ -w "$bazel_cache" ]; then
    bazel_root=
else
    bazel_root=--output_user_root=${TMPDIR:-/tmp}/bazel-$(id -u)
fi

quiet_bazel() {
    quiet_bazel_command=$1
    shift
    bazel $bazel_root "$quiet_bazel_command" --noshow_progress --show_result=0 "$@"
}
