#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `hattn decode` must give on a trace, by numpy in float64 and the formulas of api/hattn.h alone: rows of examples/ACCURACY.tsv
for its linear maps, with a fixed k or a floor of probability, with a tail, and with scores per query head.

    tools/accuracy.py examples/layer5.safetensors --maps hata128,weighted128 --topk 512
    tools/accuracy.py examples/layer5.safetensors --maps hata128,weighted128 --topk 2048 --mean-rows 512 --tail 0.5
    tools/accuracy.py examples/layer5.safetensors --maps hata128 --topk 2048 --mean-rows 512 --candidates 4096
    tools/accuracy.py examples/layer6.safetensors --maps weighted128 --topk 2048 --floor 1.2e-4 --tail 0.5
    tools/accuracy.py examples/layer5.safetensors --maps weighted128 --topk 2048 --mean-rows 640 --tail 0.5 --mean-values 384

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
MOST_OUTSIDE = 19 << 8  # of a factor, in 2^-8


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


def weights_of(z):
    """Weights of HATTN_SCORE_WEIGHTED, and what one of them is worth."""
    qmax, largest = 2**(WEIGHT_BITS - 1) - 1, np.abs(z).max()
    return np.rint(z * qmax / largest).astype(np.int64), largest / qmax


def step_of(slope, unit):
    return min(int(np.rint(2048 / math.log(2) * slope * unit)), 32768)


def shares_of(scores, step):
    e = (int(scores.max()) - scores) * step
    shares = np.floor(2.0**(30 - (e >> 4 & 63) / 64)).astype(np.int64) >> np.minimum(e >> 10, 62)
    shares[e >> 10 > 30] = 0
    return shares


class Selection:
    """One query and KV head: the group's attention and what a map's scores say of it."""

    def __init__(self, trace, scale, name, query, g, weighted):
        group = trace["q"].shape[1] // trace["k"].shape[1]
        length = int(trace["q_pos"][query]) + 1
        self.q = trace["q"][query, g * group:(g + 1) * group]
        self.keys, self.values = trace["k"][:length, g], trace["v"][:length, g]
        logits = self.q @ self.keys.T * scale
        self.attention = np.exp(logits - logits.max(1, keepdims=True))
        self.attention /= self.attention.sum(1, keepdims=True)
        self.dense = self.attention @ self.values
        self.encode(trace, name, g, weighted)

    def encode(self, trace, name, g, weighted):
        key_map = trace[name + ".wk"][g]
        query_map = trace.get(name + ".wq", trace[name + ".wk"])[g]
        bias = trace[name + ".bias"][g] if name + ".bias" in trace else 0.0
        self.signs = np.where(self.keys @ key_map + bias > 0, 1, -1)
        self.z = self.q @ query_map
        self.unit = 1.0
        if weighted:
            weights, self.unit = weights_of(self.z.sum(0))
        else:
            weights = np.where(self.z > 0, 1, -1).sum(0)
            weights = weights // 2 if len(self.q) % 2 == 0 else weights
        self.sums = self.signs @ weights
        self.scores = (self.sums + np.abs(weights).sum()) // 2
        self.order = np.argsort(-self.scores, kind="stable")

    def look(self, k, slope):
        """What a floor compares and a tail counts: shares of the k best, and the estimate of the sum of all."""
        n = len(self.scores)
        self.best = best = self.order[:min(k, n)]
        shares = shares_of(self.scores, step_of(slope, self.unit))
        if n > k:
            is_low = self.scores <= self.scores[best].min()
            self.total = int(shares[~is_low].sum()) + STRIDE * int(shares[is_low & (np.arange(n) % STRIDE == 0)].sum())
        else:
            self.total = int(shares.sum())
        self.shares = shares[best]

    def kept(self, tau):
        """Positions of hattn_topk. share * 2^32 >= tau * total, in whole numbers."""
        above = int((self.shares >= -(-tau * self.total >> 32)).sum()) if tau else len(self.best)
        return self.best[:max(above, min(MIN_K, len(self.best)))]

    def tail_mass(self, kept, factor):
        """R of hattn_attend for each head, of all attention."""
        shares, part = self.shares[:len(kept)], self.attention[:, kept]
        if len(kept) == len(self.scores) or not shares.any():
            return np.zeros(len(part))
        rest = max(self.total - int(shares.sum()), 0)
        near = (shares > 0) & (shares < 4 * shares[shares > 0].min())
        if near.sum() < FEW_ANCHORS:
            near = shares > 0
        return np.minimum(factor * part[:, near].sum(1) * (rest / shares[near].sum()),
                          part[:, shares > 0].sum(1) * (rest / shares.sum()))

    def value_weights(self, kept):
        """w of hattn_attend."""
        part = self.attention[:, kept]
        return (part / part.sum(1, keepdims=True)).mean(0)

    def metrics(self, kept, compared, tail, least):
        """recall, mass and error of what is kept, mass and error of the best `compared`; errors of what is kept with a tail, and without values of
        less weight than `least`."""
        is_read = self.value_weights(kept) >= least

        def error(part, positions, mass, rest):
            if positions is kept:
                part, positions = part[:, is_read], positions[is_read]
            of_mean = rest + mass - part.sum(1)
            out = (part @ self.values[positions] + of_mean[:, None] * self.values.mean(0)) / (mass + rest)[:, None]
            return (np.linalg.norm(out - self.dense, axis=1) / np.linalg.norm(self.dense, axis=1)).mean()

        best = np.argsort(-self.attention.sum(0), kind="stable")[:compared]
        figures = [len(np.intersect1d(kept, best)) / len(best)]
        none = np.zeros(len(self.dense))
        for positions, rest in ((kept, self.tail_mass(kept, tail) if tail else none), (best, none)):
            part = self.attention[:, positions]
            mass = part.sum(1)
            figures += [mass.mean(), error(part, positions, mass, rest)]
        return figures


class HeadSelection(Selection):
    """Whose `num_candidates` best by the summed scores each head of the group scores for itself."""

    def encode(self, trace, name, g, weighted):
        super().encode(trace, name, g, weighted)
        self.heads = [weights_of(z) for z in self.z]
        self.head_sums = [self.signs @ weights for weights, _ in self.heads]

    def look(self, k, slope, num_candidates, head_slopes):
        super().look(num_candidates, slope)
        self.listed = np.sort(self.best)
        self.head_shares = np.array([
            shares_of((sums[self.listed] + np.abs(weights).sum()) // 2, step_of(head_slope, unit))
            for sums, (weights, unit), head_slope in zip(self.head_sums, self.heads, head_slopes)])
        self.sums_of_heads = [int(shares.sum()) for shares in self.head_shares]
        inverse = np.array([(1 << 62) // total for total in self.sums_of_heads])
        self.p = (self.head_shares * inverse[:, None] >> 38).sum(0)
        self.ranks = np.argsort(-self.p, kind="stable")[:min(k, len(self.p))]
        self.listed_shares = shares_of(self.scores, step_of(slope, self.unit))[self.listed]

    def kept(self, tau):
        above = int((self.p[self.ranks] >= tau * len(self.heads) + 255 >> 8).sum()) if tau else len(self.ranks)
        return self.listed[self.ranks[:max(above, min(MIN_K, len(self.ranks)))]]

    def tail_mass(self, kept, factor):
        if len(kept) == len(self.scores):
            return np.zeros(len(self.heads))
        ranks = np.searchsorted(self.listed, kept)
        p, in_all = self.p[ranks], int(self.listed_shares.sum())
        inside = in_all - int(self.listed_shares[ranks].sum())
        outside = min((max(self.total - in_all, 0) << 8) // inside, MOST_OUTSIDE) if inside else 0
        near = (p > 0) & (p < 4 * p[p > 0].min())
        if near.sum() < FEW_ANCHORS:
            near = p > 0
        mass = np.zeros(len(self.heads))
        for h, (shares, part) in enumerate(zip(self.head_shares[:, ranks], self.attention[:, kept])):
            rest = self.sums_of_heads[h] - int(shares.sum())
            rest += rest * outside >> 8
            anchors = near & (shares > 0)
            if anchors.any() and rest > 0:
                mass[h] = min(factor * part[anchors].sum() * (rest / shares[anchors].sum()),
                              part[shares > 0].sum() * (rest / shares.sum()))
        return mass


def cross_entropy(logits, slope):
    """logits: of a score, and the attention that they are to tell."""
    total = 0.0
    for sums, attention in logits:
        x = slope * sums
        total += np.log(np.exp(x - x.max()).sum()) + x.max() - (attention * x).sum()
    return total / len(logits)


def fit(logits):
    """Of least cross entropy, which is convex: by golden section, of the logarithm."""
    low, high = math.log(1e-5), math.log(10)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        if cross_entropy(logits, math.exp(a)) < cross_entropy(logits, math.exp(b)):
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


def print_slopes(name, score, heads):
    print(name, score, *["%.6g" % fit([(one.unit * one.sums, one.attention.mean(0)) for one in selections])
                         for selections in heads])
    if isinstance(heads[0][0], HeadSelection):
        print(name, "head", *["%.6g" % fit([(one.head_sums[h] * one.heads[h][1], one.attention[h]) for one in selections])
                              for selections in heads for h in range(len(selections[0].heads))])


def look_at(trace, name, score, heads, args):
    slopes = trace.get("%s.slope.%s" % (name, score), np.zeros(len(heads)))
    for g, selections in enumerate(heads):
        for one in selections:
            if args.candidates:
                group = len(one.heads)
                one.look(args.topk, slopes[g], args.candidates, trace[name + ".slope.head"][g * group:(g + 1) * group])
            else:
                one.look(args.topk, slopes[g])


def print_row(args, name, score, bits, flat):
    def selected(tau):
        return [one.kept(int(np.rint(np.float64(np.float32(tau)) * 2**32))) for one in flat]

    tau = args.floor
    if args.mean_rows:
        tau = find_floor(lambda tau: np.mean([len(kept) for kept in selected(tau)]), args.mean_rows)
    kept = selected(tau)
    least = 0
    if args.mean_values:
        weights = np.sort(np.concatenate([one.value_weights(positions) for one, positions in zip(flat, kept)]))
        least = weights[len(weights) - args.mean_values * len(flat)]
    mean_rows = np.mean([len(positions) for positions in kept])
    figures = np.mean([one.metrics(positions, len(positions) if tau else args.topk, args.tail, least)
                       for one, positions in zip(flat, kept)], 0)
    print("\t".join([os.path.basename(args.trace).split(".")[0], name, score, "kv", str(bits), str(args.topk), "0", "0",
                     str(args.candidates), "%.0f" % mean_rows if args.floor else str(args.mean_rows), "%g" % args.floor,
                     "%g" % args.tail, str(args.mean_values), *["%.4f" % figure for figure in figures],
                     "# floor %.6g, rows %.1f, vskip %.6g" % (tau, mean_rows, least)]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace")
    parser.add_argument("--maps", required=True)
    parser.add_argument("--topk", type=int, default=512)
    parser.add_argument("--mean-rows", type=int, default=0, help="a floor that keeps so many on average")
    parser.add_argument("--floor", type=float, default=0, help="this floor, which was set elsewhere")
    parser.add_argument("--tail", type=float, default=0, help="the factor of a tail")
    parser.add_argument("--mean-values", type=int, default=0, help="with a tail: how many rows of V are read on average")
    parser.add_argument("--candidates", type=int, default=0, help="of scores per query head")
    parser.add_argument("--fit", action="store_true")
    args = parser.parse_args()
    trace, metadata = read(args.trace)
    trace = {name: tensor.astype(np.float64) for name, tensor in trace.items()}
    scale = float(metadata.get("softmax_scale", trace["q"].shape[2]**-0.5))
    for name in args.maps.split(","):
        weighted = name.startswith("weighted") or args.candidates > 0
        score = "weighted" if weighted else "hamming"
        heads = [[(HeadSelection if args.candidates else Selection)(trace, scale, name, query, g, weighted)
                  for query in range(trace["q"].shape[0])] for g in range(trace["k"].shape[1])]
        if args.fit:
            print_slopes(name, score, heads)
        else:
            look_at(trace, name, score, heads, args)
            print_row(args, name, score, trace[name + ".wk"].shape[2], [one for selections in heads for one in selections])


if __name__ == "__main__":
    main()
