# SPDX-License-Identifier: Apache-2.0
"""Makes a code object ready to be emulated.

    python3 build.py FILE ARCHITECTURE DIRECTORY

FILE is a code object, or a bundle of some, compressed or not. Writes DIRECTORY/object, index.txt (kernels, arguments, relocations,
why opcodes are refused), instructions.bin, unknown.txt, and emulate.so: a link to the functions of all opcodes of the
architecture, beside DIRECTORY, which are translated and compiled once.
"""
import hashlib
import importlib
import json
import os
import subprocess
import sys

import tinygrad

from code_object import CodeObject
from decode import Inst, check_types, decode
from opcodes import Pseudocode, make_function, own_function, own_types
from values import Unknown

_HERE = os.path.dirname(os.path.realpath(__file__))
_ROOT = os.path.dirname(os.path.dirname(_HERE))
_SOURCES = ("machine.c", "run.c", "own.c", "own_floats.c", "matrix.c")
_TRANSLATORS = ("build.py", "opcodes.py", "pseudocode.py", "expressions.py", "values.py")
_HEADERS = ("launch.h", "machine.h", "own.h")
_KINDS = ("SOP1Op", "SOP2Op", "SOPCOp", "SOPKOp", "SOPPOp", "SMEMOp", "DSOp", "FLATOp", "GLOBALOp", "SCRATCHOp", "MUBUFOp",
          "VOP1Op", "VOP2Op", "VOPCOp", "VOP3Op", "VOP3SDOp", "VOP3POp", "VOPDOp")
_COMPILER = ["gcc", "-std=gnu11", "-O2", "-ftree-vectorize", "-march=native", "-ffp-contract=off", "-fwrapv",
             "-fno-strict-aliasing", "-fPIC", "-shared", "-fvisibility=hidden", "-Wall", "-Werror", "-Wno-unused-variable",
             "-Wno-unused-but-set-variable"]


def _text(name):
    with open(os.path.join(_HERE, name), encoding="ascii") as file:
        return file.read()


# ---- functions of all opcodes ----

def translate(is_rdna):
    """(C source, {"kind name": [number, types] or why it is not known}). Function 0 refuses."""
    folder = "tinygrad.runtime.autogen.amd.%s." % ("rdna3" if is_rdna else "cdna")
    pseudocode = Pseudocode(importlib.import_module(folder + "str_pcode").PCODE)
    enums = importlib.import_module(folder + "enum")
    symbols, names, texts, known = ["own_refuse"], ["refused"], [], {}

    def add(kind, name, symbol, types):
        known["%s %s" % (kind, name)] = [len(symbols), types]
        symbols.append(symbol)
        names.append(name)

    add("VOPDOp", "PAIR", "own_pair", [])
    add("MUBUFOp", "BUFFER_GL0_INV", "own_nothing", [])
    add("MUBUFOp", "BUFFER_GL1_INV", "own_nothing", [])
    for kind in _KINDS:
        for op in getattr(enums, kind, ()):
            symbol, own = "op_%s_%s" % (kind, op.name), own_function(op.name)
            try:
                if own:
                    add(kind, op.name, own, own_types(op.name))
                    continue
                text, types = make_function(symbol, kind, op.name, pseudocode, is_rdna)
                add(kind, op.name, symbol, types)
                texts.append(text)
            except Unknown as error:
                known["%s %s" % (kind, op.name)] = str(error)
    source = '/* Made by build.py. */\n#include "tests/amdgpu/machine.h"\n#include "tests/amdgpu/own.h"\n\n' + "\n".join(texts)
    source += "\nFunction *const hattn_functions[] = {%s};\n" % ", ".join(symbols)
    source += '__attribute__((visibility("default"))) const char *const hattn_names[] = {%s};\n' % ", ".join(
        '"%s"' % name for name in names)
    return source, known


def functions(is_rdna, cache):
    """The library of functions, and what translate() found of opcodes."""
    texts = [_text(name) for name in _SOURCES + _HEADERS + _TRANSLATORS] + [str(is_rdna), os.path.dirname(tinygrad.__file__)]
    name = os.path.join(cache, "functions-%s" % hashlib.sha256("\0".join(texts).encode()).hexdigest()[:24])
    if not os.path.exists(name + ".json"):
        source, known = translate(is_rdna)
        made = "%s.%d" % (name, os.getpid())
        with open(made + ".c", "w", encoding="ascii") as file:
            file.write(source)
        command = _COMPILER + ["-DLANES=%d" % (32 if is_rdna else 64), "-I", _ROOT, made + ".c"]
        subprocess.run(command + [os.path.join(_HERE, s) for s in _SOURCES] + ["-lm", "-o", made + ".so"], check=True)
        with open(made + ".json", "w", encoding="ascii") as file:
            json.dump(known, file)
        for end in (".c", ".so", ".json"):
            os.rename(made + end, name + end)
    with open(name + ".json", encoding="ascii") as file:
        return name + ".so", json.load(file)


# ---- instructions ----

class Reader:
    def __init__(self, known, is_rdna):
        self.known, self.is_rdna = known, is_rdna
        self.refusals, self.unknown = ["no instruction starts here"], {}

    def refuse(self, inst, why):
        why = ("%s: %s" % (inst.name, why)).replace("\n", " ")
        self.unknown[why] = self.unknown.get(why, 0) + 1
        if why not in self.refusals:
            self.refusals.append(why)
        inst.function, inst.literal = 0, self.refusals.index(why)

    def assign(self, inst):
        found = self.known.get("%s %s" % (inst.kind, inst.name), "it is in no list")
        try:
            if isinstance(found, str):
                raise Unknown(found)
            inst.function = found[0]
            check_types(inst, [tuple(t) for t in found[1]])
        except Unknown as error:
            self.refuse(inst, str(error))

    def one(self, data):
        """(record, halves of a pair, bytes)"""
        try:
            inst = decode(data, self.is_rdna)
        except Unknown as error:
            inst = Inst(4, "", "word 0x%08x" % int.from_bytes(data[:4], "little"))
            self.refuse(inst, str(error))
            return inst.pack(), None, 4
        self.assign(inst)
        for half in inst.halves or ():
            self.assign(half)
        return (inst, inst.halves, inst.size) if inst.halves else (inst.pack(), None, inst.size)

    def all(self, code_object):
        """Records of all words, then those of halves of pairs."""
        base, code = code_object.code()
        padded = code + bytes(16)
        records, halves, seen = [Inst(4, "", "").pack()] * (len(code) // 4), [], {}
        for address, size in code_object.functions():
            at, end = address - base, address - base + size
            while at < end:
                found = None
                for length in (4, 8, 12):
                    found = found or seen.get(padded[at:at + length])
                if found is None:
                    found = self.one(padded[at:at + 16])
                    if not found[1]:
                        seen[padded[at:at + found[2]]] = found
                record, pair, length = found
                if pair:
                    record.literal = len(records) + len(halves)
                    halves += [half.pack() for half in pair]
                records[at // 4] = record.pack() if pair else record
                at += length
        return records + halves


# ---- files ----

def write_index(code_object, refusals, path):
    base, code = code_object.code()
    with open(path, "w", encoding="ascii") as out:
        print("code", base, len(code), file=out)
        for address, addend in code_object.relocations():
            print("relocation", address, addend, file=out)
        for kernel, entry, lds, scratch, size, rsrc1, rsrc2, properties in code_object.kernels():
            print("kernel", kernel[".name"], entry, lds, scratch, size, rsrc1, rsrc2, properties,
                  kernel.get(".max_flat_workgroup_size", 1024), file=out)
            for argument in kernel.get(".args", []):
                print("argument", argument[".offset"], argument[".size"], argument[".value_kind"], file=out)
        for why in refusals:
            print("refusal", why, file=out)


def unbundle(path, architecture, out):
    with open(path, "rb") as file:
        start = file.read(24)
    if start[:4] == b"CCOB" or start == b"__CLANG_OFFLOAD_BUNDLE__":
        subprocess.run(["clang-offload-bundler-19", "-unbundle", "-type=o", "-input=" + path, "-output=" + out,
                        "-targets=hipv4-amdgcn-amd-amdhsa--" + architecture], check=True)
    else:
        with open(path, "rb") as file, open(out, "wb") as copy:
            copy.write(file.read())


def build(path, architecture, directory):
    os.makedirs(directory, exist_ok=True)
    object_path = os.path.join(directory, "object")
    unbundle(path, architecture, object_path)
    with open(object_path, "rb") as file:
        code_object = CodeObject(file.read())
    if code_object.architecture != architecture or not architecture.startswith(("gfx9", "gfx11")):
        raise SystemExit("%s: a code object of %s, to be run as %s" % (path, code_object.architecture, architecture))
    is_rdna = architecture.startswith("gfx11")
    library, known = functions(is_rdna, os.path.dirname(os.path.abspath(directory)))
    reader = Reader(known, is_rdna)
    with open(os.path.join(directory, "instructions.bin"), "wb") as out:
        out.write(b"".join(reader.all(code_object)))
    with open(os.path.join(directory, "unknown.txt"), "w", encoding="ascii") as out:
        for why, count in sorted(reader.unknown.items()):
            print(count, why, file=out)
    link = os.path.join(directory, "emulate.so")
    if os.path.lexists(link):
        os.remove(link)
    os.symlink(library, link)
    write_index(code_object, reader.refusals, os.path.join(directory, "index.txt"))


if __name__ == "__main__":
    build(*sys.argv[1:])
