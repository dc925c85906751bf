#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# What a user does after ./install.sh: asks pkg-config, compiles a program of their own against both libraries, as C and
# as C++, and runs it. The files are those that Bazel built for this test.
set -eu
prefix=$TEST_TMPDIR/usr
./install.sh --prefix "$prefix" --from .
cd "$TEST_TMPDIR"

# The same files where a package would stage them, with the paths of where they will live.
source=$TEST_SRCDIR/$TEST_WORKSPACE
"$source/install.sh" --prefix /opt/hattn --destdir stage --from "$source"
staged=$(cd "$prefix" && find . | sort)
if [ "$staged" != "$(cd stage/opt/hattn && find . | sort)" ]; then
    echo "--destdir installs other files than --prefix" >&2
    exit 1
fi
grep -qx 'prefix=/opt/hattn' stage/opt/hattn/lib/pkgconfig/hattn.pc

cat >user.c <<'PROGRAM'
#include <hattn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The 4 best of 64 scores where every seventh stands out, the first of all included. */
int main(void)
{
    enum { NUM_KEYS = 64, K = 4 };
    hattn_error error;
    hattn_device *device = NULL;
    hattn_plan *plan = NULL;
    hattn_problem problem;
    memset(&problem, 0, sizeof(problem));
    problem.struct_size = sizeof(problem);
    problem.num_q_heads = problem.num_kv_heads = 1;
    problem.head_dim_qk = 64;
    problem.code_bits = 64;
    problem.max_sequences = problem.max_rows = 1;
    problem.max_length = NUM_KEYS;
    problem.k = K;
    problem.q.dtype = problem.k_cache.dtype = HATTN_F16;
    if (hattn_device_open(NULL, &device, &error) != HATTN_OK ||
        hattn_plan_create(device, &problem, &plan, &error) != HATTN_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }

    hattn_exec exec;
    memset(&exec, 0, sizeof(exec));
    exec.struct_size = sizeof(exec);
    exec.workspace_size = (hattn_plan_workspace_size(plan) + 255) / 256 * 256;
    exec.workspace.data = aligned_alloc(256, exec.workspace_size);

    uint16_t scores[NUM_KEYS];
    int32_t length = NUM_KEYS, indices[K], count = -1;
    for (int j = 0; j < NUM_KEYS; j++)
        scores[j] = (uint16_t)(j % 7 == 0 ? 60 - j / 7 : 3);
    hattn_topk_args args;
    memset(&args, 0, sizeof(args));
    args.struct_size = sizeof(args);
    args.batch.num_sequences = args.batch.num_rows = args.batch.q_len = 1;
    args.batch.seq_len.data = &length;
    args.scores.data = scores;
    args.indices.data = indices;
    args.counts.data = &count;
    if (hattn_workspace_init(device, exec.workspace, exec.workspace_size, NULL, &error) != HATTN_OK ||
        hattn_topk(plan, &args, &exec, &error) != HATTN_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    printf("%d: %d %d %d %d, version %d\n", count, indices[0], indices[1], indices[2], indices[3], hattn_version());
    free(exec.workspace.data);
    hattn_plan_destroy(plan);
    hattn_device_close(device);
    return 0;
}
PROGRAM
cp user.c user.cc

export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
version=$(pkg-config --modversion hattn)
number=$(echo "$version" | awk -F. '{ print $1 * 10000 + $2 * 100 + $3 }')
expected="4: 0 7 14 21, version $number"
check() { # NAME COMPILER FLAGS...: compiles and runs ./NAME
    name=$1
    shift
    "$@" -Wall -Wextra -Werror -o "$name"
    got=$("./$name")
    echo "$name: $got"
    [ "$got" = "$expected" ]
}
cflags=$(pkg-config --cflags hattn)
shared=$(pkg-config --libs hattn)
static=$(pkg-config --libs --static hattn)
check static_c gcc -std=c11 $cflags user.c -static $static
check static_cc g++ -std=c++17 $cflags user.cc -static $static
export LD_LIBRARY_PATH="$prefix/lib"
check shared_c gcc -std=c11 -pedantic $cflags user.c $shared
check shared_cc g++ -std=c++17 $cflags user.cc $shared
ldd ./shared_c | grep -q "libhattn.so.0 => $prefix/lib/libhattn.so.0"

[ "$("$prefix/bin/hattn" --version)" = "hattn $version" ]

# Prefixes that a shell, sed or pkg-config would read in another way; the last one is relative.
cat >version.c <<'PROGRAM'
#include <hattn.h>
int main(void) { return hattn_version() != HATTN_VERSION_MAJOR * 10000 + HATTN_VERSION_MINOR * 100 + HATTN_VERSION_PATCH; }
PROGRAM
while IFS= read -r odd; do
    odd_root=$TEST_TMPDIR/$odd
    case $odd in
    relative*) "$source/install.sh" --prefix "$odd" --from "$source" ;;
    *) "$source/install.sh" --prefix "$odd_root" --from "$source" ;;
    esac
    export PKG_CONFIG_PATH="$odd_root/lib/pkgconfig" LD_LIBRARY_PATH="$odd_root/lib"
    eval "gcc -std=c11 -o odd version.c $(pkg-config --cflags --libs hattn)"
    ./odd
    [ "$(pkg-config --variable=prefix hattn | sed 's/\\\(.\)/\1/g')" = "$odd_root" ]
done <<'PREFIXES'
with a space
 &|\1'"#%[]{}*?!`<>=~é
back\\slash\n
relative/deep & wide
PREFIXES
for refused in '/a(b)' '/a$b' '/a ' '/a
b'; do
    if "$source/install.sh" --prefix "$refused" --from "$source" 2>refusal; then
        echo "--prefix '$refused' is accepted" >&2
        exit 1
    fi
    [ "$(wc -l <refusal)" -eq 1 ]
done
