#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Kernels name no intrinsic, instruction or call of a vendor's: the headers of dialects have them all, in the same sections.
Usage: vendor_test.py LAYERS_TXT, in a checkout or in a test's runfiles, whose links lead to one."""
import os
import re
import sys

SOURCES = (".cu", ".cuh", ".inc")
# What every vendor's compiler for this dialect knows by these names.
DIALECT = set("""__device__ __global__ __host__ __shared__ __syncthreads __launch_bounds__ __grid_constant__
    __noinline__ __align__ __builtin_assume_aligned""".split())
INTRINSIC = re.compile(r"\b(__\w+|atomic[A-Z]\w*|asm|volatile|cu(?:da)?[A-Z]\w*)\b|(<<<|#include <cu\w*)")
COMMENT = re.compile(r"/\*.*?\*/", re.S)
# The CUDA dialect, which may name anything, and the twins that are every dialect's.
DIALECTS = ("device/cuda.cuh", "device/cuda_fast.cuh")
TWINS = ("device/plain.cuh", {"volatile"})


def named(path, text):
    """The vendor's words in a file, (line, word) each, that do not belong there. path: below kernels_cuda."""
    text = COMMENT.sub(lambda match: "\n" * match.group().count("\n"), text)
    for number, line in enumerate(text.split("\n"), 1):
        words = [word for match in INTRINSIC.finditer(line) for word in match.groups() if word]
        for word in words:
            if path not in DIALECTS and word not in DIALECT and not (path == TWINS[0] and word in TWINS[1]):
                yield number, word


# nvcc gives the host a body that calls exit for a device function that is neither a template nor inline: a library of ours may not.
LOOSE = re.compile(r"(?<!>\n)^__device__ (?!inline\b)", re.M)


def loose(text):
    """The lines of such functions."""
    return [text.count("\n", 0, match.start()) + 1 for match in LOOSE.finditer(text)]


# Headers that are read beside each other: their sections are the same, in one order.
TWIN_HEADERS = (("kernels_cuda/device/cuda.cuh", "kernels_hip/hip.cuh"),
                ("kernels_cuda/device/cuda_fast.cuh", "kernels_cuda/device/plain.cuh", "kernels_hip/hip_fast.cuh"))
SECTION = re.compile(r"^/\* -+ ([a-z ]+) -+", re.M)


def unlike(root):
    """Headers of a row whose sections are not those of its first."""
    for row in TWIN_HEADERS:
        sections = [SECTION.findall(open(os.path.join(root, path)).read()) for path in row]
        assert len(sections[0]) > 3, row[0]
        for path, its in zip(row, sections):
            if its != sections[0]:
                yield "%s: its sections are %s, those of %s %s" % (path, its, row[0], sections[0])


def check_the_check():
    for line in ("x = __shfl_sync(m, x, 0);", "__syncwarp();", "atomicAdd(p, 1);", 'asm("");', "kernel<<<1, 2>>>();",
                 "cudaMalloc(&p, 1);", "#include <cuda_fp16.h>", "__half x;", "*(volatile int *)p = 0;"):
        assert list(named("select/x.cuh", line)), line
    for line in ("__device__ int f() { __syncthreads(); }", "/* __shfl_sync in\n words */", "atomic_add(p, 1);"):
        assert not list(named("select/x.cuh", line)), line
    for path in ("device/memory.cuh", "device/plain.cuh"):
        for line in ("cudaGetLastError();", "#include <cuda_fp16.h>", "__ldcg(p);"):
            assert list(named(path, line)), (path, line)
    assert not list(named("device/plain.cuh", "*(volatile int *)p = 0;"))
    assert not list(named("device/cuda.cuh", "__ldcg(p);"))
    assert loose("\n__device__ int f()") == [2]
    assert not loose("__device__ inline int f()\ntemplate <int N>\n__device__ int f()\nstruct S {\n    __device__ S()")


def main(layers):
    check_the_check()
    root = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(layers))), "kernels_cuda")
    files = sorted(os.path.relpath(os.path.join(folder, name), root)
                   for folder, _, names in os.walk(root) for name in names if name.endswith(SOURCES))
    assert len(files) > 30, "only %d files in %s" % (len(files), root)
    wrong = ["kernels_cuda/%s:%d: %s is for a dialect (kernels_cuda/device/cuda.cuh)" % (path, number, word)
             for path in files for number, word in named(path, open(os.path.join(root, path)).read())]
    wrong += ["kernels_cuda/%s:%d: a device function that is not inline calls exit on the host" % (path, line)
              for path in files for line in loose(open(os.path.join(root, path)).read())]
    wrong += unlike(os.path.dirname(root))
    print("\n".join(wrong) or "%d files" % len(files))
    return bool(wrong)


sys.exit(main(sys.argv[1]))
