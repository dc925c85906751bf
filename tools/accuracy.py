#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `hattn decode` must give on a trace, by numpy in float64 and the formulas of api/hattn.h alone: rows of examples/ACCURACY.tsv
for its linear maps, with a fixed k or a floor of probability, and with a tail.

    tools/accuracy.py examples/layer5.safetensors --maps hata128,weighted128 --topk 512
    tools/accuracy.py examples/layer5.safetensors --maps hata128,weighted128 --topk 2048 --mean-rows 512 --tail 0.5

--fit prints the slopes that least cross entropy gives, to be compared with those of `hattn calibrate` in the file.
"""
import argparse
import json
import math
import os

import numpy as np

DTYPES = {"F32": np.float32, "F16": np.float16, "I32": np.int32}
STRIDE = 61  # of the positions that stand for all of low score
FEW_ANCHORS = 8
MIN_K = 64
WEIGHT_BITS = 4


def read(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, header.get("__metadata__", {})


class Selection:
    """One query and KV head: the group's attention and what a map's scores say of it."""

    def __init__(self, trace, scale, name, query, g):
        group = trace["q"].shape[1] // trace["k"].shape[1]
        length = int(trace["q_pos"][query]) + 1
        self.q = trace["q"][query, g * group:(g + 1) * group]
        self.keys, self.values = trace["k"][:length, g], trace["v"][:length, g]
        logits = self.q @ self.keys.T * scale
        self.attention = np.exp(logits - logits.max(1, keepdims=True))
        self.attention /= self.attention.sum(1, keepdims=True)
        self.dense = self.attention @ self.values
        self.encode(trace, name, g, weighted=name.startswith("weighted"))

    def encode(self, trace, name, g, weighted):
        key_map = trace[name + ".wk"][g]
        query_map = trace.get(name + ".wq", trace[name + ".wk"])[g]
        bias = trace[name + ".bias"][g] if name + ".bias" in trace else 0.0
        signs = np.where(self.keys @ key_map + bias > 0, 1, -1)
        z = self.q @ query_map
        self.unit = 1.0
        if weighted:
            qmax, u = 2**(WEIGHT_BITS - 1) - 1, z.sum(0)
            self.unit = np.abs(u).max() / qmax
            weights = np.rint(u * qmax / np.abs(u).max()).astype(np.int64)
        else:
            weights = np.where(z > 0, 1, -1).sum(0)
            weights = weights // 2 if len(self.q) % 2 == 0 else weights
        self.sums = signs @ weights
        self.scores = (self.sums + np.abs(weights).sum()) // 2
        self.order = np.argsort(-self.scores, kind="stable")

    def look(self, k, slope):
        """What a floor compares and a tail counts: shares of the k best, and the estimate of the sum of all."""
        n = len(self.scores)
        self.best = best = self.order[:min(k, n)]
        step = min(int(np.rint(2048 / math.log(2) * slope * self.unit)), 32768)
        e = (int(self.scores.max()) - self.scores) * step
        shares = np.floor(2.0**(30 - (e >> 4 & 63) / 64)).astype(np.int64) >> np.minimum(e >> 10, 62)
        shares[e >> 10 > 30] = 0
        if n > k:
            is_low = self.scores <= self.scores[best].min()
            self.z = int(shares[~is_low].sum()) + STRIDE * int(shares[is_low & (np.arange(n) % STRIDE == 0)].sum())
        else:
            self.z = int(shares.sum())
        self.shares = shares[best]

    def kept(self, tau):
        """Positions of hattn_topk. share * 2^32 >= tau * z, in whole numbers."""
        above = int((self.shares >= -(-tau * self.z >> 32)).sum()) if tau else len(self.best)
        return self.best[:max(above, min(MIN_K, len(self.best)))]

    def tail_mass(self, kept, factor):
        """R of hattn_attend for each head, of all attention."""
        shares, part = self.shares[:len(kept)], self.attention[:, kept]
        if len(kept) == len(self.scores) or not shares.any():
            return np.zeros(len(part))
        rest = max(self.z - int(shares.sum()), 0)
        near = (shares > 0) & (shares < 4 * shares[shares > 0].min())
        if near.sum() < FEW_ANCHORS:
            near = shares > 0
        return np.minimum(factor * part[:, near].sum(1) * (rest / shares[near].sum()),
                          part[:, shares > 0].sum(1) * (rest / shares.sum()))

    def metrics(self, kept, compared, tail):
        """recall, mass and error of what is kept, mass and error of the best `compared`; errors of what is kept with a tail."""
        def error(part, positions, mass, rest):
            out = (part @ self.values[positions] + rest[:, None] * self.values.mean(0)) / (mass + rest)[:, None]
            return (np.linalg.norm(out - self.dense, axis=1) / np.linalg.norm(self.dense, axis=1)).mean()

        best = np.argsort(-self.attention.sum(0), kind="stable")[:compared]
        figures = [len(np.intersect1d(kept, best)) / len(best)]
        none = np.zeros(len(self.dense))
        for positions, rest in ((kept, self.tail_mass(kept, tail) if tail else none), (best, none)):
            part = self.attention[:, positions]
            mass = part.sum(1)
            figures += [mass.mean(), error(part, positions, mass, rest)]
        return figures


def cross_entropy(selections, slope):
    total = 0.0
    for one in selections:
        x = slope * one.unit * one.sums
        total += np.log(np.exp(x - x.max()).sum()) + x.max() - (one.attention.mean(0) * x).sum()
    return total / len(selections)


def fit(selections):
    """Of least cross entropy, which is convex: by golden section, of the logarithm."""
    low, high = math.log(1e-5), math.log(10)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if cross_entropy(selections, math.exp(a)) < cross_entropy(selections, math.exp(b)):
            high = b
        else:
            low = a
    return math.exp((low + high) / 2)


def find_floor(counts, rows):
    low, high = math.log(1e-9), math.log(0.999)
    for _ in range(24):
        middle = (low + high) / 2
        if counts(math.exp(middle)) > rows:
            low = middle
        else:
            high = middle
    return math.exp(low) if counts(math.exp(low)) - rows < rows - counts(math.exp(high)) else math.exp(high)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--maps", required=True)
    parser.add_argument("--topk", type=int, default=512)
    parser.add_argument("--mean-rows", type=int, default=0, help="a floor that keeps so many on average")
    parser.add_argument("--tail", type=float, default=0, help="the factor of a tail")
    parser.add_argument("--fit", action="store_true")
    args = parser.parse_args()
    trace, metadata = read(args.trace)
    trace = {name: tensor.astype(np.float64) for name, tensor in trace.items()}
    scale = float(metadata.get("softmax_scale", trace["q"].shape[2]**-0.5))
    for name in args.maps.split(","):
        score = "weighted" if name.startswith("weighted") else "hamming"
        heads = [[Selection(trace, scale, name, query, g) for query in range(trace["q"].shape[0])]
                 for g in range(trace["k"].shape[1])]
        if args.fit:
            print(name, score, *["%.6g" % fit(selections) for selections in heads])
            continue
        slopes = trace.get("%s.slope.%s" % (name, score), np.zeros(len(heads)))
        flat = [one for selections in heads for one in selections]
        for g, selections in enumerate(heads):
            for one in selections:
                one.look(args.topk, slopes[g])

        def selected(tau, flat=flat):
            return [one.kept(int(np.rint(np.float64(np.float32(tau)) * 2**32))) for one in flat]

        tau = find_floor(lambda tau: np.mean([len(kept) for kept in selected(tau)]), args.mean_rows) if args.mean_rows else 0.0
        kept = selected(tau)
        figures = np.mean([one.metrics(positions, len(positions) if args.mean_rows else args.topk, args.tail)
                           for one, positions in zip(flat, kept)], 0)
        print("\t".join([os.path.basename(args.trace).split(".")[0], name, score, "kv", str(trace[name + ".wk"].shape[2]),
                         str(args.topk), "0", "0", str(args.mean_rows), "%g" % args.tail, *["%.4f" % figure for figure in figures],
                         "# floor %.6g, rows %.1f" % (tau, np.mean([len(positions) for positions in kept]))]), flush=True)


if __name__ == "__main__":
    main()
