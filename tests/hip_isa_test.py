#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the code objects of kernels_hip ask of a device: registers, shared memory, scratch, waves for each SIMD, 16-byte loads, popcounts.
Fails where a kernel of a decode keeps anything in scratch, asks for more than 64 KiB, or counts bits by anything but v_bcnt.
Usage: hip_isa_test.py [--all] OBJECT...   (--all: each kernel instead of the most of each name)"""
import collections
import os
import re
import subprocess
import sys
import tempfile

TOOLS = "/usr/lib/llvm-19/bin/"
HOT = ("score_regions_kernel", "decode_attend_kernel", "attend_kernel", "attend_tokens_kernel", "score_kernel", "topk_count_kernel", "topk_compact_kernel")
COUNTING = ("score_regions_kernel", "score_kernel")
# Of a SIMD: registers, how many are given at a time, waves; SIMDs that a block is spread over; lanes of a wave.
SIMDS = {"gfx90a": (512, 8, 8, 4, 64), "gfx942": (512, 8, 8, 4, 64), "gfx1030": (1024, 8, 16, 4, 32),
         "gfx1100": (1536, 24, 16, 4, 32), "gfx1201": (1536, 24, 16, 4, 32)}
FIELD = re.compile(r"^\s*(?:- )?\.(\w+):\s+(\S+)")
WANTED = {"vgpr_count", "sgpr_count", "group_segment_fixed_size", "private_segment_fixed_size", "max_flat_workgroup_size", "symbol"}


def run(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def code_objects(path, folder):
    """{target: path of its code object} of an object of the host."""
    bundle = os.path.join(folder, "bundle")
    run("objcopy", "-O", "binary", "-j", ".hip_fatbin", "--set-section-flags", ".hip_fatbin=alloc", path, bundle)
    found = {}
    if not os.path.getsize(bundle):
        return found # no kernels
    for entry in run(TOOLS + "clang-offload-bundler", "--list", "--type=o", "--input=" + bundle).decode().split():
        target = entry.rpartition("-")[2]
        if target.startswith("gfx"):
            found[target] = os.path.join(folder, target)
            run(TOOLS + "clang-offload-bundler", "--unbundle", "--type=o", "--input=" + bundle, "--targets=" + entry,
                "--output=" + found[target])
    return found


def kernels(code_object):
    """The metadata of each kernel."""
    rows, row = [], {}
    for line in run(TOOLS + "llvm-readelf", "--notes", code_object).decode().split("\n"):
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
    """{kernel: Counter of opcodes}"""
    counts, at = collections.defaultdict(collections.Counter), None
    for line in run(TOOLS + "llvm-objdump", "-d", "--no-show-raw-insn", "--no-leading-addr", code_object).decode().split("\n"):
        if line.startswith("<"):
            at = line[1:line.index(">")]
        elif at and line.strip():
            counts[at][line.split()[0]] += 1
    return counts


def waves(target, row):
    """For each SIMD, as registers and fixed shared memory allow."""
    registers, unit, most, simds, lanes = SIMDS[target]
    by_registers = registers // (-(-max(row["vgpr_count"], 1) // unit) * unit)
    blocks = 65536 // max(row["group_segment_fixed_size"], 1)
    return min(most, by_registers, max(1, blocks * row["max_flat_workgroup_size"] // lanes // simds))


def measure(paths):
    rows = []
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            for target, code_object in code_objects(path, folder).items():
                opcodes = instructions(code_object)
                for row in kernels(code_object):
                    symbol = row["symbol"][:-len(".kd")]
                    name = [part for part in re.findall(r"[a-z][a-z_0-9]*kernel", symbol)][0]
                    name = name[re.search(r"(?:^|\d)(?=[a-z_]*kernel$)", name).end():]
                    counts = opcodes[symbol]
                    rows.append({
                        "target": target, "kernel": name, "symbol": symbol, "registers": row["vgpr_count"],
                        "shared": row["group_segment_fixed_size"], "scratch": row["private_segment_fixed_size"],
                        "waves": waves(target, row), "instructions": sum(counts.values()),
                        "loads16": sum(n for op, n in counts.items() if re.match(r"(global|flat)_load_(dwordx4|b128)", op)),
                        "bcnt": sum(n for op, n in counts.items() if op.startswith("v_bcnt"))})
    return rows


def faults(row):
    if row["shared"] > 65536:
        yield "more than 64 KiB of shared memory"
    if row["kernel"] in HOT and row["scratch"]:
        yield "%d bytes of scratch" % row["scratch"]
    if row["kernel"] in COUNTING and not row["bcnt"]:
        yield "no v_bcnt"


def main(arguments):
    rows = measure([path for path in arguments if path != "--all"])
    assert rows, "no kernels"
    print("%-8s %-26s %5s %9s %6s %7s %5s %12s %7s %5s" % ("target", "kernel", "count", "registers", "shared", "scratch", "waves",
                                                        "instructions", "loads16", "bcnt"))
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row["target"], row["symbol"] if "--all" in arguments else row["kernel"]].append(row)
    for (target, name), group in sorted(groups.items()):
        most = {key: max(row[key] for row in group) for key in ("registers", "shared", "scratch", "instructions", "loads16", "bcnt")}
        print("%-8s %-26s %5d %9d %6d %7d %5d %12d %7d %5d" % (
            target, name, len(group), most["registers"], most["shared"], most["scratch"], min(row["waves"] for row in group),
            most["instructions"], most["loads16"], most["bcnt"]))
    wrong = ["%s: %s: %s" % (row["target"], row["symbol"], fault) for row in rows for fault in faults(row)]
    print("\n".join(wrong))
    return bool(wrong)


sys.exit(main(sys.argv[1:]))
