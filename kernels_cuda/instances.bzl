"""The .cu files of engines and code widths: one for each kernel that a row of engines.inc or code_widths.inc names."""

load("@gpu//:defs.bzl", "CODE_WIDTHS", "ENGINES")

_FILE = """/* Made by instances.bzl. */
#include "kernels_cuda/%s"

namespace hattn {

%s

} // namespace hattn
"""

def instances():
    """{name of a file: its text}"""
    files = {}
    for _, types, _, attend, decode, keyed in ENGINES:
        files[attend] = _FILE % (
            "attend/attend_kernel.cuh",
            "AttendKernel %s() { return {load_attend<%s>, launch_attend<%s>}; }" % (attend, types, types),
        )
        for name, is_keyed in [(decode, "false"), (keyed, "true")]:
            files[name] = _FILE % (
                "decode/decode_attend.cuh",
                "DecodeKernel %s() { return {load_decode_attend<%s, %s>, launch_decode_attend<%s, %s>}; }" %
                (name, types, is_keyed, types, is_keyed),
            )
    for words, is_loose, name in CODE_WIDTHS:
        files[name] = _FILE % (
            "decode/score_regions.cuh",
            "DecodeKernel %s() { return {load_score_regions<%s, %s>, launch_score_regions<%s, %s>}; }" %
            (name, words, is_loose, words, is_loose),
        )
    return files
