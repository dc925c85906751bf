#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# tools/fuzz.sh, shortly; and that it says so when something fails. Usage: fuzz_test.sh RANDOM_TEST SAFETENSORS_TEST
set -eu
mkdir "$TEST_TMPDIR/binaries" "$TEST_TMPDIR/broken"
for binary in "$@"; do
    ln -s "$PWD/$binary" "$TEST_TMPDIR/binaries/"
    printf '#!/bin/sh\necho memory fault\nexit 3\n' >"$TEST_TMPDIR/broken/${binary##*/}"
done
chmod +x "$TEST_TMPDIR/broken/"*

tools/fuzz.sh --binaries "$TEST_TMPDIR/binaries" --seed 100 23 50 >"$TEST_TMPDIR/printed"
cat "$TEST_TMPDIR/printed"
tail -n 1 "$TEST_TMPDIR/printed" | grep '^23 problems, [1-9][0-9]* operations passed, 0 failed, [0-9]* refused; 50 damaged headers; nothing was wrong$'

if tools/fuzz.sh --binaries "$TEST_TMPDIR/broken" 5 5 >"$TEST_TMPDIR/printed"; then
    echo "broken binaries passed"
    exit 1
fi
grep '^memory fault$' "$TEST_TMPDIR/printed"
tail -n 1 "$TEST_TMPDIR/printed" | grep 'something was wrong$'
printf '#!/bin/sh\n' >"$TEST_TMPDIR/broken/random_test"
cp "$TEST_TMPDIR/broken/random_test" "$TEST_TMPDIR/broken/safetensors_test"
for asked in "5 0" "0 5"; do
    # shellcheck disable=SC2086
    if tools/fuzz.sh --binaries "$TEST_TMPDIR/broken" $asked; then
        echo "binaries that run nothing passed"
        exit 1
    fi
done
for wrong in "5" "5 x" "--seed 5" "--binaries $TEST_TMPDIR/none 5 5"; do
    # shellcheck disable=SC2086
    if tools/fuzz.sh $wrong; then
        echo "fuzz.sh $wrong passed"
        exit 1
    fi
done
