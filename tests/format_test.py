#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every C, C++ and CUDA file is as clang-format 14 lays it out (Debian 12's: other versions differ).
Usage: format_test.py CLANG_FORMAT_RULES, the .clang-format of a checkout, or a link to it."""
import os
import subprocess
import sys

SOURCES = (".h", ".c", ".cc", ".cu", ".cuh")


def main(rules):
    root = os.path.dirname(os.path.realpath(rules))
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith((".", "bazel-")) and f != "bin"]
        files += [os.path.join(folder, name) for name in names if name.endswith(SOURCES)]
    assert len(files) > 150, "only %d files in %s" % (len(files), root)
    command = ["clang-format-14", "--dry-run", "-Werror"]
    bad = subprocess.run(command + ["-"], input="int  main( )\n{}", cwd=root, text=True, capture_output=True)
    assert bad.returncode, "clang-format takes everything"
    result = subprocess.run(command + sorted(files), cwd=root, text=True, capture_output=True)
    print(result.stderr[:8000] or "%d files" % len(files))
    return result.returncode != 0


sys.exit(main(sys.argv[1]))
