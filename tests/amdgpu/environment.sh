# SPDX-License-Identifier: Apache-2.0
# For tests: the virtual environment with the decoder, made once, and what the emulator asks of the environment. Without it a test ends
# here, and says why.
cache=${HATTN_AMDGPU_CACHE:-${HOME:+$HOME/.cache/hattn-amdgpu}}
cache=${cache:-$TEST_TMPDIR/amdgpu}
wheel=tinygrad==0.14.0
mkdir -p "$cache"
exec 9>"$cache/lock" # tests run at once
flock 9
if [ ! -e "$cache/$wheel" ]; then
    if ! python3 -m venv "$cache/venv" || ! "$cache/venv/bin/pip" --quiet install --no-deps "$wheel"; then
        echo "skipped: $wheel, whose decoder and pseudocode these tests need, is not to be had"
        exit 0
    fi
    touch "$cache/$wheel"
fi
exec 9>&-
export HATTN_AMDGPU_CACHE="$cache" HATTN_AMDGPU_PYTHON="$cache/venv/bin/python"
HATTN_AMDGPU_BUILDER=$(realpath tests/amdgpu/build.py)
export HATTN_AMDGPU_BUILDER
