# SPDX-License-Identifier: Apache-2.0
"""The torch operators: against the package's plans, in the layouts of serving engines, under torch's own checks."""

import threading
import time

import hattn
import hattn.torch as ops
import numpy as np
import pytest
import torch
from hattn import torch_plans

N, HQ, HKV, D, BITS, K, PAGE = 320, 6, 2, 64, 64, 40, 16
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")


class World:
    """Caches of two sequences, contiguous, and in random pages as `paged` arranges them."""

    def __init__(self, device="cpu", dtype=torch.float32, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(shape, generator=generator).to(device, dtype)

        self.k, self.v, self.q = normal(2, N, HKV, D), normal(2, N, HKV, D), normal(2, HQ, D)
        self.map, self.seq_len = normal(HKV, D, BITS), torch.tensor([N, N - 77], dtype=torch.int32, device=device)
        self.codes = torch.zeros((2, N, HKV, BITS // 32), dtype=torch.int32, device=device)
        ops.encode_keys(self.k.view(-1, HKV, D), self.map, self.codes)

    def paged(self, kv, k, v):
        """Fills k and v [pages, slots, Hkv, d], views of kv; (k, v, codes, table)."""
        pages = 2 * N // PAGE
        table = torch.randperm(pages, generator=torch.Generator().manual_seed(9)).to(kv.device)
        for cache, values in ((k, self.k), (v, self.v)):
            cache[table] = values.reshape(pages, PAGE, HKV, D)
        slots = (table[:, None] * PAGE + torch.arange(PAGE, device=kv.device)).reshape(-1)
        codes = torch.zeros((pages, PAGE, HKV, BITS // 32), dtype=torch.int32, device=kv.device)
        ops.encode_keys(self.k.view(-1, HKV, D), self.map, codes, slots)
        return k, v, codes, table.to(torch.int32).view(2, -1)

    def decode(self, **more):
        return ops.decode(self.q, self.k, self.v, self.codes, self.map, self.seq_len, K, **more)


def test_decode_is_a_plans():
    world = World()
    q, k, v, weight, seq_len = (x.numpy() for x in (world.q, world.k, world.v, world.map, world.seq_len))
    reference = hattn.Device("reference")
    plan = reference.plan(q=q, k_cache=k, v_cache=v, query_map=weight, max_sequences=2, max_length=N, k=K)
    codes = plan.empty("codes", pages=2, slots=N)
    plan.encode_keys(k.reshape(-1, HKV, D), weight, codes)
    np.testing.assert_array_equal(codes.view(np.int32), world.codes.numpy())
    np.testing.assert_allclose(world.decode(), plan.decode(q, k, v, codes, weight, seq_len), rtol=0, atol=1e-5)


def test_plans_take_torchs_tensors():
    """DLPack, bf16 included, which numpy does not have."""
    world = World(dtype=torch.bfloat16)
    plan = hattn.Device("cpu").plan(q=world.q, k_cache=world.k, v_cache=world.v, codes=world.codes,
                                    query_map=world.map, max_sequences=2, max_length=N, k=K)
    out = torch.empty_like(world.q)
    plan.decode(world.q, world.k, world.v, world.codes, world.map, world.seq_len, out=out)
    assert torch.equal(out, world.decode())
    with pytest.raises(hattn.InvalidArgument, match="numpy has no bfloat16"):
        plan.decode(world.q, world.k, world.v, world.codes, world.map, world.seq_len)


LAYOUTS = {
    "vllm": ((2, -1, PAGE, HKV, D), lambda kv: (kv[0], kv[1])),
    "flashinfer NHD": ((-1, 2, PAGE, HKV, D), lambda kv: (kv[:, 0], kv[:, 1])),
    "flashinfer HND": ((-1, 2, HKV, PAGE, D), lambda kv: (kv[:, 0].transpose(1, 2), kv[:, 1].transpose(1, 2))),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_engines(name, device):
    dtype = torch.float16 if device == "cuda" else torch.float32
    world = World(device, dtype)
    shape, parts = LAYOUTS[name]
    kv = torch.zeros([2 * N // PAGE if size == -1 else size for size in shape], dtype=dtype, device=device)
    k, v, codes, table = world.paged(kv, *parts(kv))
    out = ops.decode(world.q, k, v, codes, world.map, world.seq_len, K, block_table=table)
    assert k.data_ptr() == kv.data_ptr() and torch.equal(out, world.decode())
    dense, lse = ops.attend(world.q, k, v, world.seq_len, block_table=table)
    for mine, plain in zip((dense, lse), ops.attend(world.q, world.k, world.v, world.seq_len), strict=True):
        assert torch.equal(mine, plain)


def test_transformers_layout_and_dense_attention():
    world = World()
    heads_first = [x.transpose(1, 2).contiguous() for x in (world.k, world.v)]
    dense, _ = ops.attend(world.q, *(x.transpose(1, 2) for x in heads_first), world.seq_len)
    mask = torch.arange(N) < world.seq_len[:, None, None, None]
    expected = torch.nn.functional.scaled_dot_product_attention(world.q[:, :, None], *heads_first, attn_mask=mask,
                                                                enable_gqa=True)
    torch.testing.assert_close(dense, expected[:, :, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(world.decode(num_recent=K // 2), world.decode(num_recent=K // 2))
    everything = ops.decode(world.q, world.k, world.v, world.codes, world.map, world.seq_len, N)
    torch.testing.assert_close(everything, dense, rtol=0, atol=1e-5)


def test_rows_of_several_tokens():
    """Three tokens of each sequence, and one and four of them by q_start, are rows of their own lengths."""
    world, q = World(), torch.randn(6, HQ, D)
    alone = {}
    for t in range(4):  # of lengths that end t tokens early
        for b in range(2):
            for row in range(6):
                lengths = world.seq_len[b:b + 1] - t
                caches = (x[b:b + 1] for x in (world.k, world.v, world.codes))
                alone[row, b, t] = ops.decode(q[row:row + 1], *caches, world.map, lengths, K)[0]
    out = ops.decode(q, world.k, world.v, world.codes, world.map, world.seq_len, K)
    for row in range(6):
        assert torch.equal(out[row], alone[row, row // 3, 2 - row % 3]), row
    ragged = ops.decode(q, world.k, world.v, world.codes, world.map, world.seq_len, K,
                        q_start=torch.tensor([0, 1, 5], dtype=torch.int32))
    for row, (b, t) in enumerate([(0, 0), (1, 3), (1, 2), (1, 1), (1, 0)]):
        assert torch.equal(ragged[row], alone[row, b, t]), row
    assert not ragged[5].any()  # padding


def arguments(world):
    """What each operator is checked with."""
    indices = torch.arange(K, dtype=torch.int32).expand(2, HKV, K).contiguous()
    counts = torch.full((2, HKV), K, dtype=torch.int32)
    norms = torch.zeros((2, N, HKV), dtype=torch.float16)
    key = world.k.view(-1, HKV, D)
    return [
        (torch.ops.hattn.encode_keys, (key, [world.map], world.codes.clone(), None, None)),
        (torch.ops.hattn.encode_keys, (key, [world.map], world.codes.clone(), torch.arange(2 * N), norms)),
        (torch.ops.hattn.decode, (world.q, world.k, world.v, world.codes, [world.map], world.seq_len, K)),
        (torch.ops.hattn.attend, (world.q, world.k, world.v, world.seq_len)),
        (torch.ops.hattn.attend, (world.q, world.k, world.v, world.seq_len, None, None, indices, counts)),
    ]


@pytest.mark.parametrize("number", range(5))
def test_opcheck(number):
    op, args = arguments(World())[number]
    torch.library.opcheck(op.default, args)


@pytest.mark.parametrize("device", DEVICES)
def test_compile(device):
    world = World(device, torch.float16 if device == "cuda" else torch.float32)

    def step(q, k, v, codes, weight, seq_len):
        ops.encode_keys(k.view(-1, HKV, D), weight, codes)
        return ops.decode(q * 2, k, v, codes, weight, seq_len, K) + 1

    codes = torch.zeros_like(world.codes)
    compiled = torch.compile(step, fullgraph=True)
    out = compiled(world.q, world.k, world.v, codes, world.map, world.seq_len)
    assert torch.equal(codes, world.codes)
    expected = step(world.q, world.k, world.v, codes, world.map, world.seq_len)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6 if device == "cpu" else 2e-3)


REFUSED = [
    (lambda w: dict(q=w.q.double()), "float64. is no dtype of hattn"),
    (lambda w: dict(q=w.q[:1]), "1 rows are not as many for each of 2 sequences"),
    (lambda w: dict(k_cache=w.k[:1], v_cache=w.v[:1]), "k_cache has 1 sequences"),
    (lambda w: dict(v_cache=w.v[:, :-1]), "v_cache is"),
    (lambda w: dict(codes=w.codes[:, :, :1]), "codes is"),
    (lambda w: dict(codes=w.codes.float()), "codes are of torch.float32"),
    (lambda w: dict(seq_len=w.seq_len.long()), "seq_len is of torch.int64"),
    (lambda w: dict(query_map=w.map[:, :32]), "query_map weight is"),
    (lambda w: dict(query_map=w.map.transpose(1, 2)), "contiguous"),
    (lambda w: dict(q=torch.zeros(2, HQ, 2 * D)[:, :, ::2]), "not contiguous"),
    (lambda w: dict(block_table=torch.zeros((1, 3), dtype=torch.int32)), "block_table is"),
    (lambda w: dict(k=-1), "k"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refusals(number):
    world = World()
    change, words = REFUSED[number]
    arguments = dict(q=world.q, k_cache=world.k, v_cache=world.v, codes=world.codes, query_map=world.map,
                     seq_len=world.seq_len, k=K)
    with pytest.raises(hattn.HattnError, match=words):
        ops.decode(**arguments | change(world))


def test_no_gradients_in_silence():
    world = World()
    world.q.requires_grad_()
    with pytest.raises(RuntimeError):
        world.decode().sum().backward()


def test_what_changes_between_calls():
    """Calls are told apart by the forms of their tensors, also of one tensor that changes."""
    world, other = World(), World(seed=1)
    expected, wide = world.decode(), torch.zeros(2, HQ, 2 * D)
    wide[:, :, :D] = world.q
    strided = wide[:, :, :D]
    assert torch.equal(ops.decode(strided, world.k, world.v, world.codes, world.map, world.seq_len, K), expected)
    one = [x[:1] for x in (world.q, world.k, world.v, world.codes)]
    assert torch.equal(ops.decode(*one, world.map, world.seq_len[:1], K), expected[:1])
    half = world.q.half()
    assert ops.decode(half, world.k, world.v, world.codes, world.map, world.seq_len, K).dtype == torch.float16
    shrinking = world.q.clone()
    assert torch.equal(ops.decode(shrinking, world.k, world.v, world.codes, world.map, world.seq_len, K), expected)
    shrinking.set_(wide.untyped_storage(), 0, (2, HQ, D), wide.stride())
    assert torch.equal(ops.decode(shrinking, world.k, world.v, world.codes, world.map, world.seq_len, K), expected)
    assert torch.equal(world.decode(score="weighted"), world.decode(score="weighted", num_recent=0))
    assert not torch.equal(world.decode(score="weighted"), expected)
    assert torch.equal(ops.decode(world.q, other.k, other.v, other.codes, other.map, world.seq_len, K),
                       ops.decode(world.q.clone(), other.k, other.v, other.codes, other.map, world.seq_len, K))
    with pytest.raises(hattn.InvalidArgument, match="seq_len is of torch.int64"):
        ops.decode(world.q, world.k, world.v, world.codes, world.map, world.seq_len.long(), K)
    assert torch.equal(world.decode(), expected)


def test_calls_are_found_with_and_without_torchs_guard(monkeypatch):
    world = World()
    tensors = [world.q, world.k]
    for guard in (torch_plans._guard(tensors), torch_plans._plain_guard(tensors)):
        assert guard(*tensors) and guard(world.q.clone(), world.k.clone())
        for changed in (world.q.half(), world.q[:1], world.q.transpose(0, 1).contiguous().transpose(0, 1),
                        world.q.clone().requires_grad_(), torch.nn.Parameter(world.q, requires_grad=False),
                        world.q.to("meta")):
            assert not guard(changed, world.k), changed
    assert torch_plans._guard(tensors).__name__ == "check", "torch's guard is no longer where it was"


def test_modes_of_the_dispatcher_see_calls():
    """Also such calls as were made before."""
    world, seen = World(), []
    world.decode()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Watch():
        world.decode()
    assert "hattn.decode.default" in seen


def test_threads():
    world = World()
    expected, wrong = world.decode(), []

    def work():
        wrong.extend(1 for _ in range(50) if not torch.equal(world.decode(), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert not wrong


@cuda
def test_graphs():
    world = World("cuda", torch.float16, seed=1)
    graph, expected = torch.cuda.CUDAGraph(), world.decode()
    with torch.cuda.graph(graph):
        out = world.decode()
    world.q.copy_(torch.randn_like(world.q))
    world.seq_len.fill_(200)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, world.decode()) and not torch.equal(out, expected)


@cuda
def test_a_graph_without_a_call_before_it_says_so():
    world = World("cuda", torch.float16)
    with pytest.raises(RuntimeError, match="once before"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        ops.decode(world.q, world.k, world.v, world.codes, world.map, world.seq_len, 300, weight_bits=8,
                   score="weighted")


@pytest.mark.parametrize("device", DEVICES)
def test_host_time_of_a_call(device):
    """Prints it, with a run of a tiny problem or the launches of one: some 6 us where nothing else runs. Looking at
    each tensor in Python took twice as long."""
    shapes, dtype = [(1, 2, 32), (1, 64, 1, 32), (1, 64, 1, 32), (1, 32, 32)], torch.float16
    q, k, v, weight = (torch.randn(shape, device=device, dtype=dtype) for shape in shapes)
    codes = torch.zeros((1, 64, 1, 1), dtype=torch.int32, device=device)
    seq_len, times = torch.tensor([64], dtype=torch.int32, device=device), []
    for i in range(400):
        if device == "cuda" and i % 50 == 0:
            torch.cuda.synchronize()
        start = time.perf_counter()
        ops.decode(q, k, v, codes, weight, seq_len, 8)
        times.append(time.perf_counter() - start)
    print("a call of the torch op on %s: %.1f us of host time" % (device, sorted(times)[len(times) // 2] * 1e6))
    assert min(times) < 20e-6
