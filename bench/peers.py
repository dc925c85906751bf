#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""hattn beside other libraries on this machine's CPU: one table out of one run in which all take turns.

Installs what it compares with into a virtual environment outside the tree, builds the library, checks each result
against hattn's or numpy's, and prints medians. A peer that cannot be had is a row that says why.
"""
import argparse
import json
import os
import sys

sys.dont_write_bytecode = True  # nothing is left in the tree
import tables
import venv_setup

SHAPES = [(32, 8, 32768, 512), (32, 8, 131072, 2048), (32, 32, 32768, 512)]
PEERS = {"torch": "torch", "ggml": "llama-cpp-python", "faiss": "faiss-cpu", "numkong": "numkong"}
KV_BYTES, CODES_BYTES, MAPS_BYTES = 1 << 30, 128 << 20, 64 << 20
BITS = 128
# Wrong layouts differ by 100 % and more; sums in fp16 or bf16 stay far below.
WRONG = 0.25
DECODE, SCORE_TOPK = "hattn decode, 128 bits, hamming", "hattn score + topk"
SCORE, TOPK, ATTEND = "hattn score", "hattn topk", "hattn attend, selection given"


class Row:
    def __init__(self, shape, threads, name, to, note=""):
        self.shape, self.threads, self.name, self.to, self.note = shape, threads, name, to, note
        self.us = self.us_min = self.ratio = None

    def cells(self):
        number = ["%.0f" % self.us, "%.0f" % self.us_min, "%.2f" % self.ratio] if self.us else ["-"] * 3
        return [self.shape, str(self.threads), self.name] + number + [self.to if self.us else "-", self.note]


class Memory:
    """What all shapes and contenders share."""

    def __init__(self, with_bf16):
        import numpy as np
        from cold_rounds import D, Ring, fill_bits, fill_halves
        self.kv = Ring(KV_BYTES, fill_halves, 1)
        self.codes = Ring(CODES_BYTES, fill_bits, 2)
        self.maps = Ring(MAPS_BYTES, fill_halves, 3)
        self.q = np.random.default_rng(4).standard_normal((max(s[0] for s in SHAPES), D)).astype(np.float16)
        self.bf16 = None
        if with_bf16:
            import torch
            self.bf16 = Ring(KV_BYTES, self._to_bf16, torch)

    def _to_bf16(self, array, torch):
        torch.from_numpy(array).view(torch.bfloat16).copy_(torch.from_numpy(self.kv.bytes).view(torch.float16))


class Contest:
    """The contenders of one shape and number of threads. finish closes the device."""

    def __init__(self, device, shape, memory):
        from cold_rounds import Rounds
        self.device, self.shape, self.memory = device, shape, memory
        self.rounds, self.rows, self.plans = Rounds(warm=True), [], []

    def add(self, name, to, call, note=""):
        self.rows.append(Row(self.shape.name, self.device.max_threads, name, to, note))
        self.rounds.add(name, call)

    def miss(self, name, why):
        self.rows.append(Row(self.shape.name, self.device.max_threads, name, "", why))

    def add_checked(self, name, to, call, out, expected, note=""):
        """out() is what the last call made, on the layer at the start of the ring as `expected`."""
        self.memory.kv.next = 0
        if self.memory.bf16:
            self.memory.bf16.next = 0
        call()
        differs = float(abs(out() - expected).max() / abs(expected).max())
        if differs < WRONG:
            self.add(name, to, call, (note + "; " if note else "") + "differs by %.1f %%" % (100 * differs))
        else:
            self.miss(name, "wrong result: differs by %.0f %%" % (100 * differs))

    def finish(self, rounds):
        self.rounds.run(rounds)
        samples = self.rounds.samples
        for row in self.rows:
            if row.name in samples:
                row.us, row.us_min = samples[row.name].median, samples[row.name].min
                row.ratio = row.us / samples[row.to].median
        for plan in self.plans:
            plan.destroy()
        return self.rows


def add_hattn(contest):
    """Returns the Hattn of 128 bits with a selection, its dense output on the first layer, and its sparse one."""
    import numpy as np
    from cold_rounds import Hattn
    memory, shape = contest.memory, contest.shape

    def make(bits, score):
        hattn = Hattn(contest.device, shape, bits, score, memory.kv, memory.codes, memory.maps,
                      memory.q[:shape.num_q_heads], np.empty(shape.num_kv_heads * shape.n, np.uint16))
        contest.plans.append(hattn.plan)
        return hattn

    main = make(BITS, "hamming")
    check_score(main)
    memory.kv.next = 0
    main.dense()
    dense = main.out.astype(np.float32)
    memory.kv.next = 0
    main.attend()
    sparse, selection = main.out.astype(np.float32), main.indices[main.set].copy()
    contest.add(DECODE, DECODE, main.decode)
    contest.add("hattn decode, 128 bits, weighted4", DECODE, make(BITS, "weighted").decode)
    contest.add("hattn decode, 64 bits, weighted4", DECODE, make(64, "weighted").decode)
    contest.add("hattn dense", DECODE, main.dense)
    contest.add(ATTEND, DECODE, main.attend)
    contest.add(SCORE_TOPK, SCORE_TOPK, main.score_topk)
    contest.add(SCORE, SCORE, main.score)
    contest.add(TOPK, TOPK, main.topk, "scores still in a cache")
    return main, dense, sparse, selection


def check_score(hattn):
    """The first head's scores, as api/hattn.h defines them, in numpy."""
    import numpy as np
    from hattn import HattnError
    hattn.codes.next = 0
    hattn.score()
    codes = hattn.codes.bytes[:hattn.shape.n * BITS // 8].reshape(hattn.shape.n, BITS // 8)
    weights = hattn.weights[hattn.set, 0].astype(np.int32)
    bits = np.unpackbits(codes, axis=1, bitorder="little").astype(np.int32)
    if not np.array_equal(bits @ weights - weights[weights < 0].sum(), hattn.scores[0]):
        raise HattnError("hattn_score is not what its header says")


def add_torch(contest, hattn, dense):
    import numpy as np
    import torch
    import torch.nn.functional as F
    from cold_rounds import D
    torch.set_grad_enabled(False)
    torch.set_num_threads(contest.device.max_threads)
    shape, memory = contest.shape, contest.memory
    for name, dtype, ring in (("fp16", torch.float16, memory.kv), ("bf16", torch.bfloat16, memory.bf16)):
        layers = torch.from_numpy(ring.bytes).view(dtype).view(-1, 2, 1, shape.num_kv_heads, shape.n, D)
        q = torch.from_numpy(memory.q[:shape.num_q_heads]).to(dtype)
        rows, heads = q.view(1, shape.num_kv_heads, shape.group, D), q.view(1, shape.num_q_heads, 1, D)
        result = {}

        def attend(q, gqa, layers=layers, ring=ring, result=result):
            layer = layers[ring.take(2 * shape.half_layer) // (2 * shape.half_layer)]
            result["out"] = F.scaled_dot_product_attention(q, layer[0], layer[1], enable_gqa=gqa)

        def out(result=result):
            return result["out"].float().reshape(shape.num_q_heads, D).numpy()

        forms = [("heads of a group as rows", rows, False), ("enable_gqa=True", heads, True)]
        for form, q, gqa in forms if shape.group > 1 else [("", heads, False)]:
            contest.add_checked("torch SDPA %s" % name + (", " + form if form else ""), DECODE,
                                lambda q=q, gqa=gqa, attend=attend: attend(q, gqa), out, dense)
    scores = hattn.scores.astype(np.int16)
    best = np.sort(np.partition(scores, shape.n - shape.k, axis=1)[:, -shape.k:], axis=1)
    for dtype in (torch.int16, torch.float32):
        tensor, result = torch.from_numpy(scores).to(dtype), {}

        def topk(tensor=tensor, result=result):
            result["out"] = torch.topk(tensor, shape.k, dim=1, sorted=False)

        topk()
        name = "torch.topk %s" % str(dtype).split(".")[1]
        if np.array_equal(np.sort(result["out"].values.numpy().astype(np.int16), axis=1), best):
            contest.add(name, TOPK, topk, "scores still in a cache")
        else:
            contest.miss(name, "wrong result")


def add_ggml(contest, dense, sparse, selection):
    import numpy as np
    from ggml_ctypes import FlashAttention, Ggml
    shape, memory, ggml = contest.shape, contest.memory, Ggml()
    ggml.set_threads(contest.device.max_threads)
    q = memory.q[:shape.num_q_heads].astype(np.float32)

    def add(name, expected, note="", **options):
        attention = FlashAttention(ggml, q, shape.num_kv_heads, shape.n, **options)

        def call():
            k = memory.kv.start + memory.kv.take(2 * shape.half_layer)
            attention.run(k, k + shape.half_layer)

        contest.add_checked("ggml flash_attn_ext f16" + name, DECODE, call, attention.out, expected, note)

    add("", dense)
    if shape.group > 1:
        add(", heads of a group as rows", dense, as_rows=True)
    mask = np.full((shape.num_kv_heads, shape.group, shape.n), -np.inf, np.float16)
    for head in range(shape.num_kv_heads):
        mask[head][:, selection[head]] = 0
    add(", mask of the selection", sparse, "selection given, n_kv_max set", as_rows=True, mask=mask, n_kv_max=shape.k)


def code_layers(contest):
    """Every layer of the code arena as [Hkv, n, 16], random queries, and numpy's distances of the first head."""
    import numpy as np
    shape = contest.shape
    layers = contest.memory.codes.bytes.reshape(-1, shape.num_kv_heads, shape.n, BITS // 8)
    queries = np.random.default_rng(5).integers(0, 256, (shape.num_kv_heads, shape.group, BITS // 8), dtype=np.uint8)
    truth = np.bitwise_count(queries[0][:, None, :] ^ layers[0, 0][None]).sum(axis=2, dtype=np.int32)
    return layers, queries, truth


def add_faiss(contest):
    import faiss
    import numpy as np
    faiss.omp_set_num_threads(contest.device.max_threads)
    layers, queries, truth = code_layers(contest)
    shape, indexes, state = contest.shape, [], [0]
    for layer in layers:
        indexes.append([faiss.IndexBinaryFlat(BITS) for _ in layer])
        for index, codes in zip(indexes[-1], layer):
            index.add(codes)

    def search():
        for index, q in zip(indexes[state[0]], queries):
            index.search(q, shape.k)
        state[0] = (state[0] + 1) % len(indexes)

    name, distances = "FAISS IndexBinaryFlat search", indexes[0][0].search(queries[0], shape.k)[0]
    if np.array_equal(np.sort(distances, axis=1), np.sort(truth, axis=1)[:, :shape.k]):
        contest.add(name, SCORE_TOPK, search, "a list for each query head")
    else:
        contest.miss(name, "wrong result")


def add_numkong(contest):
    from concurrent.futures import ThreadPoolExecutor
    import numkong
    import numpy as np
    layers, queries, truth = code_layers(contest)
    packed = [[numkong.hammings_pack(codes, dtype="uint1") for codes in layer] for layer in layers]
    pool, state = ThreadPoolExecutor(contest.device.max_threads), [0]

    def distances(head):
        return numkong.hammings_packed(queries[head], packed[state[0]][head])

    def all_heads():
        for _ in pool.map(distances, range(contest.shape.num_kv_heads)) if contest.device.max_threads > 1 else \
                map(distances, range(contest.shape.num_kv_heads)):
            pass
        state[0] = (state[0] + 1) % len(packed)

    if np.array_equal(np.asarray(distances(0)), truth):
        contest.add("NumKong hammings_packed", SCORE, all_heads, "distances only")
    else:
        contest.miss("NumKong hammings_packed", "wrong result")


def run_contest(device, shape, memory, missing, rounds):
    contest = Contest(device, shape, memory)
    hattn, dense, sparse, selection = add_hattn(contest)
    adders = {"torch": lambda: add_torch(contest, hattn, dense), "faiss": lambda: add_faiss(contest),
              "ggml": lambda: add_ggml(contest, dense, sparse, selection), "numkong": lambda: add_numkong(contest)}
    for name, add in adders.items():
        if name in missing:
            contest.miss(name, missing[name])
            continue
        try:
            add()
        except Exception as error:  # a peer that cannot run is a row, never the end of the others
            contest.miss(name, "%s: %s" % (type(error).__name__, str(error).split("\n")[0]))
    rows = contest.finish(rounds)
    return rows, contest.rounds.others


HEAD = ["shape", "threads", "contender", "us", "us min", "ratio", "to", "note"]
NUMBERS = ("threads", "us", "us min", "ratio")


def markdown(rows, caption):
    title = "# hattn beside other libraries\n\n`python3 bench/peers.py --markdown docs/cpu_peers.md` wrote this page.\n"
    return title + "\n" + caption + "\n\n" + tables.markdown_table(HEAD, NUMBERS, [row.cells() for row in rows])


def versions(missing):
    pins = venv_setup.requirements()
    return ", ".join(pins[package].replace("==", " ") for peer, package in PEERS.items() if peer not in missing)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--venv", default=venv_setup.DEFAULT_VENV, help="where the Python packages go")
    parser.add_argument("--library", help="a libhattn.so.0; without it this tree's, built")
    parser.add_argument("--quick", action="store_true", help="the first shape only, few rounds")
    parser.add_argument("--rounds", type=int, help="timings of each contender (11, or 3 with --quick)")
    parser.add_argument("--skip", action="append", default=[], choices=sorted(PEERS), help="leave a peer out")
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--markdown", help="write the table to this file")
    args = parser.parse_args()
    packages = ["numpy"] + [package for peer, package in PEERS.items() if peer not in args.skip]
    failed = venv_setup.enter(os.path.abspath(args.venv), packages)
    if "numpy" in failed:
        raise SystemExit("numpy: " + failed["numpy"])
    missing = {peer: failed[package] for peer, package in PEERS.items() if package in failed}
    missing.update((peer, "left out by --skip") for peer in args.skip)

    from cold_rounds import Shape, busy_text, machine_text
    from hattn import Device, Library
    library = Library(venv_setup.library_path(args.library))
    memory = Memory(with_bf16="torch" not in missing)
    rounds = args.rounds or (3 if args.quick else 11)
    rows, others = [], 0.0
    for shape in [Shape(*numbers) for numbers in SHAPES[:1 if args.quick else None]]:
        for threads in sorted({1, min(2, os.cpu_count())}):
            print("%s, %d threads" % (shape.name, threads), file=sys.stderr)
            device = Device("cpu", max_threads=threads, library=library)
            contest_rows, contest_others = run_contest(device, shape, memory, missing, rounds)
            rows, others = rows + contest_rows, max(others, contest_others)

    machine = machine_text(Device("cpu", max_threads=1, library=library))
    caption = ("One decode step of one sequence, %s. %s. %s\n"
               "us are medians of %d rounds in which all contenders of a shape and thread count took turns, each\n"
               "with an untimed call before the timed one; K, V and codes come from DRAM. ratio: us over those of the\n"
               "hattn row named behind it. hattn decode is the whole step: encode, score, top-k, attend." %
               (versions(missing), machine, busy_text(others), rounds))
    print(tables.text_table(HEAD, NUMBERS, [row.cells() for row in rows]) + "\n\n" + caption)
    if args.markdown:
        with open(args.markdown, "w") as out:
            out.write(markdown(rows, caption))
    if args.json:
        with open(args.json, "w") as out:
            json.dump({"machine": machine, "versions": versions(missing), "rounds": rounds,
                       "others_share": others, "rows": [vars(row) for row in rows]}, out, indent=1)


if __name__ == "__main__":
    main()
