# SPDX-License-Identifier: Apache-2.0
"""Plans over numpy arrays, against the formulas of api/hattn.h in numpy and against the library's own reference."""

import gc
import threading
import time

import hattn
import numpy as np
import pytest
from hattn import abi

N, HQ, HKV, D, BITS, K = 300, 6, 2, 64, 64, 40
GROUP = HQ // HKV


class World:
    """Random caches of two sequences, a map for both sides, and one query token each."""

    def __init__(self, seed=0, dtype=np.float32):
        rng = np.random.default_rng(seed)
        self.k, self.v = (rng.standard_normal((2, N, HKV, D)).astype(dtype) for _ in range(2))
        self.q = rng.standard_normal((2, HQ, D)).astype(dtype)
        self.map = rng.standard_normal((HKV, D, BITS)).astype(dtype)
        self.seq_len = np.array([N, N - 77], np.int32)

    def problem(self, **more):
        return dict(q=self.q, k_cache=self.k, v_cache=self.v, query_map=self.map, key_map=self.map, max_sequences=2,
                    max_length=N, k=K) | more

    def plan(self, backend="cpu", **more):
        return hattn.Device(backend).plan(**self.problem(**more))

    def encode(self, plan, **more):
        """All keys of both sequences."""
        codes = plan.empty("codes", pages=2, slots=N)
        plan.encode_keys(np.ascontiguousarray(self.k.reshape(2 * N, HKV, D)), self.map, codes, **more)
        return codes


def by_formula(world):
    """(indices, out) of a hamming decode, in float64."""
    indices, out = np.full((2, HKV, K), -1), np.zeros((2, HQ, D))
    k, v, q, weight = (x.astype(np.float64) for x in (world.k, world.v, world.q, world.map))
    for b, n in enumerate(world.seq_len):
        for g in range(HKV):
            group = slice(g * GROUP, (g + 1) * GROUP)
            w = np.sign(q[b, group] @ weight[g]).sum(0)
            score = (k[b, :n, g] @ weight[g] > 0) @ w
            kept = np.sort(np.argsort(-score, kind="stable")[:K])
            indices[b, g] = kept
            logits = q[b, group] @ k[b, kept, g].T * D**-0.5
            p = np.exp(logits - logits.max(-1, keepdims=True))
            out[b, group] = p / p.sum(-1, keepdims=True) @ v[b, kept, g]
    return indices, out


def test_decode_is_the_formula():
    world = World()
    plan = world.plan()
    indices, lse = plan.empty("indices", rows=2), plan.empty("lse", rows=2)
    out = plan.decode(world.q, world.k, world.v, world.encode(plan), world.map, world.seq_len, indices=indices, lse=lse)
    expected_indices, expected = by_formula(world)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
    assert np.isfinite(lse).all()


@pytest.mark.parametrize("more", [{}, {"score_kind": abi.SCORE_WEIGHTED}, {"num_selection_heads": HQ},
                                  {"num_sink": 3, "num_recent": 5}, {"soft_cap": 30.0}], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_decode_is_the_references(more, dtype):
    world, results = World(1, dtype), {}
    for backend in ("cpu", "reference"):
        plan = world.plan(backend, **more)
        indices = plan.empty("indices", rows=2)
        out = plan.decode(world.q, world.k, world.v, world.encode(plan), world.map, world.seq_len, indices=indices)
        results[backend] = out.astype(np.float64), indices
    np.testing.assert_array_equal(results["cpu"][1], results["reference"][1])
    np.testing.assert_allclose(*(results[b][0] for b in results), rtol=0, atol=1e-5 if dtype == np.float32 else 2e-3)


def test_stages_are_decodes():
    world = World(2)
    plan = world.plan(score_kind=abi.SCORE_WEIGHTED)
    codes = world.encode(plan)
    weights = plan.encode_queries(world.q, world.map)
    scores = plan.score(weights, codes, world.seq_len)
    indices, counts = plan.topk(scores, world.seq_len)
    out = plan.attend(world.q, world.k, world.v, world.seq_len, indices=indices, counts=counts)
    looked = {name: plan.empty(name, rows=2) for name in ("weights", "indices", "counts")}
    expected = plan.decode(world.q, world.k, world.v, codes, world.map, world.seq_len, **looked)
    np.testing.assert_array_equal(out, expected)
    for name, array in (("weights", weights), ("indices", indices), ("counts", counts)):
        np.testing.assert_array_equal(looked[name], array)


def test_strides_come_from_arrays():
    """Caches as [sequence, head, slot, d], and one projection's q, k and v side by side."""
    world = World(3)
    plan = world.plan()
    expected = plan.decode(world.q, world.k, world.v, world.encode(plan), world.map, world.seq_len)
    other = World(3)
    other.k, other.v = (np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3) for x in (world.k, world.v))
    wide = np.zeros((2, HQ + 3, D), np.float32)
    other.q = wide[:, 2:2 + HQ]
    other.q[:] = world.q
    plan = other.plan()
    assert plan.problem.strides("k_cache") == (N * HKV * D, D, N * D) and plan.problem.strides("q")[0] == (HQ + 3) * D
    np.testing.assert_array_equal(
        plan.decode(other.q, other.k, other.v, other.encode(plan), other.map, other.seq_len), expected)


def test_pages_and_several_tokens():
    """Three query tokens of each sequence over pages in a random order are rows of their own lengths without pages."""
    world, page = World(4), 16
    pages, rng = -(-N // page), np.random.default_rng(9)
    table = rng.permutation(2 * pages).astype(np.int32).reshape(2, pages)
    k, v = (np.zeros((2 * pages, page, HKV, D), np.float32) for _ in range(2))
    for b in range(2):
        for j in range(N):
            k[table[b, j // page], j % page], v[table[b, j // page], j % page] = world.k[b, j], world.v[b, j]
    q = rng.standard_normal((6, HQ, D)).astype(np.float32)
    paged = hattn.Device("cpu").plan(**world.problem(k_cache=k, v_cache=v, q=q, page_size=page, max_q_len=3))
    codes = paged.empty("codes", pages=2 * pages, slots=page)
    slots = np.array([[table[b, j // page] * page + j % page for j in range(N)] for b in range(2)], np.int64)
    paged.encode_keys(world.k.reshape(2 * N, HKV, D), world.map, codes, slot_mapping=slots.reshape(-1))
    out = paged.decode(q, k, v, codes, world.map, world.seq_len, block_table=table)
    plan = world.plan()
    for t in range(3):
        row = np.ascontiguousarray(q[t::3])
        np.testing.assert_array_equal(
            out[t::3], plan.decode(row, world.k, world.v, world.encode(plan), world.map, world.seq_len - 2 + t))


def test_append_is_encode_then_decode():
    world = World(5)
    plan = world.plan()
    codes = world.encode(plan)
    expected = plan.decode(world.q, world.k, world.v, codes, world.map, world.seq_len)
    stale = codes.copy(order="K")
    for b, n in enumerate(world.seq_len):
        stale[b, n - 1] = 0
    out = plan.decode(world.q, world.k, world.v, stale, world.map, world.seq_len, key_map=world.map)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(stale, codes)


def test_mlp_maps_with_norms():
    rng, world, results = np.random.default_rng(6), World(6), {}
    widths = [D, 32, 16, BITS]
    weights = [rng.standard_normal((HQ, i, o)).astype(np.float32) for i, o in zip(widths, widths[1:], strict=False)]
    mlp = hattn.HashMap(weights, [rng.standard_normal((HQ, o)).astype(np.float32) for o in widths[1:]])
    for backend in ("cpu", "reference"):
        plan = hattn.Device(backend).plan(**world.problem(
            query_map=mlp, key_map=mlp, num_code_heads=HQ, num_selection_heads=HQ, key_norms=1))
        codes, norms = plan.empty("codes", pages=2, slots=N), plan.empty("norms", pages=2, slots=N)
        plan.encode_keys(world.k.reshape(2 * N, HKV, D), mlp, codes, norms=norms)
        results[backend] = plan.decode(world.q, world.k, world.v, codes, mlp, world.seq_len, norms=norms)
    np.testing.assert_allclose(results["cpu"], results["reference"], rtol=0, atol=1e-5)


def test_merge_of_halves():
    world = World(7)
    plan = world.plan()
    whole = plan.attend(world.q, world.k, world.v, world.seq_len)
    half = np.full(2, 150, np.int32)
    parts, lse = np.zeros((2, 2, HQ, D), np.float32), np.zeros((2, 2, HQ), np.float32)
    plan.attend(world.q, world.k, world.v, half, out=parts[0], lse=lse[0])
    rest = [np.ascontiguousarray(x[:, 150:]) for x in (world.k, world.v)]
    short = hattn.Device("cpu").plan(**world.problem(k_cache=rest[0], v_cache=rest[1], max_length=N - 150))
    short.attend(world.q, *rest, world.seq_len - 150, out=parts[1], lse=lse[1])
    np.testing.assert_allclose(plan.merge(parts, lse), whole, rtol=0, atol=1e-5)


REFUSED = [
    ({"q": np.zeros((2, HQ, D), np.float16)}, "q is of float16, not float32"),
    ({"q": np.zeros((2, HQ + 1, D), np.float32)}, "num_q_heads must be 6"),
    ({"q": np.zeros((2, HQ, 2 * D), np.float32)[:, :, ::2]}, "last dimension of q is not contiguous"),
    ({"q": np.zeros((3, HQ, D), np.float32)}, "not the same number for each of 2 sequences"),
    ({"k_cache": np.zeros((1, N, HKV, D), np.float32)}, "pages must be 2 at least"),
    ({"k_cache": np.zeros((2, N - 1, HKV, D), np.float32)}, "slots must be 300 at least"),
    ({"k_cache": np.zeros((2, HKV, N, D), np.float32).transpose(0, 2, 1, 3)}, "k_cache has strides"),
    ({"codes": np.zeros((2, N, HKV), np.int32)}, "codes has 3 dimensions, not"),
    ({"seq_len": np.zeros(2, np.int64)}, "seq_len is of int64"),
    ({"query_map": np.zeros((HKV, D, 32), np.float32)}, r"query_map.weight is \[2, 64, 32\], not \[2, 64, 64\]"),
    ({"query_map": hattn.HashMap([np.zeros((HKV, D, BITS), np.float32)] * 3)}, "3 weights, the problem's maps 1"),
    ({"block_table": np.zeros((2, 1), np.int32)}, "no page_size"),
    ({"out": np.broadcast_to(np.zeros((2, HQ, D), np.float32), (2, HQ, D))}, "read-only"),
    ({"q": [1.0]}, "list is no array"),
    ({"q": np.zeros((2, HQ, D), ">f4")}, "no use for"),
    ({"norms": np.zeros((2, N, HKV), np.float16)}, "norms"),
]


@pytest.mark.parametrize("change,words", REFUSED, ids=[words for _, words in REFUSED])
def test_refusals(change, words):
    world = World()
    plan = world.plan()
    arguments = dict(q=world.q, k_cache=world.k, v_cache=world.v, codes=world.encode(plan), query_map=world.map,
                     seq_len=world.seq_len)
    plan.decode(**arguments)
    with pytest.raises(hattn.InvalidArgument, match=words):
        plan.decode(**arguments | change)


def test_the_librarys_words():
    with pytest.raises(hattn.NoDevice, match="hip"):
        hattn.Device("hip")
    with pytest.raises(hattn.InvalidArgument, match="martian"):
        hattn.Device("martian")
    with pytest.raises(hattn.HattnError, match="head_dim_qk"):
        World().plan(head_dim_qk=33)
    with pytest.raises(hattn.Unsupported):
        World().plan(sliding_window=5)
    with pytest.raises(hattn.InvalidArgument, match="no field colour"):
        hattn.Problem(colour=1)
    with pytest.raises(hattn.InvalidArgument, match="no dtype of hattn"):
        hattn.Problem(q="complex64")
    with pytest.raises(hattn.NoDevice, match="no hattn library"):
        hattn.Library("/nonexistent/libhattn.so.0")


def test_a_plan_outlives_what_made_it():
    world = World(8)
    plan = world.plan()  # the device has no other reference
    gc.collect()
    expected = plan.decode(world.q, world.k, world.v, world.encode(plan), world.map, world.seq_len)
    plans = [world.plan() for _ in range(3)]
    plans[0].destroy(), plans[0].destroy()
    del plans[1]
    gc.collect()
    np.testing.assert_array_equal(
        plans[1].decode(world.q, world.k, world.v, world.encode(plans[1]), world.map, world.seq_len), expected)


def test_threads_share_a_plan():
    world = World(9)
    plan = world.plan()
    codes = world.encode(plan)
    expected = plan.decode(world.q, world.k, world.v, codes, world.map, world.seq_len)
    wrong = []

    def work():
        for _ in range(50):
            if not np.array_equal(plan.decode(world.q, world.k, world.v, codes, world.map, world.seq_len), expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert not wrong


def test_runs_release_the_lock():
    """Another thread goes on while the reference, which is slow, attends."""
    n, ticks, stop = 1 << 16, [], threading.Event()
    k = np.zeros((1, n, 8, 128), np.float32)
    q = np.zeros((1, 32, 128), np.float32)
    plan = hattn.Device("reference").plan(q=q, k_cache=k, v_cache=k, code_bits=32, max_sequences=1, max_length=n, k=1)

    def tick():
        while not stop.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.monotonic()
    plan.attend(q, k, k, np.array([n], np.int32))
    end = time.monotonic()
    stop.set(), thread.join()
    inside = sum(start + 0.02 < t < end - 0.02 for t in ticks)
    assert end - start > 0.1 and inside > 5, (end - start, inside)
