# SPDX-License-Identifier: Apache-2.0
# For tests: the virtual environment with the decoder, made once, and what the emulator asks of the environment. Without it a test ends
# here, says why, and is counted as skipped.
cache=${HATTN_AMDGPU_CACHE:-${HOME:+$HOME/.cache/hattn-amdgpu}}
cache=${cache:-$TEST_TMPDIR/amdgpu}
wheel=tinygrad==0.14.0
# The test's one case, skipped: WHY
skip() {
    echo "skipped: $1"
    name=${TEST_TARGET:-${0##*/}}
    [ -z "${XML_OUTPUT_FILE:-}" ] || echo "<testsuites><testsuite name=\"$name\"><testcase name=\"$name\"><skipped message=\"$1\"/>\
</testcase></testsuite></testsuites>" >"$XML_OUTPUT_FILE"
    exit 0
}
# All cases of JUnit files, as Bazel's: FILE...
count_cases() {
    [ -z "${XML_OUTPUT_FILE:-}" ] || {
        echo '<testsuites>'
        sed '/^<?xml/d; s/<\/*testsuites[^>]*>//' "$@"
        echo '</testsuites>'
    } >"$XML_OUTPUT_FILE"
}
mkdir -p "$cache"
exec 9>"$cache/lock" # tests run at once
flock 9
if [ ! -e "$cache/$wheel" ]; then
    if ! python3 -m venv "$cache/venv" ||
        ! "$cache/venv/bin/pip" --quiet --disable-pip-version-check --retries 1 install --no-deps "$wheel"; then
        skip "$wheel, whose decoder and pseudocode these tests need, is not to be had"
    fi
    touch "$cache/$wheel"
fi
exec 9>&-
export HATTN_AMDGPU_CACHE="$cache" HATTN_AMDGPU_PYTHON="$cache/venv/bin/python"
HATTN_AMDGPU_BUILDER=$(realpath tests/amdgpu/build.py)
export HATTN_AMDGPU_BUILDER
