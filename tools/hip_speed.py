# SPDX-License-Identifier: Apache-2.0
"""What a decode should take on AMD's GPUs, by arithmetic: cycles of the hot loops by llvm-mca, bytes of a step, and what an H200 shows of the rest.

A step = fixed + score + attend, in us.
    score, attend: the larger of  bytes / (kReached x peak)  and  turns of the loop x cycles / (SIMDs x clock).
    fixed: what H200's S1 takes beside its bytes, kFixed, by the ratio of clocks; kLaunch more, since no kernel starts while the one before ends.
Cycles are those of a SIMD that always has another wave to issue from (llvm-mca's block throughput); loops inside are the plain products' four turns."""
import collections
import math
import re

import hip_objects

LOAD16 = "(global|flat)_load_(dwordx4|b128)"
PRODUCT = "v_(smfmac|mfma|wmma|swmmac)"
JUMP = "s_cbranch|s_branch"
INNER_TURNS = 4 # of a loop in a plain product of matrices (kernels_cuda/device/plain.cuh)

# Part: (which instance, what its hot loop has at the least): the loop over keys of 128 bits; over tiles of fp16 rows of 128 dims, four and one
# heads a block.
HOT = {
    "score": ("score_regions_kernelILi4ELb0ELi1EDF16_LNS_6LeavesE1ENS_9RegionRunE",
              {"v_bcnt": 64, LOAD16: 8, "ds_add": 1}),
    "attend": ("decode_attend_kernelINS_9MmaEngineIDF16_DF16_Li128ELi4ELNS_6TailOfE0EEELNS_8SelectByE0E", {"v_exp": 4, LOAD16: 16}),
    "attend MHA": ("decode_attend_kernelINS_9MmaEngineIDF16_DF16_Li128ELi1ELNS_6TailOfE0EEELNS_8SelectByE0E", {"v_exp": 4, LOAD16: 16}),
}
# Of a warp in a turn: keys (8 a lane), rows of a tile. A wave of 64 lanes has two warps.
TURN = {"score": 32 * 8, "attend": 16, "attend MHA": 16}
# Clocks of a cycle of llvm-mca's: its unit is four on CDNA.
CLOCKS = {"gfx90a": 4, "gfx942": 4}

Device = collections.namedtuple("Device", "target gbs simds ghz")
DEVICES = {"MI300X": Device("gfx942", 5300, 304 * 4, 2.1), "7900 XTX": Device("gfx1100", 960, 96 * 2, 2.5)}
SHAPES = [("S1", 1, 8, 32768, 512), ("S2", 1, 8, 131072, 2048), ("S3", 8, 8, 32768, 512), ("S4", 8, 8, 131072, 2048),
          ("S5", 8, 32, 32768, 512), ("S6", 1, 32, 131072, 2048)] # sequences, KV heads, keys, selected
# Of an H200 (4.8 TB/s, 1.98 GHz): us, as README has them. Two of them make the constants, the others show what those are worth.
H200 = {"S1": 13.5, "S2": 19.5, "S3": 27.8, "S4": 67.6, "S5": 65.7, "S6": 40.5}
H200_GBS, H200_GHZ = 4800, 1.98
REACHED = 0.75 # of the peak: S4's bytes in what it takes longer than S1
LAUNCH = 4.0   # us: assumed


def bytes_of(shape):
    """Codes, and selected rows of K and V."""
    _, sequences, heads, keys, selected = shape
    return sequences * heads * keys * 16, sequences * heads * selected * 512


def us(size, gbs):
    return size / (REACHED * gbs * 1e3)


FIXED = H200["S1"] - us(sum(bytes_of(SHAPES[0])), H200_GBS)


def modelled(target, code):
    """llvm-mca's cycles of straight code: (of a SIMD that always has another wave, of a wave alone)."""
    said = hip_objects.run(hip_objects.TOOLS + "llvm-mca", "-mtriple=amdgcn", "-mcpu=" + target, "-iterations=10", "-instruction-info=0",
                           "-resource-pressure=0", text="".join(instruction.text + "\n" for instruction in code))
    return float(re.search(r"Block RThroughput: +([0-9.]+)", said)[1]), int(re.search(r"Total Cycles: +(\d+)", said)[1]) / 10


def cycles(target, code):
    """The same. Behind what they wait for, llvm-mca 19 never issues an MFMA: apart from the rest, each is a slot of issue, or all what their unit
    takes, and what a wave alone takes is not known."""
    code = [instruction for instruction in code if not re.match(JUMP, instruction.text)]
    products = [instruction for instruction in code if re.match(PRODUCT, instruction.text)]
    if target not in CLOCKS or not products:
        return modelled(target, code)
    rest, _ = modelled(target, [instruction for instruction in code if instruction not in products])
    return max(rest + len(products), modelled(target, products)[0]), math.nan


def loop_cycles(target, loop):
    """The same of a loop's turn, in clocks, with the loops inside."""
    inside, covered = [], set()
    for inner in reversed(hip_objects.loops(loop)): # long ones first
        addresses = {instruction.address for instruction in inner}
        if len(inner) < len(loop) and not addresses & covered:
            inside.append(inner)
            covered |= addresses
    parts = [(1, [instruction for instruction in loop if instruction.address not in covered])] + [(INNER_TURNS, inner) for inner in inside]
    measured = [(turns, cycles(target, code)) for turns, code in parts]
    return [CLOCKS.get(target, 1) * sum(turns * both[i] for turns, both in measured) for i in range(2)]


def hot_loops(target, symbol, code):
    """[(part, target, loop)] of a kernel: at most one."""
    for part, (instance, has) in HOT.items():
        if instance in symbol:
            for loop in hip_objects.loops(code):
                if all(hip_objects.count(loop, opcodes) >= least for opcodes, least in has.items()):
                    return [(part, target, loop)]
    return []


def expected(device, clocks, shape):
    """us of a step, and which of bytes and cycles decides about scoring and about attention."""
    name, sequences, heads, keys, selected = shape
    lanes = 64 if device.target in CLOCKS else 32
    parts, bounds = [], []
    for part, items, size in zip(("score", "attend MHA" if heads == 32 else "attend"), (keys, selected), bytes_of(shape)):
        turns = sequences * heads * items / (TURN[part] * lanes / 32)
        by_cycles = turns * clocks[part, device.target] / (device.simds * device.ghz * 1e3)
        parts.append(max(us(size, device.gbs), by_cycles))
        bounds.append("bytes" if by_cycles < parts[-1] else "cycles")
    return FIXED * H200_GHZ / device.ghz + LAUNCH + sum(parts), bounds


def report(hot):
    """Prints both tables; what was not found."""
    clocks = {}
    print("\n%-10s %-8s %12s %8s %6s %9s %14s %12s" % ("loop", "target", "instructions", "loads16", "bcnt", "products", "clocks, full", "alone"))
    for part, target, loop in sorted(hot, key=lambda row: row[:2]):
        full, alone = loop_cycles(target, loop)
        clocks[part, target] = full
        print("%-10s %-8s %12d %8d %6d %9d %14.0f %12.0f" % (
            part, target, len(loop), hip_objects.count(loop, LOAD16), hip_objects.count(loop, "v_bcnt"), hip_objects.count(loop, PRODUCT), full, alone))
    missing = ["no loop of '%s' for %s" % (part, device.target) for part in HOT for device in DEVICES.values() if (part, device.target) not in clocks]
    if missing:
        return missing
    print("\nexpected, us a step (not measured): %.1f x %.2f / GHz + %.0f + the larger of bytes at %.2f of the peak and cycles, for scoring and for attention" % (
        FIXED, H200_GHZ, LAUNCH, REACHED))
    print("%-6s %10s" % ("shape", "MB") + "".join("%10s %-16s" % (name, "bound by") for name in DEVICES) + "  H200 so / measured")
    for shape in SHAPES:
        size = sum(bytes_of(shape))
        line = "%-6s %10.1f" % (shape[0], size / 1e6)
        for device in DEVICES.values():
            time, bounds = expected(device, clocks, shape)
            line += "%10.1f %-16s" % (time, ", ".join(bounds))
        print(line + "%10.1f / %.1f" % (FIXED + us(size, H200_GBS), H200[shape[0]]))
    return []
