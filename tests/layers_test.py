#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""No #include runs upward or sideways: every one of the tree against tests/layers.txt.
Usage: layers_test.py LAYERS_TXT, in a checkout or in a test's runfiles, whose links lead to one."""
import os
import re
import sys

SOURCES = (".h", ".c", ".cc", ".cu", ".cuh", ".inc")


def read_layers(path):
    """{name: line number}."""
    lines = [line.split() for line in open(path) if line.strip() and not line.startswith("#")]
    return {name: number for number, line in enumerate(lines) for name in line}


def layer_of(layers, path):
    """The longest name that is the path or a folder above it; None if there is none."""
    fitting = [name for name in layers if path == name or path.startswith(name + "/")]
    return max(fitting, key=len) if fitting else None


def sources(root):
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "bazel-")) and f != "bin")
        for name in sorted(files):
            if name.endswith(SOURCES):
                yield os.path.relpath(os.path.join(folder, name), root)


def wrong_include(layers, path, included):
    """"" or what is wrong with it."""
    own, other = layer_of(layers, path), layer_of(layers, included)
    if own is None or other is None:
        return "no layer has " + (path if own is None else included)
    if own == other or layers[other] < layers[own]:
        return ""
    return "%s includes %s, which is %s it" % (path, included, "beside" if layers[own] == layers[other] else "above")


def main(layers_txt):
    layers_txt = os.path.realpath(layers_txt)
    root, layers = os.path.dirname(os.path.dirname(layers_txt)), read_layers(layers_txt)
    includes, wrong = 0, []
    for path in sources(root):
        for included in re.findall(r'^\s*#\s*include "([^"]*)"', open(os.path.join(root, path)).read(), re.MULTILINE):
            includes += 1
            # NAME.inc may be made of NAME when the tree is built.
            if os.path.exists(os.path.join(root, included)) or os.path.exists(
                    os.path.join(root, re.sub(r"\.inc$", "", included))):
                problem = wrong_include(layers, path, included)
            else:
                problem = "%s includes %s, not from the root of the tree" % (path, included)
            wrong += [problem] if problem else []
    # The rule itself, on what it must refuse.
    for path, included in [("core/status.c", "backends/backend.h"), ("backends/cpu/score.c", "backends/cuda/cuda.h"),
                           ("conformance/checks.cc", "tools/args.h"), ("backends/backend.h", "backends/cpu/cpu.h")]:
        assert wrong_include(layers, path, included), (path, included)
    assert includes > 300, "only %d includes in %s" % (includes, root)
    print("\n".join(wrong) or "%d includes, none upward" % includes)
    return bool(wrong)


sys.exit(main(sys.argv[1]))
