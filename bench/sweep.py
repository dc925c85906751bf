#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a decode step costs as the sequence and the budget grow: writes docs/cpu_cost.md and docs/cpu_cost.svg.

One thread, 32 query heads over 8 KV heads, fp16, cold memory. All lengths, budgets, code sizes and stages take turns in
the same rounds. Straight lines are fitted: time is so much a key, so much a gathered row, and a constant.
"""
import argparse
import os
import sys

sys.dont_write_bytecode = True  # nothing is left in the tree
import venv_setup

Q_HEADS, KV_HEADS = 32, 8
LENGTHS = [n << 10 for n in (8, 16, 32, 64, 128, 256, 512)]
LENGTHS_K = 512
BUDGETS = [128, 256, 512, 1024, 2048, 4096, 8192]
BUDGETS_N = 128 << 10
BITS = (128, 64)
STAGES = ("encode", "score", "topk", "attend", "decode")
COMMAND = "python3 bench/sweep.py"


class Line:
    """us = constant + slope * x, least squares of the relative error: short sequences count as much as long ones."""

    def __init__(self, x, us):
        import numpy as np
        x, us = np.array(x, float), np.array(us, float)
        a = np.stack([1 / us, x / us], axis=1)
        (self.constant, self.slope), *_ = np.linalg.lstsq(a, np.ones(len(us)), rcond=None)
        error = (self.constant + self.slope * x) / us - 1
        self.rms, self.worst = float(np.sqrt(np.mean(error ** 2))), float(np.max(np.abs(error)))

    def at(self, x):
        return self.constant + self.slope * x


class Sweep:
    """us[bits, n, k, stage]: Samples."""

    def __init__(self, library, rounds):
        import numpy as np
        from cold_rounds import D, Hattn, Ring, Rounds, Shape, fill_bits, fill_halves
        from hattn import Device
        self.device = Device("cpu", max_threads=1, library=library)
        shapes = [Shape(Q_HEADS, KV_HEADS, n, LENGTHS_K) for n in LENGTHS]
        shapes += [Shape(Q_HEADS, KV_HEADS, BUDGETS_N, k) for k in BUDGETS if (BUDGETS_N, k) not in
                   [(s.n, s.k) for s in shapes]]
        largest = max(shapes, key=lambda shape: shape.n)
        kv = Ring(max(2 * largest.half_layer, 1 << 30), fill_halves, 1)
        codes = Ring(4 * largest.code_bytes(max(BITS)), fill_bits, 2)
        maps = Ring(64 * largest.map_bytes(max(BITS)), fill_halves, 3)
        q = np.random.default_rng(4).standard_normal((Q_HEADS, D)).astype(np.float16)
        scores = np.empty(KV_HEADS * largest.n, np.uint16)
        self.rounds = Rounds(warm=False)
        for shape in shapes:
            for bits in BITS:
                hattn = Hattn(self.device, shape, bits, "hamming", kv, codes, maps, q, scores)
                for stage in STAGES:
                    self.rounds.add((bits, shape.n, shape.k, stage), getattr(hattn, stage))
        self.rounds.run(1)
        self.rounds.clear()
        self.rounds.run(rounds)

    def us(self, bits, n, k, stage):
        return self.rounds.samples[bits, n, k, stage].median


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " ---: |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def stage_table(sweep, variable, points):
    """points: [(n, k, name)]"""
    head = [variable] + ["%s %d" % (stage, bits) for bits in BITS for stage in STAGES]
    return table(head, [[name] + ["%.0f" % sweep.us(bits, n, k, stage) for bits in BITS for stage in STAGES]
                        for n, k, name in points])


def fit_lines(sweep):
    """[(what, per, Line, ns per item, GB/s or None)]: keys and rows are counted over all KV heads."""
    fits = []
    for bits in BITS:
        for stage in ("score", "decode"):
            line = Line([KV_HEADS * n for n in LENGTHS], [sweep.us(bits, n, LENGTHS_K, stage) for n in LENGTHS])
            fits.append(("%s, %d bits, against n" % (stage, bits), "key", line, bits / 8))
    joint = Line([KV_HEADS * n * bits / 8 for bits in BITS for n in LENGTHS],
                 [sweep.us(bits, n, LENGTHS_K, "score") for bits in BITS for n in LENGTHS])
    fits.append(("score, both, against code_bytes * n", "byte", joint, 1))
    for bits in BITS:
        for stage in ("attend", "decode"):
            line = Line([KV_HEADS * k for k in BUDGETS], [sweep.us(bits, BUDGETS_N, k, stage) for k in BUDGETS])
            fits.append(("%s, %d bits, against k" % (stage, bits), "row", line, 512))
    return fits


def fit_table(fits):
    rows = [["`%s`" % what, "%.0f us" % line.constant, "%.3f ns/%s" % (1e3 * line.slope, per),
             "%.1f GB/s" % (size / (1e3 * line.slope)), "%.1f %%" % (100 * line.rms), "%.1f %%" % (100 * line.worst)]
            for what, per, line, size in fits]
    return table(["fit", "constant", "slope", "is", "residual (rms)", "residual (worst)"], rows)


def human(n):
    return "%dK" % (n >> 10)


def document(sweep, rounds):
    from cold_rounds import busy_text, machine_text
    return """# Cost of a decode step

`%s` wrote this page and its figure. One sequence, %d query heads over %d KV heads, head dimension 128,
fp16 caches, hamming scores, 1 thread. us, medians of %d rounds in which all cells took turns; every call finds K, V,
codes and maps in DRAM.

%s. %s

![us against n and against k](cpu_cost.svg)

Names are stage and code bits. `decode` is one call for a whole step; the other stages are calls of their own.

## Against the sequence's length, k = %d

%s

## Against the budget, n = %s

%s

## Straight lines

us = constant + slope * count, least squares of the relative error. A key is a code of one KV head, so there are %d n of
them; a row is a selected K row and its V row (512 bytes), so there are %d k of them. The residual says how straight the
line is.

%s

`score` grows with code_bytes * n, `topk` with n (its scores are still in a cache), `attend` with gathered rows; the
slope of `decode` against n is that of `score` and `topk` together, its slope against k that of `attend`.
""" % (COMMAND, Q_HEADS, KV_HEADS, rounds, machine_text(sweep.device), busy_text(sweep.rounds.others), LENGTHS_K,
       stage_table(sweep, "n", [(n, LENGTHS_K, human(n)) for n in LENGTHS]), human(BUDGETS_N),
       stage_table(sweep, "k", [(BUDGETS_N, k, str(k)) for k in BUDGETS]), KV_HEADS, KV_HEADS,
       fit_table(fit_lines(sweep)))


def figure(sweep, path):
    import matplotlib
    matplotlib.use("svg")
    # The same file for the same figures; letters stay letters.
    matplotlib.rcParams.update({"svg.hashsalt": "hattn", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.8))
    panels = [("n, k = %d" % LENGTHS_K, LENGTHS, [(n, LENGTHS_K) for n in LENGTHS], "score", human),
              ("k, n = %s" % human(BUDGETS_N), BUDGETS, [(BUDGETS_N, k) for k in BUDGETS], "attend", str)]
    for axis, (title, xs, points, part, name) in zip(axes, panels):
        for stage, style in (("decode", "o"), (part, "s")):
            for bits, color in zip(BITS, ("#1f4e9c", "#d2691e")):
                us = [sweep.us(bits, n, k, stage) for n, k in points]
                line = Line(xs, us)
                axis.plot(xs, us, style, color=color, markersize=4, fillstyle="full" if stage == "decode" else "none",
                          label="%s, %d bits" % (stage, bits))
                axis.plot(xs, [line.at(x) for x in xs], "-", color=color, linewidth=0.8,
                          alpha=1 if stage == "decode" else 0.5)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(xs, [name(x) for x in xs])
        axis.set_xlabel(title)
        axis.set_ylabel("us, 1 thread")
        axis.grid(True, which="both", linewidth=0.3)
        axis.legend(fontsize=8, frameon=False)
    fig.suptitle("Cold decode step, GQA 32/8: marks are medians, lines constant + slope * x", fontsize=10)
    fig.tight_layout()
    fig.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--venv", default=venv_setup.DEFAULT_VENV, help="where the Python packages go")
    parser.add_argument("--library", help="a libhattn.so.0; without it this tree's, built")
    parser.add_argument("--docs", default=os.path.join(venv_setup.ROOT, "docs"), help="where the two files go")
    args = parser.parse_args()
    missing = venv_setup.enter(os.path.abspath(args.venv), ("numpy", "matplotlib"))
    if "numpy" in missing:
        raise SystemExit("numpy: " + missing["numpy"])
    from hattn import Library
    sweep = Sweep(Library(venv_setup.library_path(args.library)), args.rounds)
    text = document(sweep, args.rounds)
    with open(os.path.join(args.docs, "cpu_cost.md"), "w") as out:
        out.write(text)
    print(text)
    if "matplotlib" in missing:
        print("no figure, matplotlib is missing: " + missing["matplotlib"])
    else:
        figure(sweep, os.path.join(args.docs, "cpu_cost.svg"))


if __name__ == "__main__":
    main()
