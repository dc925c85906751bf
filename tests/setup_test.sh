#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What ./run.sh says while it installs and builds, with stand-ins for the packages' tools and Bazel: what will happen and
# how long it takes, on stderr; stdout is the tool's.
set -eu
cp -RL run.sh third_party "$TEST_TMPDIR"
cd "$TEST_TMPDIR"
mkdir fake
stand_in() { # NAME: a command made of stdin
    { echo '#!/bin/sh' && cat; } >"fake/$1"
    chmod +x "fake/$1"
}
stand_in bazel <<'COMMAND'
echo "$*" >>bazel.log
mkdir -p bazel-bin/tools
printf '#!/bin/sh\necho "tool: $*"\n' >bazel-bin/tools/hattn
echo noise >&2
COMMAND
stand_in dpkg-query <<'COMMAND'
[ -e installed ] && echo 'install ok installed'
COMMAND
stand_in apt-get <<'COMMAND'
echo "apt-get says much"
touch installed
COMMAND
stand_in id <<'COMMAND'
echo 0
COMMAND
stand_in nvcc </dev/null
stand_in clang-19 </dev/null
export PATH="$TEST_TMPDIR/fake:$PATH"

run() { # the output in out and err
    ./run.sh "$@" >out 2>err
    [ "$(cat out)" = "tool: $*" ] || {
        cat out
        echo "^ stdout is not the tool's alone" >&2
        exit 1
    }
}
says() {
    grep -q "$1" err || {
        cat err
        echo "^ stderr does not say '$1'" >&2
        exit 1
    }
}

HATTN_HIP=1 run info
says 'installing with apt-get, which can take minutes: bazel-bootstrap'
says "building the hattn command with CUDA by $TEST_TMPDIR/fake/nvcc (HATTN_CUDA=0 leaves it out): the first time takes about"
says "and with HIP by $TEST_TMPDIR/fake/clang-19, many minutes more"
grep -qe '--noshow_progress' bazel.log

run verify --backend cpu
[ "$(cat err)" = noise ] # built before: nothing to say

rm -r bazel-bin
HATTN_CUDA=0 run info
says 'building the hattn command without CUDA (HATTN_CUDA is 0)'
if grep 'with HIP' err; then
    exit 1
fi

rm bazel.log
script -qec './run.sh info >out' /dev/null >terminal
[ "$(cat out)" = "tool: info" ]
grep -qe '--show_progress' bazel.log
