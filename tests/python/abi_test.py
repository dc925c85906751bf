#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""python/hattn/abi.py is what python/write_abi.py makes of api/hattn.h, and its layouts are the C compiler's.
Usage: abi_test.py HATTN_H WRITE_ABI_PY ABI_PY"""
import ctypes
import importlib.util
import os
import re
import subprocess
import sys
import tempfile


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def layouts(abi):
    """{what: number} of every struct, field and constant, as ctypes has it."""
    numbers = {}
    for value in vars(abi).values():
        if isinstance(value, type) and issubclass(value, ctypes.Structure):
            numbers["sizeof(%s)" % value.__doc__] = ctypes.sizeof(value)
            for name, *_ in value._fields_:
                field = getattr(value, name)
                numbers["offsetof(%s, %s)" % (value.__doc__, name)] = field.offset
                numbers["sizeof(((%s *)0)->%s)" % (value.__doc__, name)] = field.size
    for name, value in vars(abi).items():
        if name.isupper() and isinstance(value, int):
            numbers["HATTN_" + name] = value
    return numbers


def compiled(header, expressions):
    """What the C compiler makes of them."""
    lines = ['#include "%s"' % header, "#include <stdio.h>", "int main(void)", "{"]
    lines += ['    printf("%%ld\\n", (long)(%s));' % expression for expression in expressions] + ["    return 0;", "}"]
    with tempfile.TemporaryDirectory() as folder:
        source, program = os.path.join(folder, "layout.c"), os.path.join(folder, "layout")
        with open(source, "w") as file:
            file.write("\n".join(lines))
        subprocess.run([os.environ.get("CC", "cc"), "-std=c11", "-o", program, source], check=True)
        return [int(line) for line in subprocess.run([program], check=True, stdout=subprocess.PIPE).stdout.split()]


def wrong_layouts(header, abi):
    ours = layouts(abi)
    return ["%s is %d, in abi.py %d" % (what, theirs, ours[what])
            for what, theirs in zip(ours, compiled(header, list(ours)), strict=True) if theirs != ours[what]]


def main(header, writer, written):
    header = os.path.realpath(header)
    with open(header) as file:
        text = file.read()
    with open(written) as file:
        write_abi = load(writer, "write_abi")
        if write_abi.abi(write_abi.Header(text)) != file.read():
            print("another header's: python3 python/write_abi.py api/hattn.h > python/hattn/abi.py")
            return 1
    abi = load(written, "abi")
    wrong = wrong_layouts(header, abi)
    # Everything of the header is there, by a count that shares nothing with write_abi.py.
    assert len(abi.FUNCTIONS) == text.count("\nHATTN_API "), len(abi.FUNCTIONS)
    structs = [name for name in re.findall(r"^} (hattn_\w+);", text, re.M) if "enum " + name not in text]
    assert all("sizeof(%s)" % name in layouts(abi) for name in structs) and len(structs) > 15, structs
    # The comparison itself, on what it must refuse.
    broken = type(sys)("broken")
    fields = [(name, ctypes.c_int64 if name == "memory" else kind) for name, kind in abi.Tensor._fields_]
    broken.Tensor = type("Tensor", (ctypes.Structure,), {"_fields_": fields, "__doc__": "hattn_tensor"})
    assert wrong_layouts(header, broken), "an int64 for an int32 passes"
    print("\n".join(wrong) or "%d layouts and constants" % len(layouts(abi)))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
