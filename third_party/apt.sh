# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts at the root: installs those of Debian 12's packages that are missing, and nothing else.
packages="
    bazel-bootstrap bazel-rules-java bazel-rules-proto bazel-platforms
    googletest libjansson-dev libsimde-dev pkg-config python3 python3-numpy python3-venv
    g++-aarch64-linux-gnu qemu-user
    clang-format-14
    opencl-headers ocl-icd-libopencl1 pocl-opencl-icd
"
[ "${HATTN_HIP:-0}" = 0 ] || packages="$packages clang-19 clang-tools-19 lld-19 llvm-19"
missing=
for package in $packages; do
    dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q ' installed$' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        as_root=sudo
        if ! sudo -n true 2>/dev/null && ! { command -v sudo >/dev/null && [ -t 0 ]; }; then
            echo "missing packages; as root, run: apt-get install --no-install-recommends$missing" >&2
            exit 1
        fi
    fi
    echo "installing with apt-get, which can take minutes:$missing" >&2
    exec 3>/dev/null
    [ ! -t 2 ] || exec 3>&2
    $as_root apt-get update -qq >&3
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >&3
    exec 3>&-
fi
