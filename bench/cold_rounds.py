# SPDX-License-Identifier: Apache-2.0
"""Cold memory, hattn's stages over it, and rounds in which everything that is timed takes turns.

Only ratios out of the same rounds mean anything on a shared machine. Every call finds K, V, codes and maps in DRAM, as
a step of a real model does: each takes the next piece of memory that is larger than the caches many times over.
"""
import os
import random
import statistics
import time

import numpy as np

from hattn import Plan, Problem
from hattn.abi import (AttendArgs, Batch, Buffer, DecodeArgs, EncodeQueriesArgs, SCORE_HAMMING, SCORE_WEIGHTED, ScoreArgs,
                       TopkArgs)
from hattn.library import sized
from hattn.plan import aligned

D = 128
NUM_SETS = 4  # weights and selections for the stages that start from them
# With more than this, somebody else's work is in the figures, and they say so.
BUSY_SHARE = 0.03


def fill_halves(array, seed):
    """Normal numbers in a uint8 array, as fp16: one block of them, turned a little further each time."""
    block = np.random.default_rng(seed).standard_normal(1 << 22, dtype=np.float32).astype(np.float16).view(np.uint8)
    for i, start in enumerate(range(0, array.size, block.size)):
        part = array[start:start + block.size]
        part[:] = np.roll(block, i * 1954)[:part.size]


def fill_bits(array, seed):
    rng = np.random.default_rng(seed)
    for start in range(0, array.size, 1 << 24):
        part = array[start:start + (1 << 24)]
        part[:] = rng.integers(0, 256, part.size, dtype=np.uint8)


class Ring:
    """An arena whose pieces are handed out in turn: a piece comes again only after all others were."""

    def __init__(self, size, fill, seed):
        self.bytes, self.next = aligned(size), 0
        self.start = self.bytes.ctypes.data
        fill(self.bytes, seed)

    def take(self, size):
        """The offset of the next `size` bytes, a multiple of `size` if all are taken with the same one."""
        if self.next + size > self.bytes.size:
            self.next = 0
        offset = self.next
        self.next += size
        return offset


class Shape:
    """One sequence of n keys and a budget of k, fp16, 128 dimensions."""

    def __init__(self, num_q_heads, num_kv_heads, n, k):
        self.num_q_heads, self.num_kv_heads, self.n, self.k = num_q_heads, num_kv_heads, n, k
        self.group = num_q_heads // num_kv_heads
        self.half_layer = num_kv_heads * n * D * 2  # bytes of K, and of V
        self.name = "%s %d/%d n=%d k=%d" % ("MHA" if self.group == 1 else "GQA", num_q_heads, num_kv_heads, n, k)

    def code_bytes(self, bits):
        return self.num_kv_heads * self.n * bits // 8

    def map_bytes(self, bits):
        return self.num_kv_heads * D * bits * 2


class Hattn:
    """The stages of a decode step of one shape, each a call without arguments. K and V come from `kv`, a layer a call;
    codes from `codes`, query maps from `maps`."""

    def __init__(self, device, shape, bits, score, kv, codes, maps, q, scores):
        """score: "hamming" or "weighted"; q: fp16 [Hq, D]; scores: uint16, room for [Hkv, n], may be shared."""
        self.shape, self.bits, self.kv, self.codes, self.maps = shape, bits, kv, codes, maps
        problem = Problem(
            num_q_heads=shape.num_q_heads, num_kv_heads=shape.num_kv_heads, head_dim_qk=D, code_bits=bits, q="float16",
            k_cache="float16", score_kind=SCORE_HAMMING if score == "hamming" else SCORE_WEIGHTED, weight_bits=4,
            max_sequences=1, max_rows=1, max_length=shape.n, k=shape.k, library=device.library)
        self.plan = Plan(device, problem, num_threads=device.max_threads)
        heads = shape.num_kv_heads
        self.q, self.set = q, 0
        self.scores = scores[:heads * shape.n].reshape(heads, shape.n)
        self.weights = np.empty((NUM_SETS, heads, bits), np.int8)
        self.indices = np.empty((NUM_SETS, heads, shape.k), np.int32)
        self.counts = np.empty((NUM_SETS, heads), np.int32)
        self.out = np.empty((shape.num_q_heads, D), np.float16)
        self.length = np.array([shape.n], np.int32)
        self._make_args()
        for _ in range(NUM_SETS):
            self.encode(), self.score(), self.topk()

    def _make_args(self):
        batch = Batch(num_sequences=1, num_rows=1, q_len=1, seq_len=Buffer(self.length.ctypes.data, 0))
        self._encode, self._score, self._topk, self._attend, self._dense, self._decode = map(
            sized, (EncodeQueriesArgs, ScoreArgs, TopkArgs, AttendArgs, AttendArgs, DecodeArgs))
        self._encode.num_rows = 1
        for args in (self._score, self._topk, self._attend, self._dense, self._decode):
            args.batch = batch
        for args in (self._encode, self._attend, self._dense, self._decode):
            args.q.data = self.q.ctypes.data
        for args in (self._attend, self._dense, self._decode):
            args.out.data = self.out.ctypes.data
        self._score.scores.data = self._topk.scores.data = self.scores.ctypes.data

    def _next_set(self):
        self.set = (self.set + 1) % NUM_SETS

    def _next_kv(self, args):
        offset = self.kv.start + self.kv.take(2 * self.shape.half_layer)
        args.k_cache.data, args.v_cache.data = offset, offset + self.shape.half_layer

    def _next_codes(self):
        return self.codes.start + self.codes.take(self.shape.code_bytes(self.bits))

    def _next_map(self):
        return self.maps.start + self.maps.take(self.shape.map_bytes(self.bits))

    def encode(self):
        """Starts a set: the stages after it take its weights, and hand on its selection."""
        self._next_set()
        self._encode.query_map.weight[0].data = self._next_map()
        self._encode.weights.data = self.weights[self.set].ctypes.data
        self.plan.run("encode_queries", self._encode)

    def score(self):
        self._score.weights.data = self.weights[self.set].ctypes.data
        self._score.codes.data = self._next_codes()
        self.plan.run("score", self._score)

    def topk(self):
        self._topk.indices.data = self.indices[self.set].ctypes.data
        self._topk.counts.data = self.counts[self.set].ctypes.data
        self.plan.run("topk", self._topk)

    def score_topk(self):
        self.score()
        self.topk()

    def attend(self):
        self._next_set()
        self._next_kv(self._attend)
        self._attend.indices.data = self.indices[self.set].ctypes.data
        self._attend.counts.data = self.counts[self.set].ctypes.data
        self.plan.run("attend", self._attend)

    def dense(self):
        self._next_kv(self._dense)
        self.plan.run("attend", self._dense)

    def decode(self):
        self._next_kv(self._decode)
        self._decode.codes.data = self._next_codes()
        self._decode.query_map.weight[0].data = self._next_map()
        self.plan.run("decode", self._decode)


class Samples:
    def __init__(self):
        self.us = []

    @property
    def median(self):
        return statistics.median(self.us)

    @property
    def min(self):
        return min(self.us)


def _ticks():
    """Of all processors since boot: busy for anyone (time stolen by other guests included), and passed."""
    with open("/proc/stat") as file:
        ticks = list(map(int, file.readline().split()[1:9]))
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


class Rounds:
    """Things to time, each once a round."""

    # A busy wait before each call: a sleep would let the clock drop, and idle OpenMP threads of the last one spin on.
    GAP_S = 0.003

    def __init__(self, warm):
        """warm: for contenders that have nothing to do with each other. The order is drawn anew for each round, so that
        none is always behind the same neighbour, and an untimed call goes before each timed one, so that every library
        finds its own threads awake. Otherwise the order is that of add."""
        self.calls, self.samples, self.warm = [], {}, warm
        self.others = 0.0

    def add(self, name, call):
        self.calls.append((name, call))
        self.samples[name] = Samples()

    def clear(self):
        for name in self.samples:
            self.samples[name] = Samples()

    def run(self, rounds):
        busy, passed = _ticks()
        own = time.process_time()
        order = random.Random(7)
        for _ in range(rounds):
            for name, call in order.sample(self.calls, len(self.calls)) if self.warm else self.calls:
                if self.warm:
                    end = time.perf_counter() + self.GAP_S
                    while time.perf_counter() < end:
                        pass
                    call()
                start = time.perf_counter()
                call()
                self.samples[name].us.append((time.perf_counter() - start) * 1e6)
        own = (time.process_time() - own) * os.sysconf("SC_CLK_TCK")
        busy_after, passed_after = _ticks()
        if passed_after > passed:
            self.others = max(0.0, (busy_after - busy - own) / (passed_after - passed))


def busy_text(others):
    """`others`: the share of this machine's processors that went to somebody else during the rounds."""
    text = "Others had %.0f %% of this machine's processors meanwhile" % (100 * others)
    return text + (": quote nothing of this." if others > BUSY_SHARE else ".")


def processor():
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown processor"


def machine_text(device):
    return "%s, %d processors, %s kernels, %s" % (processor(), os.cpu_count(), device.isa,
                                                  time.strftime("%Y-%m-%d", time.gmtime()))
