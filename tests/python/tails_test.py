# SPDX-License-Identifier: Apache-2.0
"""Tails and scores per query head, as operators and in models: against plans of the reference, under torch's own
checks."""

import hattn
import hattn.torch as ops
import numpy as np
import pytest
import torch
from hattn.maps import traces
from torch_test import DEVICES, HKV, HQ, D, N, World
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers_test import WAYS as WAYS_OF_MODELS
from transformers_test import cache_of, maps_of, model_of, prompt, steps

K, CANDIDATES = 40, 100
FLOOR, TAIL, HEADS = dict(min_probability=0.01, min_k=3), dict(tail=0.5), dict(num_candidates=CANDIDATES)
SKIP = dict(min_value_weight=0.02)
WAYS = {
    "tail, hamming": ("hamming", TAIL),
    "tail": ("weighted", TAIL),
    "floor, tail": ("weighted", FLOOR | TAIL),
    "tail, values skipped": ("weighted", TAIL | SKIP),
    "candidates": ("weighted", HEADS),
    "candidates, floor": ("weighted", HEADS | FLOOR),
    "candidates, tail": ("weighted", HEADS | TAIL),
    "candidates, floor, tail": ("weighted", HEADS | FLOOR | TAIL),
    "candidates, floor, tail, values skipped": ("weighted", HEADS | FLOOR | TAIL | SKIP),
}


def slopes_for(score, features, device="cpu"):
    """Those that a step with these features reads."""
    by = {}
    if "tail" in features or "min_probability" in features and "num_candidates" not in features:
        by["slopes"] = torch.tensor([0.1, 0.15] if score == "hamming" else [0.02, 0.03], device=device)
    if "num_candidates" in features:
        by["head_slopes"] = torch.linspace(0.02, 0.05, HQ, device=device)
    return by


def states(count, device="cpu"):
    return dict(value_sums=torch.zeros((count, HKV, D), dtype=torch.int64, device=device),
                value_lengths=torch.zeros((count, HKV), dtype=torch.int32, device=device))


def by_reference(world, score, features):
    """(out, counts) of a plan of the reference."""
    q, k, v, weight, seq_len, codes = (x.cpu().numpy() for x in (world.q, world.k, world.v, world.map, world.seq_len,
                                                                 world.codes))
    plan = hattn.Device("reference").plan(q=q, k_cache=k, v_cache=v, query_map=weight, max_sequences=2, max_length=N,
                                          k=K, score_kind=ops.SCORES[score], codes=codes, **features)
    more = {name: x.numpy() for name, x in slopes_for(score, features).items()}
    if "tail" in features:
        more.update({name: x.numpy() for name, x in states(2).items()})
    counts = np.zeros((2, HKV), np.int32)
    out = plan.decode(q, k, v, codes, weight, seq_len, counts=counts, **more)
    return torch.from_numpy(out), torch.from_numpy(counts)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("way", WAYS)
def test_decode_is_a_plans(way, device):
    """Also when it is called again, with values that are summed before or live, compiled, and in pages."""
    score, features = WAYS[way]
    world = World(device, torch.float16 if device == "cuda" else torch.float32)
    expected, kept = by_reference(world, score, features)
    near = dict(rtol=0, atol=1e-5 if device == "cpu" else 2e-3)
    more = dict(features, **slopes_for(score, features, device))
    summed = {}
    if "tail" in features:
        slots = torch.tensor([2, 0], dtype=torch.int32, device=device)
        summed = dict(states(3, device), value_slots=slots)
        ops.sum_values(world.v, world.seq_len, **summed)
        more |= states(2, device)

    def step(q, **changed):
        return ops.decode_counted(q, world.k, world.v, world.codes, world.map, world.seq_len, K, score=score,
                                  **more | changed)

    fixed = ops.decode(world.q, world.k, world.v, world.codes, world.map, world.seq_len, K, score=score)
    for changed in ({}, summed, summed):
        out, counts = step(world.q, **changed)
        torch.testing.assert_close(out.cpu(), expected, **near)
        assert torch.equal(counts.cpu(), kept)
        plain = ops.decode(world.q, world.k, world.v, world.codes, world.map, world.seq_len, K, score=score,
                           **more | changed)
        assert torch.equal(plain, out) and float((out - fixed).abs().max()) > 1e-3, "the features do nothing"
    if "min_probability" in features:
        assert kept.min() < K
    torch.compiler.reset()  # its guards do not see that a dictionary of a closure has more keys
    compiled = torch.compile(lambda q: step(q * 2 - q, **summed), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(world.q)[0].cpu(), expected, **near)
    kv = torch.zeros((2, 2 * N // 16, 16, HKV, D), dtype=world.k.dtype, device=device)
    k, v, codes, table = world.paged(kv, kv[0], kv[1])
    paged = ops.decode(world.q, k, v, codes, world.map, world.seq_len, K, score=score, block_table=table,
                       **more | summed)
    torch.testing.assert_close(paged.cpu(), expected, **near)


@pytest.mark.parametrize("device", DEVICES)
def test_sums_of_values(device):
    """They are integers that numpy has too: of one token, several, as many as it is told, in pages, in two calls."""
    world = World(device, torch.float16 if device == "cuda" else torch.float32)
    values = np.rint(world.v.cpu().double().numpy() * 2**24)
    lengths = world.seq_len.tolist()

    def check(found, tokens, order=(0, 1)):
        for b, n in enumerate(lengths):
            assert found["value_lengths"][order[b]].tolist() == [n - tokens[b]] * HKV
            np.testing.assert_array_equal(found["value_sums"][order[b]].cpu(), values[b, :n - tokens[b]].sum(0))

    for again in range(2):
        found = states(2, device)
        ops.sum_values(world.v, world.seq_len - 50 * again, **found)
        ops.sum_values(world.v, world.seq_len, **found)
        check(found, (1, 1))
    ops.sum_values(world.v, world.seq_len, **found)
    check(found, (1, 1))
    several = states(2, device)
    ops.sum_values(world.v, world.seq_len, rows=6, **several)
    check(several, (3, 3))
    ragged = states(2, device)
    ops.sum_values(world.v, world.seq_len, rows=3, q_start=torch.tensor([0, 1, 3], dtype=torch.int32, device=device),
                   **ragged)
    check(ragged, (1, 2))
    kv = torch.zeros((2, 2 * N // 16, 16, HKV, D), dtype=world.v.dtype, device=device)
    _, v, _, table = world.paged(kv, kv[0], kv[1])
    paged, slots = states(4, device), torch.tensor([3, 1], dtype=torch.int32, device=device)
    compiled = torch.compile(lambda v: ops.sum_values(v, world.seq_len, block_table=table, value_slots=slots, **paged),
                             fullgraph=True, backend="aot_eager")
    compiled(v)
    check(paged, (1, 1), (3, 1))
    assert not paged["value_sums"][[0, 2]].any() and not paged["value_lengths"][[0, 2]].any()


def test_several_tokens_and_what_is_dropped():
    """A step of three tokens is that of sums up to them; sums that are past the length are not read once their lengths
    are 0."""
    world, q = World(), torch.randn(6, HQ, D)
    more = dict(TAIL, score="weighted", slopes=slopes_for("weighted", TAIL)["slopes"])
    fresh, kept = states(2), states(2)
    expected = ops.decode(q, world.k, world.v, world.codes, world.map, world.seq_len - 5, K, **more, **fresh)
    ops.sum_values(world.v, world.seq_len - 5, rows=6, **kept)
    args = (q, world.k, world.v, world.codes, world.map, world.seq_len - 5, K)
    torch.testing.assert_close(ops.decode(*args, **more, **kept), expected, rtol=0, atol=1e-6)
    ops.sum_values(world.v, world.seq_len, **kept)
    world.v[:, 100:] += 1  # other tokens than those that were counted
    kept["value_lengths"].zero_()
    expected = ops.decode(*args, **more, **fresh)
    torch.testing.assert_close(ops.decode(*args, **more, **kept), expected, rtol=0, atol=1e-6)
    ops.sum_values(world.v, world.seq_len - 5, rows=6, **kept)
    torch.testing.assert_close(ops.decode(*args, **more, **kept), expected, rtol=0, atol=1e-6)


def test_eight_bit_values():
    world = World()
    v, found = world.v.to(torch.float8_e4m3fn), states(2)
    ops.sum_values(v, world.seq_len, **found)
    for b, n in enumerate(world.seq_len):
        expected = (v[b, :n - 1].double() * 2**24).sum(0)
        assert torch.equal(found["value_sums"][b].double(), expected)


@pytest.mark.parametrize("op", ["decode", "decode_counted"])
@pytest.mark.parametrize("way", ["tail", "candidates, floor, tail"])
def test_opcheck(way, op):
    world, (score, features) = World(), WAYS[way]
    args = [world.q, world.k, world.v, world.codes, [world.map], world.seq_len, K]
    more = dict(features, score_kind=ops.SCORES[score], **slopes_for(score, features), **states(2))
    torch.library.opcheck(getattr(torch.ops.hattn, op).default, args, more)


@pytest.mark.parametrize("slots", [None, torch.tensor([1, 0], dtype=torch.int32)])
def test_opcheck_of_sums(slots):
    world = World()
    torch.library.opcheck(torch.ops.hattn.sum_values.default, (world.v, world.seq_len, *states(2).values(), slots))


SLOPES, STATES, HEAD_SLOPES = dict(slopes=torch.ones(HKV)), states(2), dict(head_slopes=torch.ones(HQ))
REFUSED = [
    (SLOPES | STATES, "tail is 0, num_candidates is 0, slopes are given"),
    (STATES, "tail is 0, num_candidates is 0, value_sums are given"),
    (TAIL | STATES, "tail is 0.5, num_candidates is 0, slopes are missing"),
    (TAIL | SLOPES, "value_sums are missing: a tail needs them"),
    (TAIL | SLOPES | dict(value_sums=STATES["value_sums"]), "value_lengths are missing"),
    (dict(value_slots=torch.zeros(2, dtype=torch.int32)), "value_slots are given, tail is 0"),
    (TAIL | SLOPES | states(1), "value_sums have 1 states, the batch has 2 sequences"),
    (TAIL | SLOPES | STATES | dict(value_sums=torch.zeros(2, HKV, D)), "value_sums is of torch.float32"),
    (TAIL | SLOPES | STATES | dict(value_lengths=torch.zeros((2, HQ), dtype=torch.int32)), "value_lengths is"),
    (TAIL | SLOPES | STATES | dict(value_slots=torch.zeros(2, dtype=torch.int64)), "value_slots is of torch.int64"),
    (SLOPES | STATES | dict(tail=1.5), "tail"),
    (SKIP, "min_value_weight is 0.02: without a tail"),
    (HEADS, "num_candidates is 100, head_slopes are missing: candidates need them"),
    (HEAD_SLOPES, "num_candidates is 0, head_slopes are given"),
    (HEADS | HEAD_SLOPES | SLOPES, "slopes are given: a tail needs them, and a floor without candidates"),
    (HEADS | dict(head_slopes=torch.ones(HKV)), "head_slopes is .2., not .6."),
    (HEAD_SLOPES | dict(num_candidates=K - 1), "num_candidates is 39"),
    (HEADS | HEAD_SLOPES | dict(score="hamming"), "num_candidates"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refusals(number):
    """Also where the same call with all that it needs has been made before."""
    change, words = REFUSED[number]
    world = World()
    for more in (TAIL | SLOPES | STATES, HEADS | HEAD_SLOPES):
        world.decode(score="weighted", **more)
    with pytest.raises(hattn.HattnError, match=words):
        world.decode(**dict(score="weighted") | change)


def test_refusals_of_sums():
    world, more = World(), states(2)
    ops.sum_values(world.v, world.seq_len, **more)
    for change, words in [(dict(v_cache=world.v[0]), "v_cache is"),
                          (dict(v_cache=world.v.int()), "int32. is no dtype of hattn|must be"),
                          (dict(seq_len=world.seq_len.long()), "seq_len is of torch.int64"),
                          (states(1), "value_sums have 1 states"),
                          (dict(rows=5), "5 rows are not as many for each of 2 sequences")]:
        with pytest.raises(hattn.HattnError, match=words):
            ops.sum_values(**dict(v_cache=world.v, seq_len=world.seq_len, **more) | change)


# -- in models ---------------------------------------------------------------------------------------------------------


def sloped(kind, heads=2):
    maps = maps_of(kind, heads=heads)
    for by in maps.values():
        by.slopes = {"weighted": torch.linspace(0.04, 0.08, heads), kind: torch.linspace(0.05, 0.1, heads)}
        if heads == 2:
            by.slopes[traces.OF_HEADS] = torch.linspace(0.1, 0.2, 4)
    return maps


def by_plans(maps, budget, features):
    """An attention whose steps are each sequence's visible keys through a plan of the reference, from nothing."""
    device = hattn.Device("reference")

    def attend(module, query, key, value, mask, scaling=None, **more):
        by = maps.get(module.layer_idx)
        if query.shape[2] != 1 or by is None or key.shape[2] <= budget:
            return sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **more)
        rows, heads = [], query.shape[1] if by.per_query_head(key.shape[1]) else 0
        score = "weighted" if "num_candidates" in features else by.score
        for b in range(query.shape[0]):
            first = 0 if mask is None else int(key.shape[2] - mask[b].sum())
            q = query[b, :, 0][None].numpy()
            k, v = (x[b, :, first:].transpose(0, 1).contiguous()[None].numpy() for x in (key, value))
            weight = hattn.HashMap(by.query[0].numpy())
            plan = device.plan(q=q, k_cache=k, v_cache=v, query_map=weight, max_sequences=1, max_length=k.shape[1],
                               k=budget, score_kind=ops.SCORES[score], num_selection_heads=heads,
                               num_code_heads=len(by.key[0]), **features)
            codes = plan.empty("codes", pages=1, slots=k.shape[1])
            keys = hattn.HashMap(by.key[0].numpy(), by.key[1].numpy())
            plan.encode_keys(k[0], keys, codes)
            given = {}
            if "tail" in features:
                given = {name: plan.empty(name, states=1) for name in ("value_sums", "value_lengths")}
            if "tail" in features or "num_candidates" not in features:
                given["slopes"] = by.slopes[score].numpy()
            if "num_candidates" in features:
                given["head_slopes"] = by.slopes[traces.OF_HEADS].numpy()
            length = np.array([k.shape[1]], np.int32)
            rows.append(torch.from_numpy(plan.decode(q, k, v, codes, weight, length, **given)))
        return torch.stack(rows), None

    AttentionInterface.register("by_plans", attend)
    AttentionMaskInterface.register("by_plans", sdpa_mask)


MODEL_FEATURES = {
    "tail": ("hamming", 4, TAIL),
    "floor, tail": ("weighted", 2, dict(min_probability=0.04, min_k=3) | TAIL),
    "candidates": ("weighted", 2, dict(num_candidates=24)),
    "candidates of hamming maps, tail": ("hamming", 2, dict(num_candidates=24) | TAIL),
    "candidates, floor, tail": ("weighted", 2, dict(num_candidates=24, min_probability=0.04, min_k=3) | TAIL),
    "tail, values skipped": ("weighted", 2, TAIL | dict(min_value_weight=0.1)),
}


@pytest.mark.parametrize("way", ["one", "batch", "padded"])
@pytest.mark.parametrize("features", MODEL_FEATURES)
def test_models_are_the_plans(features, way):
    kind, heads, more = MODEL_FEATURES[features]
    arguments, maps = WAYS_OF_MODELS[way]("cpu"), sloped(kind, heads)
    ids, mask = arguments["input_ids"], arguments.get("attention_mask")
    by_plans(maps, 8, more)
    expected = steps(model_of(attention="by_plans"), ids, DynamicCache(), 30, mask)
    model = model_of()
    found = steps(model, ids, cache_of(model, 8, maps=maps, **more), 30, mask)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    fixed = steps(model, ids, cache_of(model, 8, maps=maps), 30, mask)
    assert float((expected - fixed).abs().max()) > 1e-2


@pytest.mark.parametrize("way", ["beams", "padded beams"])
def test_beams_with_tails_are_the_plans(way):
    kind, heads, more = MODEL_FEATURES["candidates, floor, tail"]
    arguments = WAYS_OF_MODELS[way]("cpu") | dict(max_new_tokens=12, do_sample=False, min_new_tokens=12)
    maps = sloped(kind, heads)
    by_plans(maps, 8, more)
    expected = model_of(attention="by_plans").generate(**arguments)
    model = model_of()
    found = model.generate(**arguments, past_key_values=cache_of(model, 8, maps=maps, **more))
    torch.testing.assert_close(found, expected)


def test_sums_of_what_is_dropped_or_hidden_are_forgotten():
    """After tokens were cropped and others came, after a reset, and after a mask that hides what was counted."""
    model, ids, other = model_of(), prompt(2, 60), prompt(2, 60, seed=4)

    def fresh():
        return cache_of(model, 8, maps=sloped("weighted"), **TAIL)

    cache = fresh()
    steps(model, ids, cache, 30)
    cache.crop(-20)
    mixed = torch.cat([ids[:, :40], other[:, 40:]], 1)
    exactly = dict(rtol=0, atol=0)
    with torch.no_grad():
        found = torch.stack([model(mixed[:, i:i + 1], past_key_values=cache).logits[:, -1] for i in range(40, 60)], 1)
    torch.testing.assert_close(found, steps(model, mixed, fresh(), 30)[:, 10:], **exactly)
    cache.crop(-20)
    long = torch.cat([ids[:, :40], prompt(2, 50, seed=5)], 1)
    with torch.no_grad():  # others that no step has counted, past what was counted
        model(long[:, 40:80], past_key_values=cache)
    late = fresh()
    steps(model, long[:, :40], late, 30)
    with torch.no_grad():
        model(long[:, 40:80], past_key_values=late)
        found = [[model(long[:, i:i + 1], past_key_values=one).logits for i in range(80, 90)] for one in (cache, late)]
    torch.testing.assert_close(*found, **exactly)
    cache.crop(-1)  # what was counted ends there: nothing is lost
    assert cache.layers[1].value_lengths.eq(89).all()
    cache.reset()
    torch.testing.assert_close(steps(model, other, cache, 30), steps(model, other, fresh(), 30), **exactly)

    def hiding(cache):
        mask = torch.ones((2, 61), dtype=torch.long)
        mask[1, 0] = 0
        with torch.no_grad():
            return model(ids[:, :1], past_key_values=cache, attention_mask=mask).logits

    late = fresh()
    late.select(8)
    steps(model, ids, late, 30)
    cache = fresh()
    cache.select(8)
    steps(model, ids, cache, 30)
    cache.select(8, **TAIL)
    for layer in cache.layers[1:]:  # as if steps with a tail had been made before
        layer.sum_values(layer.value_buffer, cache.lengths(2, layer.length, torch.device("cpu")), None)
    late.select(8, **TAIL)
    torch.testing.assert_close(hiding(cache), hiding(late), **exactly)
    assert cache.layers[1].value_lengths.tolist() == [[60, 60], [59, 59]]


def test_sums_go_with_their_sequences():
    model, ids = model_of(), prompt(2, 60)
    cache = cache_of(model, 8, maps=sloped("weighted"), **TAIL)
    steps(model, ids, cache, 50)
    layer = cache.layers[2]
    before = layer.value_sums.clone()
    cache.batch_select_indices(torch.tensor([1, 0]))
    assert torch.equal(layer.value_sums, before.flip(0)) and before.any()
    cache.batch_repeat_interleave(2)
    assert torch.equal(layer.value_sums, before.flip(0).repeat_interleave(2, 0))
    assert layer.value_lengths.shape == (4, 2) and layer.value_lengths.eq(59).all() and layer.hidden.shape == (4,)


def test_refusals_of_caches():
    model = model_of()
    for maps, more, words in [
            (maps_of(), TAIL, "weighted64 has no slopes of weighted scores, which floors of probability and tails"),
            (maps_of(), dict(num_candidates=1000), "weighted64 has no slopes of query heads, which candidates need"),
            (sloped("weighted", 4), dict(num_candidates=1000), "to maps per KV head"),
            (sloped("weighted"), dict(num_candidates=999), "999 candidates are fewer than the 1000 keys"),
            (sloped("weighted"), SKIP, "min_value_weight is 0.02: without a tail")]:
        with pytest.raises(ValueError, match=words):
            cache_of(model, maps=maps, **more)
    cache_of(model, maps=maps_of(), first_layer=3, num_candidates=1000, **TAIL)  # all layers are dense
