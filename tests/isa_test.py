#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The kernels of an instruction set use no instruction that kernels_cpu/cpu_features.c has not asked the processor for.

What is in the objects is given to the assembler once more, which is allowed only what is probed. Kernels that gather rows also
prefetch them: nothing else in the tests is slower without it.
Nor is the compiler allowed what is not probed, whether it uses it today or not.
Usage: isa_test.py CPU_FEATURES_C ISA_BZL ARCHIVES_OF_EACH_ISA...
"""
import re
import subprocess
import sys

# The assembler's names of what __builtin_cpu_supports and cpuid call otherwise.
AS_NAMES = {"avx512vbmi2": "avx512_vbmi2", "avx512vpopcntdq": "avx512_vpopcntdq"}
# What every x86-64 has beyond the assembler's generic64, and what no feature test is needed for.
BASELINE = "generic64+sse2"


def probed(source):
    """What the probes of each ISA ask for: {"scalar": [], "avx2": [...], "avx512": [...]}."""
    text = open(source).read()
    found, known = {"scalar": []}, []
    for condition, isa in re.findall(r"if \(([^;]*?)\)\s*isas \|= HATTN_ISA_(\w+);", text):
        known = known + re.findall(r'__builtin_cpu_supports\("(\w+)"\)', condition)
        known += ["f16c"] if "has_f16c()" in condition else []
        found[isa.lower()] = known
    assert len(found) == 3 and all(found[isa] for isa in ("avx2", "avx512")), "no probes found in " + source
    return found


def flags(isa_bzl):
    """What the compiler may use for each ISA: {"avx2": ["avx2", "fma", ...], ...}."""
    text = open(isa_bzl).read()
    return {isa: re.findall(r'"-m(\w+)"', listed) for isa, listed in re.findall(r'"(avx\w+)": \(\s*\[(.*?)\]', text, re.DOTALL)}


def instructions(archive, member=""):
    """The distinct instructions of the members whose name begins so, without what names places."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", archive], check=True, capture_output=True, text=True
    ).stdout
    distinct, wanted = set(), False
    for line in listing.splitlines():
        if "file format" in line:
            wanted = line.startswith(member)
        match = wanted and re.match(r"\s*[0-9a-f]+:\t(.*)", line)
        if not match:
            continue
        text = re.sub(r"\s*(#|<).*", "", match.group(1)).strip()
        if not re.match(r"(notrack |bnd )*(j\w+|call\w*|data16|cs |ds |\(bad\))", text):
            distinct.add(text)
    return sorted(distinct)


def refusals(code, architecture):
    """What the assembler says of those that the architecture lacks."""
    source = "".join(text + "\n" for text in code)
    result = subprocess.run(
        ["as", "-march=" + architecture, "-o", "/dev/null", "-"], input=source, capture_output=True, text=True
    )
    lines = [re.match(r"\{standard input\}:(\d+): Error: (.*)", line) for line in result.stderr.splitlines()]
    return ["%s (%s)" % (code[int(m.group(1)) - 1], m.group(2)) for m in lines if m]


def main(source, isa_bzl, archives):
    wrong, seen, allowed = [], set(), flags(isa_bzl)
    assert set(allowed) == {"avx2", "avx512"}, "no flags found in " + isa_bzl
    for isa, features in probed(source).items():
        wrong += ["%s: -m%s is not probed" % (isa, flag) for flag in allowed.get(isa, []) if flag not in features]
        for archive in archives:
            if not re.search(r"lib%s\.(pic\.)?a$" % isa, archive):
                continue
            seen.add(isa)
            code = instructions(archive)
            assert len(code) > 500, "%s: only %d instructions" % (archive, len(code))
            architecture = "+".join([BASELINE] + [AS_NAMES.get(f, f) for f in features])
            wrong += ["%s uses what is not probed: %s" % (archive, text) for text in refusals(code, architecture)[:20]]
            if isa != "scalar" and not any(
                text.startswith("prefetch") for text in instructions(archive, "attend_")
            ):
                wrong.append("%s: attend prefetches nothing" % archive)
    assert seen == {"scalar", "avx2", "avx512"}, "no archive of some instruction set in %s" % archives
    # The assembler does refuse.
    assert refusals(["vpopcntb %zmm0,%zmm1"], BASELINE + "+avx512f"), "the assembler takes everything"
    print("\n".join(wrong) or "%d archives: nothing that is not probed" % len(archives))
    return bool(wrong)


sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
