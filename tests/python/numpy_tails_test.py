# SPDX-License-Identifier: Apache-2.0
"""Floors of probability, tails and scores per query head over numpy arrays, against the formulas of api/hattn.h."""

import hattn
import numpy as np
import pytest
from hattn import abi
from numpy_test import GROUP, HKV, HQ, D, K, World


def test_a_floor_keeps_fewer():
    """By the rule of api/hattn.h: in floating point, which no score here is too near to tell from."""
    world, kept = World(2), {}
    for floor in (0.0, 0.01):
        plan = world.plan(score_kind=abi.SCORE_WEIGHTED, min_probability=floor, min_k=3 if floor else 0)
        codes, slopes = world.encode(plan), np.array([0.01, 0.015], np.float32)
        steps = plan.empty("steps", rows=2)
        floors = dict(slopes=slopes, steps=steps) if floor else {}
        weights = plan.encode_queries(world.q, world.map, **floors)
        scores = plan.score(weights, codes, world.seq_len)
        indices, counts = plan.topk(scores, world.seq_len, **({"steps": steps} if floor else {}))
        looked = {name: plan.empty(name, rows=2) for name in ("indices", "counts", *(["steps"] if floor else []))}
        plan.decode(world.q, world.k, world.v, codes, world.map, world.seq_len, **looked,
                    **({"slopes": slopes} if floor else {}))
        np.testing.assert_array_equal(looked["indices"], indices)
        kept[floor] = indices
    np.testing.assert_array_equal(looked["steps"], steps)
    unit = np.abs(np.einsum("bgid,gdr->bgr", world.q.reshape(2, HKV, GROUP, D), world.map)).max(-1) / 7
    np.testing.assert_allclose(steps, 2048 / np.log(2) * slopes * unit, rtol=1e-4, atol=0.51)
    for b, n in enumerate(world.seq_len):
        for g in range(HKV):
            score, budget = scores[b, g, :n].astype(np.float64), kept[0.0][b, g]
            share = np.exp2((score - score.max()) * steps[b, g] / 1024)
            low = score <= score[budget].min()
            total = share[~low].sum() + 61 * share[low & (np.arange(n) % 61 == 0)].sum()
            expected = budget[share[budget] >= 0.01 * total]
            assert 3 < len(expected) < K
            np.testing.assert_array_equal(kept[0.01][b, g][:len(expected)], expected)
            assert counts[b, g] == len(expected) and (kept[0.01][b, g][len(expected):] == -1).all()


def with_tail(world, b, g, steps, k=K):
    """(indices, out) of a row and KV head by the formulas of a tail of 0.5 in api/hattn.h, in float64."""
    n = int(world.seq_len[b])
    keys, values, q = (x.astype(np.float64) for x in (world.k[b, :n, g], world.v[b, :n, g],
                                                      world.q[b, g * GROUP:(g + 1) * GROUP]))
    u = (q @ world.map[g].astype(np.float64)).sum(0)
    weight = np.rint(u * 7 / np.abs(u).max())
    score = ((keys @ world.map[g] > 0) @ weight + np.abs(weight[weight < 0]).sum()).astype(np.int64)
    e = (score.max() - score) * int(steps[b, g])
    share = np.floor(2.0**(30 - (e >> 4 & 63) / 64)).astype(np.int64) >> np.minimum(e >> 10, 31)
    kept = np.sort(np.argsort(-score, kind="stable")[:k])
    low = score <= score[kept].min()
    rest = max(0, share[~low].sum() + 61 * share[low & (np.arange(n) % 61 == 0)].sum() - share[kept].sum())
    own = share[kept]
    near = (own > 0) & (own < 4 * own[own > 0].min())
    near = near if near.sum() >= 8 else own > 0
    power = np.exp(q @ keys[kept].T * D**-0.5)
    tail = np.minimum(0.5 * power[:, near].sum(1) * rest / own[near].sum(), power[:, own > 0].sum(1) * rest / own.sum())
    assert tail.min() > 0.01 * power.sum()
    out = (power @ values[kept] + np.outer(tail, values.mean(0))) / (power.sum(1) + tail)[:, None]
    return kept, out, np.log(power.sum(1) + tail)


def test_a_tail_is_the_formula():
    """By decode, and by the calls apart, whose sums of values are made in two calls and in slots in another order."""
    world = World(2)
    slopes = np.array([0.01, 0.015], np.float32)
    for backend in ("cpu", "reference"):
        plan = world.plan(backend, score_kind=abi.SCORE_WEIGHTED, tail=0.5)
        codes, steps, lse = world.encode(plan), plan.empty("steps", rows=2), plan.empty("lse", rows=2)
        shares, rests = plan.empty("shares", rows=2), plan.empty("rests", rows=2)
        sums, lengths = plan.empty("value_sums", states=3), plan.empty("value_lengths", states=3)
        slots = np.array([2, 0], np.int32)
        weights = plan.encode_queries(world.q, world.map, slopes=slopes, steps=steps)
        indices, counts = plan.topk(plan.score(weights, codes, world.seq_len), world.seq_len, steps=steps,
                                    shares=shares, rests=rests)
        plan.sum_values(world.v, world.seq_len - 100, sums, lengths, value_slots=slots)
        plan.sum_values(world.v, world.seq_len, sums, lengths, value_slots=slots)
        out = plan.attend(world.q, world.k, world.v, world.seq_len, indices=indices, counts=counts, shares=shares,
                          rests=rests, value_sums=sums, value_lengths=lengths, value_slots=slots, lse=lse)
        for b, n in enumerate(world.seq_len):
            np.testing.assert_array_equal(lengths[slots[b]], n - 1)
            np.testing.assert_array_equal(sums[slots[b]], np.rint(world.v[b, :n - 1].astype(np.float64) * 2**24).sum(0))
            for g in range(HKV):
                kept, expected, expected_lse = with_tail(world, b, g, steps)
                np.testing.assert_array_equal(indices[b, g], kept)
                np.testing.assert_allclose(out[b, g * GROUP:(g + 1) * GROUP], expected, rtol=0, atol=1e-5)
                np.testing.assert_allclose(lse[b, g * GROUP:(g + 1) * GROUP], expected_lse, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(lengths[1], 0)
        # A decode that appends brings the sums up to date itself.
        states = dict(value_sums=np.zeros_like(sums[:2]), value_lengths=np.zeros_like(lengths[:2]))
        for more in (dict(key_map=world.map), {}):
            decoded = plan.decode(world.q, world.k, world.v, codes, world.map, world.seq_len, slopes=slopes, **more,
                                  **states)
            np.testing.assert_allclose(decoded, out, rtol=0, atol=1e-6)
            np.testing.assert_array_equal(states["value_sums"], sums[slots])


def test_sums_of_values_of_several_tokens():
    world = World(4)
    plan = world.plan(tail=1.0, max_q_len=3)
    sums, lengths = plan.empty("value_sums", states=2), plan.empty("value_lengths", states=2)
    plan.sum_values(world.v, world.seq_len, sums, lengths, rows=6)
    np.testing.assert_array_equal(lengths, np.repeat(world.seq_len - 3, HKV).reshape(2, HKV))
    plan.sum_values(world.v, world.seq_len, sums, lengths, rows=3, q_start=np.array([0, 1, 3], np.int32))
    np.testing.assert_array_equal(lengths[:, 0], world.seq_len - [1, 2])
    for b, n in enumerate(lengths[:, 0]):
        np.testing.assert_array_equal(sums[b], np.rint(world.v[b, :n].astype(np.float64) * 2**24).sum(0))


def by_heads(world, b, g, scores, u, steps, candidates, floor=0.02, k=K):
    """(indices, shares [GROUP, kept]) of a row and KV head by the formulas of scores per query head, in integers.
    u [GROUP, BITS]: what the weights of the heads are rounded from."""
    n = int(world.seq_len[b])
    bits = world.k[b, :n, g] @ world.map[g] > 0
    first = np.sort(np.argsort(-scores.astype(np.int64), kind="stable")[:candidates])
    p, shares = np.zeros(len(first), np.int64), []
    for h in range(GROUP):
        weight = np.rint(u[h] * 7 / np.abs(u[h]).max()).astype(np.int64)
        score = bits[first] @ weight
        e = (score.max() - score) * int(steps[b, g * GROUP + h])
        share = np.floor(2.0**(30 - (e >> 4 & 63) / 64)).astype(np.int64) >> np.minimum(e >> 10, 31)
        p += np.array([int(t) * (2**62 // int(share.sum())) >> 38 for t in share])
        shares.append(share)
    order = np.argsort(-p, kind="stable")[:k]
    above = max(1, int((p[order] * 256 >= GROUP * round(floor * 2**32)).sum())) if floor else k
    kept = np.sort(order[:above])
    return first[kept], np.array(shares)[:, kept]


@pytest.mark.parametrize("floor", [0, 0.02])
def test_scores_per_query_head_are_the_formula(floor):
    """By decode, and by the calls apart; other keys than by the summed scores, and with a tail shares of each head."""
    world = World(5)
    slopes, head_slopes = np.array([0.01, 0.015], np.float32), np.linspace(0.01, 0.03, HQ, dtype=np.float32)
    u = np.einsum("bgid,gdr->bgir", world.q.reshape(2, HKV, GROUP, D), world.map).astype(np.float64)
    for backend in ("cpu", "reference"):
        plan = world.plan(backend, score_kind=abi.SCORE_WEIGHTED, tail=0.5, num_candidates=2 * K,
                          min_probability=floor, min_k=1 if floor else 0)
        codes = world.encode(plan)
        made = {name: plan.empty(name, rows=2) for name in ("steps", "head_weights", "head_steps")}
        weights = plan.encode_queries(world.q, world.map, slopes=slopes, head_slopes=head_slopes, **made)
        unit = np.abs(u).max(-1).reshape(2, HQ) / 7
        np.testing.assert_allclose(made["head_steps"], 2048 / np.log(2) * head_slopes * unit, rtol=1e-4, atol=0.51)
        scores = plan.score(weights, codes, world.seq_len)
        told = {name: plan.empty(name, rows=2) for name in ("shares", "rests")}
        assert told["shares"].shape == (2, HQ, K) and told["rests"].shape == (2, HQ)
        indices, counts = plan.topk(scores, world.seq_len, codes=codes, **made, **told)
        for b, n in enumerate(world.seq_len):
            for g in range(HKV):
                kept, shares = by_heads(world, b, g, scores[b, g, :n], u[b, g], made["head_steps"], 2 * K, floor)
                assert counts[b, g] == len(kept) == K if not floor else 1 < counts[b, g] < K
                np.testing.assert_array_equal(indices[b, g][:len(kept)], kept)
                np.testing.assert_array_equal(told["shares"][b, g * GROUP:(g + 1) * GROUP, :len(kept)] & 0x7fffffff,
                                              shares)
                summed = np.sort(np.argsort(-scores[b, g, :n].astype(np.int64), kind="stable")[:len(kept)])
                assert not np.array_equal(kept, summed)
        states = {name: plan.empty(name, states=2) for name in ("value_sums", "value_lengths")}
        plan.sum_values(world.v, world.seq_len, **states)
        out = plan.attend(world.q, world.k, world.v, world.seq_len, indices=indices, counts=counts, **told, **states)
        looked = {name: plan.empty(name, rows=2) for name in ("indices", "head_weights", "head_steps")}
        decoded = plan.decode(world.q, world.k, world.v, codes, world.map, world.seq_len, slopes=slopes,
                              head_slopes=head_slopes, **states, **looked)
        np.testing.assert_allclose(decoded, out, rtol=0, atol=1e-6)
        for name, array in (("indices", indices), ("head_weights", made["head_weights"])):
            np.testing.assert_array_equal(looked[name], array)


def test_refusals_of_candidates():
    world = World()
    weighted = dict(score_kind=abi.SCORE_WEIGHTED, num_candidates=2 * K)
    plan, plain = world.plan(**weighted), world.plan(score_kind=abi.SCORE_WEIGHTED)
    codes, head_slopes = world.encode(plan), np.ones(HQ, np.float32)
    decode = (world.q, world.k, world.v, codes, world.map, world.seq_len)
    plan.decode(*decode, head_slopes=head_slopes)
    for change, words in [({}, "head_slopes is null"),
                          ({"head_slopes": head_slopes[:2]}, "num_q_heads must be 6"),
                          ({"head_slopes": head_slopes, "slopes": np.ones(HKV, np.float32)}, "slopes is set"),
                          ({"head_slopes": head_slopes, "head_steps": np.zeros((2, HKV), np.int32)}, "must be 6")]:
        with pytest.raises(hattn.InvalidArgument, match=words):
            plan.decode(*decode, **change)
    with pytest.raises(hattn.InvalidArgument, match="the problem has no num_candidates"):
        plain.decode(*decode, head_slopes=head_slopes)
    scores, head_steps = plan.empty("scores", rows=2), plan.empty("head_steps", rows=2)
    with pytest.raises(hattn.InvalidArgument, match="head_weights is null"):
        plan.topk(scores, world.seq_len, codes=codes, head_steps=head_steps)
    with pytest.raises(hattn.InvalidArgument, match="block_table is missing"):
        world.plan(page_size=16, k_cache="float32", v_cache="float32", num_kv_heads=HKV, head_dim_qk=D,
                   **weighted).topk(scores, world.seq_len)
    with pytest.raises(hattn.InvalidArgument, match="num_candidates is 39"):
        world.plan(score_kind=abi.SCORE_WEIGHTED, num_candidates=K - 1)
    with pytest.raises(hattn.Unsupported, match="num_candidates"):
        world.plan(num_candidates=K)


def test_refusals_of_tails():
    world = World()
    plan, plain = world.plan(tail=0.5), world.plan()
    sums, lengths = plan.empty("value_sums", states=2), plan.empty("value_lengths", states=2)
    good = dict(v_cache=world.v, seq_len=world.seq_len, value_sums=sums, value_lengths=lengths)
    plan.sum_values(**good)
    for change, words in [
            ({"value_sums": sums[:1]}, "states must be 2 at least"),
            ({"value_sums": sums.astype(np.int32)}, "value_sums is of int32, not int64"),
            ({"value_lengths": lengths[:, :1]}, "num_kv_heads must be 2"),
            ({"value_slots": np.zeros(3, np.int32)}, r"value_slots is \[3\], not \[2\]"),
            ({"value_sums": np.broadcast_to(sums, sums.shape)}, "read-only"),
            ({"rows": 3}, "pass q_start")]:
        with pytest.raises(hattn.InvalidArgument, match=words):
            plan.sum_values(**good | change)
    with pytest.raises(hattn.InvalidArgument, match="the problem has no tail"):
        plain.sum_values(**good)
    decode = (world.q, world.k, world.v, world.encode(plan), world.map, world.seq_len)
    with pytest.raises(hattn.InvalidArgument, match="value_sums is null"):
        plan.decode(*decode, slopes=np.ones(HKV, np.float32))
    with pytest.raises(hattn.Unsupported, match="key_norms"):
        world.plan(tail=0.5, key_norms=1)
    with pytest.raises(hattn.InvalidArgument, match="tail is 2"):
        world.plan(tail=2.0)
    with pytest.raises(hattn.InvalidArgument, match="no field reserved"):
        world.plan(reserved=0)
