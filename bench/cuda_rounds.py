# SPDX-License-Identifier: Apache-2.0
"""Layers on a GPU, hattn's calls over them, and rounds in which graphs of everything that is timed take turns.

Every step works on the next of several layers, so that none finds its memory in L2: a model's other layers empty it too.
"""
import random
import statistics

import torch

from hattn import Layout, Plan, Problem
from hattn.abi import AttendArgs, Batch, Buffer, DecodeArgs, EncodeKeysArgs, SCORE_HAMMING, SCORE_WEIGHTED
from hattn.library import sized

D = 128
COLD_BYTES = 256 << 20  # touched between two uses of a layer: several L2 caches
MOST_BYTES = 14 << 30   # of K and V
MIN_US = 2000           # of one graph


class Shape:
    def __init__(self, name, batch, num_q_heads, num_kv_heads, n, k):
        self.name, self.batch, self.num_q_heads, self.num_kv_heads, self.n, self.k = (
            name, batch, num_q_heads, num_kv_heads, n, k)
        self.group = num_q_heads // num_kv_heads
        self.rows = batch * num_kv_heads * n  # keys of all heads
        touched = self.rows * 8 + 2 * batch * num_kv_heads * k * D * 2
        self.num_layers = max(2, min(-(-COLD_BYTES // touched), MOST_BYTES // (self.rows * D * 4)))

    def __str__(self):
        return "%s: B %d, %d/%d, n %d, k %d" % (self.name, self.batch, self.num_q_heads, self.num_kv_heads, self.n, self.k)


class Layers:
    """K and V [layer][sequence or page][head][slot][D], codes alike, query maps; random."""

    def __init__(self, shape, pinned_layers=0):
        self.shape, count = shape, pinned_layers or shape.num_layers
        self.count = count
        kv = (count, shape.batch, shape.num_kv_heads, shape.n, D)
        if pinned_layers:
            block = torch.randn(1 << 22).half()
            self.k, self.v = (torch.empty(kv, dtype=torch.float16, pin_memory=True) for _ in range(2))
            for flat in (self.k.view(-1), self.v.view(-1)):
                for start in range(0, flat.numel(), block.numel()):
                    part = flat[start:start + block.numel()]
                    part.copy_(torch.roll(block, start // 7)[:part.numel()])
        else:
            self.k, self.v = (torch.empty(kv, dtype=torch.float16, device="cuda").normal_() for _ in range(2))
        self.codes = torch.randint(-2**31, 2**31 - 1, (count, shape.rows, 4), dtype=torch.int32, device="cuda")
        self.maps = torch.randn((count, shape.num_kv_heads, D, D), dtype=torch.float16, device="cuda") / D ** 0.5
        self.q = torch.randn((shape.batch, shape.num_q_heads, D), dtype=torch.float16, device="cuda")


def buffer(tensor):
    return Buffer(tensor.data_ptr(), 0)


def allocate(size):
    return torch.empty(size, dtype=torch.uint8, device="cuda")


class Hattn:
    """hattn_decode and hattn_attend over the layers: decode(i), dense(i), attend(i) enqueue on torch's stream."""

    def __init__(self, device, layers, bits=128, kind="hamming", page_size=0, stream=None):
        self.layers, self.bits, self.page_size = layers, bits, page_size
        shape = self.shape = layers.shape
        kv = Layout("float16", pinned=not layers.k.is_cuda)
        problem = Problem(
            num_q_heads=shape.num_q_heads, num_kv_heads=shape.num_kv_heads, head_dim_qk=D, code_bits=bits, q="float16",
            k_cache=kv, v_cache=kv, score_kind=SCORE_HAMMING if kind == "hamming" else SCORE_WEIGHTED, weight_bits=4,
            max_sequences=shape.batch, max_rows=shape.batch, max_length=shape.n, k=shape.k, page_size=page_size,
            library=device.library)
        self.plan = Plan(device, problem, allocate, stream)
        self.out = torch.empty((shape.batch, shape.num_q_heads, D), dtype=torch.float16, device="cuda")
        selections = (shape.batch, shape.num_kv_heads)
        self.weights = torch.empty(selections + (bits,), dtype=torch.int8, device="cuda")
        self.indices = torch.empty(selections + (shape.k,), dtype=torch.int32, device="cuda")
        self.counts = torch.empty(selections, dtype=torch.int32, device="cuda")
        self.lengths = torch.full((shape.batch,), shape.n, dtype=torch.int32, device="cuda")
        if page_size:
            pages = shape.batch * shape.n // page_size
            self.table = torch.randperm(pages, device="cuda").to(torch.int32).view(shape.batch, -1)
        self._args = [self._layer_args(i, self.batch()) for i in range(layers.count)]

    def batch(self):
        batch = Batch(num_sequences=self.shape.batch, num_rows=self.shape.batch, q_len=1, seq_len=buffer(self.lengths))
        if self.page_size:
            batch.block_table = buffer(self.table)
        return batch

    def _layer_args(self, i, batch):
        decode, dense, attend = sized(DecodeArgs), sized(AttendArgs), sized(AttendArgs)
        for args in (decode, dense, attend):
            args.batch, args.q, args.out = batch, buffer(self.layers.q), buffer(self.out)
            args.k_cache, args.v_cache = buffer(self.layers.k[i]), buffer(self.layers.v[i])
        decode.codes, decode.query_map.weight[0] = buffer(self.layers.codes[i]), buffer(self.layers.maps[i])
        attend.indices, attend.counts = buffer(self.indices), buffer(self.counts)
        return {"decode": decode, "dense": dense, "attend": attend}

    def decode(self, i):
        self.plan.run("decode", self._args[i]["decode"])

    def dense(self, i):
        self.plan.run("attend", self._args[i]["dense"])

    def attend(self, i):
        """Of the selection that select left."""
        self.plan.run("attend", self._args[i]["attend"])

    def select(self, i):
        """A decode that shows its selection, which attend then takes."""
        args = self._args[i]["decode"]
        shown = DecodeArgs.from_buffer_copy(args)
        shown.weights, shown.indices, shown.counts = buffer(self.weights), buffer(self.indices), buffer(self.counts)
        self.plan.run("decode", shown)

    def flat_rows(self, positions):
        """Of positions [B, Hkv, m]: the rows of layers.k[i].view(-1, D)."""
        b, h = (torch.arange(size, device="cuda") for size in positions.shape[:2])
        slots = self.page_size or self.shape.n
        page = torch.gather(self.table.long()[:, None].expand(-1, len(h), -1), 2, positions // slots) \
            if self.page_size else b[:, None, None].expand_as(positions)
        return (page * self.shape.num_kv_heads + h[None, :, None]) * slots + positions % slots

    def check(self):
        """"" or what is wrong with a decode of layer 0: its selection by its own weights, its output by torch."""
        self.select(0)
        torch.cuda.synchronize()
        shape, positions = self.shape, self.indices.long()
        if not bool((self.counts == shape.k).all()) or bool((positions[..., 1:] <= positions[..., :-1]).any()):
            return "selections are not k rising positions"
        every = torch.arange(shape.n, device="cuda").expand(shape.batch, shape.num_kv_heads, -1)
        words = self.layers.codes[0].view(-1)[:shape.rows * self.bits // 32].view(-1, self.bits // 32)
        for b, h in {(0, 0), (shape.batch - 1, shape.num_kv_heads - 1)}:
            code = words[self.flat_rows(every[:, :, :])[b, h]]
            bits = (code[:, :, None] >> torch.arange(32, device="cuda")) & 1
            scores = bits.reshape(shape.n, -1).float() @ self.weights[b, h].float()
            kept = torch.zeros(shape.n, dtype=torch.bool, device="cuda")
            kept[positions[b, h]] = True
            if float(scores[kept].min()) < float(scores[~kept].max()):
                return "a score outside of the selection is larger than one in it"
        rows = self.flat_rows(positions)
        k, v = (x[0].view(-1, D)[rows.to(x.device)].to("cuda").float() for x in (self.layers.k, self.layers.v))
        q = self.layers.q.view(shape.batch, shape.num_kv_heads, shape.group, D).float()
        expected = torch.softmax(q @ k.transpose(2, 3) * D ** -0.5, -1) @ v
        return differs(self.out, expected)


def differs(out, expected):
    """"" or how far they are apart: fp16 outputs are within 0.4 % of the largest value."""
    largest = float(expected.abs().max())
    apart = float((out.float().reshape(-1) - expected.float().reshape(-1)).abs().max())
    return "" if apart <= 4e-3 * largest else "differs by %.2g of %.2g" % (apart, largest)


def encode_keys(device, num_heads, n, bits, stream):
    """A call that encodes n keys of each head, its output, and its inputs, which it keeps alive."""
    problem = Problem(num_q_heads=num_heads, num_kv_heads=num_heads, head_dim_qk=D, code_bits=bits, q="float16",
                      k_cache="float16", max_sequences=1, max_rows=1, max_length=n, k=1, library=device.library)
    plan = Plan(device, problem, allocate, stream)
    keys = torch.randn((n, num_heads, D), dtype=torch.float16, device="cuda")
    weights = torch.randn((num_heads, D, bits), dtype=torch.float16, device="cuda")
    codes = torch.zeros((num_heads, n, bits // 32), dtype=torch.int32, device="cuda")
    args = sized(EncodeKeysArgs)
    args.num_tokens, args.k_new, args.codes = n, buffer(keys), buffer(codes)
    args.key_map.weight[0] = buffer(weights)
    return lambda _: plan.run("encode_keys", args), codes, keys, weights


class Contender:
    """us per step of call(layer), by graphs of many steps."""

    def __init__(self, name, call, num_layers, note="", min_us=MIN_US):
        self.name, self.call, self.num_layers, self.note, self.min_us, self.us = name, call, num_layers, note, min_us, []

    def capture(self, stream):
        for layer in range(self.num_layers):  # loads, plans and allocates whatever is lazy
            self.call(layer)
        stream.synchronize()
        self.steps = self.num_layers
        self._capture(stream)
        self.replay(stream)
        wanted = self.min_us / max(1.0, self.replay(stream))
        if wanted > self.num_layers:
            self.steps = self.num_layers * min(200, -(-int(wanted) // self.num_layers))
            self._capture(stream)
            self.replay(stream)

    def _capture(self, stream):
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):
            for step in range(self.steps):
                self.call(step % self.num_layers)

    def replay(self, stream):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(stream)
        self.graph.replay()
        end.record(stream)
        end.synchronize()
        return start.elapsed_time(end) * 1e3 / self.steps

    @property
    def median(self):
        return statistics.median(self.us)


def run_rounds(contenders, stream, rounds):
    """Captures them and lets them take turns, in a new order each round. Those that cannot be captured are left without
    times and with the reason in their note."""
    able, order = [], random.Random(7)
    for contender in contenders:
        try:
            contender.capture(stream)
            able.append(contender)
        except Exception as error:  # a form that this torch does not run is a row, never the end of the others
            contender.note = "%s: %s" % (type(error).__name__, str(error).split("\n")[0][:100])
            torch.cuda.synchronize()
    for _ in range(rounds):
        for contender in order.sample(able, len(able)):
            contender.us.append(contender.replay(stream))
