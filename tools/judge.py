#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Judges lists of a top-k kernel, whoever wrote it: is each an exact selection, which ties are kept, in which order.

    judge.py make DIR        adversarial scores, DIR/NAME.scores.npy [rows, keys], and DIR/cases.json with k of each
    judge.py judge DIR       DIR/NAME.indices.npy [rows, >= k], made from them by the kernel, one line a case
    judge.py lists SCORES INDICES --k K      lists over scores of one's own, .npy or FILE.safetensors:TENSOR

A list is exact if it holds min(k, keys) different positions whose scores, as a multiset, are the row's largest. -1
behind them is padding. -0 equals +0; NaN is the smallest, as in hattn, or with --nan largest, as in torch. The exit
code is 1 unless all are exact. Needs numpy.
"""
import argparse
import json
import os
import struct
import sys

import numpy as np

ROWS, KEYS, SEED = 4, 5000, 1
SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U32": "<u4", "I16": "<i2",
               "U16": "<u2", "I8": "i1", "U8": "u1"}


def cases():
    """{name: (scores, k)}: what each is named for is what selections by buckets, samples or rough bounds get wrong."""
    rng = np.random.default_rng(SEED)
    normal = rng.standard_normal((ROWS, KEYS)).astype(np.float32)
    positive = 1 + np.abs(normal)
    special = normal.copy()
    special[:, ::7], special[:, 1::50], special[:, 2::50] = np.nan, np.inf, -np.inf
    zeros = np.where(rng.random((ROWS, KEYS)) < 0.5, np.float32(0), np.float32(-0.0))
    zeros[:, :40] = rng.choice(np.array([-1, 1], np.float32), (ROWS, 40))
    # All in one bucket of any cut by exponents or by the upper bits: they differ in the last ten.
    overflow = (np.float32(1).view(np.uint32) + rng.integers(0, 1024, (ROWS, KEYS)).astype(np.uint32)).view(np.float32)
    hidden = np.full((ROWS, KEYS), 0.5, np.float32)  # the best are where a strided sample does not look
    hidden[:, 1::64] = positive[:, 1::64]
    late = np.sort(positive, axis=1)  # the best come last: buffers of candidates fill with what must leave again
    return {
        "random": (normal, 512),
        "all_equal": (np.ones((ROWS, KEYS), np.float32), 512),
        "plateau_at_threshold": (np.where(rng.random((ROWS, KEYS)) < 0.04, np.float32(2), np.float32(1)), 512),
        "plateaus": (np.floor(normal * 2), 512),
        "ties_at_zero_of_both_signs": (zeros, 512),
        "bucket_overflow": (overflow, 512),
        "outside_the_sample": (hidden, 64),
        "rising": (late, 512),
        "falling": (late[:, ::-1].copy(), 512),
        "infinities_and_nan": (special, 512),
        "all_nan": (np.full((ROWS, KEYS), np.nan, np.float32), 16),
        "subnormal": (normal * np.float32(1e-40), 512),
        "k_is_all": (normal[:, :300].copy(), 300),
        "k_is_one": (np.floor(normal * 2), 1),
        "few_keys": (normal[:, :7].copy(), 7),
    }


def ranks(scores, nan):
    """Integers that order as scores do, equal where they tie."""
    values = np.asarray(scores, np.float64) + 0.0  # -0 becomes +0
    known = np.unique(values[~np.isnan(values)])
    return np.where(np.isnan(values), len(known) if nan == "largest" else -1, np.searchsorted(known, values))


def judge_row(scores, indices, k, nan="smallest"):
    """What is wrong with one list, [] if it is exact, and how it orders and chooses among ties."""
    rank, wanted = ranks(scores, nan), min(k, len(scores))
    kept = np.asarray(indices, np.int64)
    kept = kept[: len(kept) - np.argmax(kept[::-1] != -1)] if (kept != -1).any() else kept[:0]
    wrong = []
    inside = kept[(kept >= 0) & (kept < len(scores))]
    if len(inside) < len(kept):
        wrong.append("%d positions outside of 0..%d" % (len(kept) - len(inside), len(scores) - 1))
    chosen = np.unique(inside)
    if len(chosen) < len(inside):
        wrong.append("%d positions twice" % (len(inside) - len(chosen)))
    if len(kept) != wanted:
        wrong.append("%d positions, not %d" % (len(kept), wanted))
    best = np.argsort(-rank, kind="stable")[:wanted]  # of ties the lowest positions, as in hattn
    threshold = rank[best[-1]] if wanted else 0
    above = np.flatnonzero(rank > threshold)
    dropped = np.setdiff1d(above, chosen)
    if len(dropped):
        wrong.append("%d dropped that are above the threshold, the first at %d" % (len(dropped), dropped[0]))
    below = chosen[rank[chosen] < threshold]
    if len(below):
        wrong.append("%d kept that are below the threshold, the first at %d" % (len(below), below[0]))
    steps, falls = np.diff(inside), np.diff(rank[inside])
    orders = [name for name, holds in (("position", (steps > 0).all()), ("score", (falls <= 0).all())) if holds]
    lowest = len(chosen) == wanted and np.array_equal(chosen, np.sort(best))
    return wrong, {"order": " and ".join(orders) or "none", "ties": "lowest positions" if lowest else "others"}


def judge(scores, indices, k, nan):
    """The first wrong row's words, or "", and what holds of all rows."""
    scores, indices = np.atleast_2d(scores), np.atleast_2d(indices)
    if len(scores) != len(indices):
        return "%d lists for %d rows of scores" % (len(indices), len(scores)), {"order": "", "ties": ""}
    if indices.dtype.kind not in "iu":
        return "indices are %s, not integers" % indices.dtype, {"order": "", "ties": ""}
    first, seen = "", {"order": [], "ties": []}
    for row in range(len(scores)):
        wrong, how = judge_row(scores[row], indices[row], k, nan)
        if wrong and not first:
            first = "row %d: %s" % (row, "; ".join(wrong))
        for name, text in how.items():
            seen[name] += [text] if text not in seen[name] else []
    return first, {name: ", ".join(texts) for name, texts in seen.items()}


def load(path):
    """An array of FILE.npy or FILE.safetensors:TENSOR."""
    if not path.endswith(".npy") and ".safetensors:" in path:
        path, tensor = path.rsplit(":", 1)
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            if tensor not in header:
                raise ValueError("%s: no tensor %r" % (path, tensor))
            entry, base = header[tensor], file.tell()
            begin, end = entry["data_offsets"]
            file.seek(base + begin)
            data = file.read(end - begin)
        if entry["dtype"] == "BF16":
            return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(entry["shape"])
        return np.frombuffer(data, SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])
    return np.load(path, allow_pickle=False)


def make(folder):
    os.makedirs(folder, exist_ok=True)
    made = cases()
    for name, (scores, _) in made.items():
        np.save(os.path.join(folder, name + ".scores.npy"), scores)
    with open(os.path.join(folder, "cases.json"), "w") as file:
        json.dump({name: k for name, (_, k) in made.items()}, file, indent=1)


def rows_of(args):
    """Name, scores, indices, k of all that is to be judged; indices None: there are none."""
    if args.what == "lists":
        return [(args.indices, load(args.scores), load(args.indices), args.k)]
    with open(os.path.join(args.folder, "cases.json")) as file:
        listed = json.load(file)
    rows = []
    for name, k in listed.items():
        at = os.path.join(args.folder, name)
        indices = load(at + ".indices.npy") if os.path.exists(at + ".indices.npy") else None
        rows.append((name, load(at + ".scores.npy"), indices, k))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsers = parser.add_subparsers(dest="what", required=True)
    parsers.add_parser("make").add_argument("folder")
    judging = [parsers.add_parser("judge"), parsers.add_parser("lists")]
    judging[0].add_argument("folder")
    judging[1].add_argument("scores")
    judging[1].add_argument("indices")
    judging[1].add_argument("--k", type=int, required=True)
    for one in judging:
        one.add_argument("--nan", choices=["smallest", "largest"], default="smallest")
    args = parser.parse_args()
    try:
        if args.what == "make":
            return make(args.folder)
        rows = rows_of(args)
    except (OSError, ValueError, KeyError, struct.error) as error:
        sys.exit("judge.py: %s" % error)
    all_exact = True
    print("%-28s %-6s %-20s %-30s %s" % ("case", "exact", "order by", "of ties", "wrong"))
    for name, scores, indices, k in rows:
        wrong, how = ("no lists", {"order": "", "ties": ""}) if indices is None else judge(scores, indices, k, args.nan)
        all_exact = all_exact and not wrong
        print("%-28s %-6s %-20s %-30s %s" % (name, "no" if wrong else "yes", how["order"], how["ties"], wrong))
    return int(not all_exact)


if __name__ == "__main__":
    sys.exit(main())
