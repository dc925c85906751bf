# SPDX-License-Identifier: Apache-2.0
"""Reads what clang made of kernels_hip: the code objects in an object of the host, their kernels' metadata and their instructions."""
import collections
import os
import re
import subprocess

TOOLS = "/usr/lib/llvm-19/bin/"
FIELD = re.compile(r"^\s*(?:- )?\.(\w+):\s+(\S+)")
WANTED = {"vgpr_count", "sgpr_count", "group_segment_fixed_size", "private_segment_fixed_size", "max_flat_workgroup_size", "symbol"}
LINE = re.compile(r"^\s+(\S.*?)\s*// ([0-9A-F]+):[^<]*(?:<[^>+]*(?:\+0x([0-9a-f]+))?>)?$")

# target: the address where it jumps to, or None
Instruction = collections.namedtuple("Instruction", "address text target")


def run(*command, text=None):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, input=text, encoding="ascii").stdout


def code_objects(path, folder):
    """{target: path of its code object} of an object of the host."""
    bundle = os.path.join(folder, "bundle")
    run("objcopy", "-O", "binary", "-j", ".hip_fatbin", "--set-section-flags", ".hip_fatbin=alloc", path, bundle)
    found = {}
    if not os.path.getsize(bundle):
        return found # no kernels
    for entry in run(TOOLS + "clang-offload-bundler", "--list", "--type=o", "--input=" + bundle).split():
        target = entry.rpartition("-")[2]
        if target.startswith("gfx"):
            found[target] = os.path.join(folder, target)
            run(TOOLS + "clang-offload-bundler", "--unbundle", "--type=o", "--input=" + bundle, "--targets=" + entry,
                "--output=" + found[target])
    return found


def kernels(code_object):
    """The metadata of each kernel."""
    rows, row = [], {}
    for line in run(TOOLS + "llvm-readelf", "--notes", code_object).split("\n"):
        match = FIELD.match(line)
        if not match or match[1] not in WANTED:
            continue
        if match[1] in row:
            row = {}
        row[match[1]] = match[2] if match[1] == "symbol" else int(match[2])
        if len(row) == len(WANTED):
            rows.append(row)
            row = {}
    return rows


def instructions(code_object):
    """{kernel: its Instructions}"""
    found, base = collections.defaultdict(list), 0
    for line in run(TOOLS + "llvm-objdump", "-d", "--no-show-raw-insn", code_object).split("\n"):
        if line.endswith(">:"):
            base, name = int(line[:line.index(" ")], 16), line[line.index("<") + 1:-2]
            continue
        match = LINE.match(line)
        if match:
            jumps = "<" in line
            found[name].append(Instruction(int(match[2], 16), match[1], base + int(match[3] or "0", 16) if jumps else None))
    return found


def loops(code):
    """Of a kernel's Instructions: those of each loop, short ones first: from where a jump goes back to, to the jump."""
    places = {instruction.address: i for i, instruction in enumerate(code)}
    ends = {(places[jump.target], i) for i, jump in enumerate(code) if jump.target in places and jump.target <= jump.address}
    return [code[first:last + 1] for first, last in sorted(ends, key=lambda ends: ends[1] - ends[0])]


def count(code, opcodes):
    """Instructions whose opcode begins as the regular expression says."""
    return sum(bool(re.match(opcodes, instruction.text)) for instruction in code)
