"""The .cu files of engines and code widths: one for each kernel that a row of engines.inc, code_widths.inc or floors.inc names."""

load("@gpu//:defs.bzl", "CODE_WIDTHS", "ENGINES", "FLOOR_ENGINES", "FLOOR_WIDTHS")

_FILE = """/* Made by instances.bzl. */
#include "kernels_cuda/%s"

namespace hattn {

%s

} // namespace hattn
"""

def _decode(files, header, name, function, types):
    files[name] = _FILE % (
        "decode/" + header,
        "DecodeKernel %s() { return {load_%s<%s>, launch_%s<%s>}; }" % (name, function, types, function, types),
    )

def instances():
    """{name of a file: its text}"""
    files = {}
    for _, types, _, attend, decode, keyed in ENGINES:
        files[attend] = _FILE % (
            "attend/attend_kernel.cuh",
            "AttendKernel %s() { return {load_attend<%s>, launch_attend<%s>}; }" % (attend, types, types),
        )
        _decode(files, "decode_attend.cuh", decode, "decode_attend", types + ", SelectBy::SCORES")
        _decode(files, "decode_attend.cuh", keyed, "decode_attend", types + ", SelectBy::KEYS")
    for _, types, floor, tail, attend in FLOOR_ENGINES:
        files[attend] = _FILE % (
            "attend/attend_kernel.cuh",
            "AttendKernel %s() { return {load_attend_tail<%s>, launch_attend_tail<%s>}; }" % (attend, types, types),
        )
        _decode(files, "decode_attend.cuh", floor, "decode_attend", types + ", SelectBy::FLOOR")
        _decode(files, "decode_attend.cuh", tail, "decode_attend", types + ", SelectBy::TAIL")
    for rows, run in [(CODE_WIDTHS, "RegionRun"), (FLOOR_WIDTHS, "FloorRun")]:
        for words, is_loose, name in rows:
            _decode(files, "score_regions.cuh", name, "score_regions", "%s, %s, %s" % (words, is_loose, run))
    return files
