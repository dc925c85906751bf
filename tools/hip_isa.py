#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the code objects of kernels_hip ask of a device: registers, shared memory, scratch (what is reserved, and instructions that use it), waves
for each SIMD, 16-byte loads, popcounts, products of matrices. With --speed also the cycles of the two hot loops and what a step should take.
Fails where a kernel of a decode uses scratch, asks for more than 64 KiB, or counts bits by anything but v_bcnt, or where a hot loop is not found.

    HATTN_HIP=1 bazel build -c opt //kernels_hip:kernels_hip_objects
    tools/hip_isa.py [--all] [--speed] bazel-bin/kernels_hip/kernels_hip_objects/*.o   (--all: each kernel instead of the most of each name)
"""
import collections
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import hip_objects
import hip_speed

HOT = ("score_regions_kernel", "decode_attend_kernel", "attend_kernel", "attend_tokens_kernel", "score_kernel", "topk_count_kernel", "topk_compact_kernel")
COUNTING = ("score_regions_kernel", "score_kernel")
# Of a SIMD: registers, how many are given at a time, waves; SIMDs that a block is spread over; lanes of a wave.
SIMDS = {"gfx90a": (512, 8, 8, 4, 64), "gfx942": (512, 8, 8, 4, 64), "gfx1030": (1024, 8, 16, 4, 32),
         "gfx1100": (1536, 24, 16, 4, 32), "gfx1201": (1536, 24, 16, 4, 32)}
COLUMNS = ("registers", "shared", "scratch", "spills", "waves", "instructions", "loads16", "bcnt", "products")


def waves(target, row):
    """For each SIMD, as registers and fixed shared memory allow."""
    registers, unit, most, simds, lanes = SIMDS[target]
    by_registers = registers // (-(-max(row["vgpr_count"], 1) // unit) * unit)
    blocks = 65536 // max(row["group_segment_fixed_size"], 1)
    return min(most, by_registers, max(1, blocks * row["max_flat_workgroup_size"] // lanes // simds))


def measure(paths):
    """Rows of all kernels, and of the hot loops."""
    rows, hot = [], []
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            for target, code_object in hip_objects.code_objects(path, folder).items():
                code = hip_objects.instructions(code_object)
                for row in hip_objects.kernels(code_object):
                    symbol = row["symbol"][:-len(".kd")]
                    name = [part for part in re.findall(r"[a-z][a-z_0-9]*kernel", symbol)][0]
                    name = name[re.search(r"(?:^|\d)(?=[a-z_]*kernel$)", name).end():]
                    mine = code[symbol]
                    rows.append({
                        "target": target, "kernel": name, "symbol": symbol, "registers": row["vgpr_count"],
                        "shared": row["group_segment_fixed_size"], "scratch": row["private_segment_fixed_size"],
                        "spills": hip_objects.count(mine, "scratch_|buffer_(load|store)"), "waves": waves(target, row),
                        "instructions": len(mine), "loads16": hip_objects.count(mine, hip_speed.LOAD16),
                        "bcnt": hip_objects.count(mine, "v_bcnt"), "products": hip_objects.count(mine, hip_speed.PRODUCT)})
                    hot += hip_speed.hot_loops(target, symbol, mine)
    return rows, hot


def faults(row):
    if row["shared"] > 65536:
        yield "more than 64 KiB of shared memory"
    if row["kernel"] in HOT and row["spills"]:
        yield "%d instructions use %d bytes of scratch" % (row["spills"], row["scratch"])
    if row["kernel"] in COUNTING and not row["bcnt"]:
        yield "no v_bcnt"


def main(arguments):
    rows, hot = measure([path for path in arguments if not path.startswith("--")])
    assert rows, "no kernels"
    print("%-8s %-26s %5s" % ("target", "kernel", "count") + "".join("%13s" % name for name in COLUMNS))
    groups = collections.defaultdict(list)
    for row in rows:
        groups[row["target"], row["symbol"] if "--all" in arguments else row["kernel"]].append(row)
    for (target, name), group in sorted(groups.items()):
        most = {key: (min if key == "waves" else max)(row[key] for row in group) for key in COLUMNS}
        print("%-8s %-26s %5d" % (target, name, len(group)) + "".join("%13d" % most[key] for key in COLUMNS))
    wrong = ["%s: %s: %s" % (row["target"], row["symbol"], fault) for row in rows for fault in faults(row)]
    if "--speed" in arguments:
        wrong += hip_speed.report(hot)
    print("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
