# SPDX-License-Identifier: Apache-2.0
"""Floors of probability: slopes and figures against the hattn command's on the same files, the operator against
plans."""

import json
import os
import subprocess

import hattn
import hattn.torch as ops
import numpy as np
import pytest
import torch
from hattn.maps import scores, traces
from hattn.maps.__main__ import main
from hattn.maps.slopes import fit_slopes
from hattn.maps.train import Recipe, train
from maps_test import COMMAND, EXAMPLES, by_command, needs_command, planted
from safetensors.torch import load_file
from torch_test import DEVICES, HKV, HQ, N, World

# Both sum exponentials in double. Projections are of 32 bits and summed in other orders: a bit of a code or a weight
# may differ where a projection is within rounding of 0 or of a half. On the traces in examples/ slopes differ by 2e-7.
NEAR = dict(rel=1e-4)


def peaked(seed):
    """Planted queries of very different sharpness, which a floor is for."""
    tensors = planted(seed)
    tensors["q"] *= torch.linspace(0.2, 2, len(tensors["q"]))[:, None, None].half()
    return tensors


@needs_command
@pytest.mark.parametrize("kind,per_query_head", [("weighted", False), ("hamming", True), ("hashattention", False)])
def test_slopes_and_floors_are_the_commands(kind, per_query_head, tmp_path):
    """Of maps that we wrote, linear ones for KV heads and query heads, and MLPs; and what we read of what it wrote."""
    path, out = str(tmp_path / "layer0.safetensors"), str(tmp_path / "calibrated.safetensors")
    traces.save(path, peaked(1))
    trace = traces.load_trace(path).to("cpu")
    by = train([trace], Recipe(kind, 32, per_query_head, steps=3, queries=8, budget=64))
    traces.save(path, peaked(1), [by])
    subprocess.run([COMMAND, "calibrate", "--trace", path, "--out", out], check=True, stdout=subprocess.DEVNULL)
    (ours,), (theirs,) = traces.load_trace(path).maps, traces.load_trace(out).maps
    found = fit_slopes([trace], ours.to("cpu"))
    of_heads = {traces.OF_HEADS} if kind == "weighted" else set()  # where query heads select together
    assert found.keys() == theirs.slopes.keys() == ours.slopes.keys() == {*traces.SCORES} | of_heads
    for name, slopes in found.items():
        assert slopes.tolist() == pytest.approx(theirs.slopes[name].tolist(), **NEAR), name
        assert slopes.max() > 0
    # What train stored is of the queries that it did not learn from.
    held = traces.load_trace(path).to("cpu").queries(slice(3, None, 4))
    for score, slopes in fit_slopes([held], ours.to("cpu")).items():
        assert ours.slopes[score].tolist() == pytest.approx(slopes.tolist(), **NEAR)
    # The floor that has as many keys on average, what that keeps, and what it leaves out.
    one = theirs.to("cpu")
    floor = scores.find_floor([trace], one, 60, 240, 8)
    kept = scores.keep(trace, one, 240, 0, floor)
    (named,) = by_command(out, 240, **{"mean-rows": 60, "min-k": 8}).values()
    assert tuple(kept.means().values()) == pytest.approx(named, abs=0.002)
    assert kept.rows.min() >= 8 and kept.rows.max() > 150, kept.rows


@pytest.mark.parametrize("path", EXAMPLES, ids=os.path.basename)
def test_slopes_are_those_in_the_examples(path):
    """Which `hattn calibrate` has put there."""
    trace = traces.load_trace(path).to("cpu")
    for one in trace.maps:
        found = fit_slopes([trace], one)
        assert found.keys() == one.slopes.keys()
        for name, slopes in found.items():
            assert slopes.tolist() == pytest.approx(one.slopes[name].tolist(), **NEAR), (one.name, name)


def test_a_slope_is_found_again():
    """Keys and codes of signs: attention is softmax of a slope times the score, which is that slope."""
    generator = torch.Generator().manual_seed(0)
    n, d = 512, 32
    k, q = (torch.where(torch.rand((rows, 1, d), generator=generator) > 0.5, 1.0, -1.0) for rows in (n, 16))
    trace = traces.Trace("", q * 0.5, torch.full((16,), n - 1), k, k, 0.25, [])
    by = traces.LayerMap("hamming32", [torch.eye(d)[None]], [torch.eye(d)[None]], "hamming")
    found = fit_slopes([trace], by)
    assert found["hamming"].tolist() == pytest.approx([0.125], rel=1e-6)  # logits: .25 * .5 * sum of sign * sign
    assert found["weighted"].tolist() == pytest.approx([0.25], rel=1e-6)  # a unit is .5 / 7, all weights are 7
    against = traces.LayerMap("hamming32", [torch.eye(d)[None]], [-torch.eye(d)[None]], "hamming")
    assert fit_slopes([trace], against)["hamming"].tolist() == [0]


def test_check_has_floors_at_the_same_mean_rows(tmp_path, capsys):
    """calibrate gives maps slopes, and leaves all else in their file."""
    for name in ("maps", "held"):
        os.makedirs(tmp_path / name)
    for i in range(2):
        traces.save(str(tmp_path / "held" / ("%d.layer0.safetensors" % i)), peaked(i))
    by = train([traces.load_trace(str(tmp_path / "held" / "0.layer0.safetensors")).to("cpu")],
               Recipe("weighted", 64, steps=40, rate=0.003, budget=64))
    maps, held, report, figure = (str(tmp_path / name) for name in ("maps", "held", "report.json", "figure.svg"))
    by.slopes, path = {}, os.path.join(maps, "layer0.safetensors")
    traces.save(path, {}, [by])
    before = load_file(path)

    def rows():
        assert main(["check", maps, held, "--budget", "64", "--json", report, "--plot", figure,
                     "--device", "cpu"]) == 0
        with open(report) as file:
            return [row for row in json.load(file)["rows"] if row["map"] == "weighted64"]

    assert len(rows()) == 1
    assert main(["calibrate", maps, held, "--device", "cpu"]) == 0
    after = load_file(path)
    names = {*traces.SCORES, traces.OF_HEADS}
    assert after.keys() - before.keys() == {"weighted64.slope." + name for name in names}
    assert all(torch.equal(after[name], before[name]) for name in before)
    (one,) = traces.load_maps(path)
    assert one.about == json.loads(json.dumps(by.about)) and one.to("cpu").slopes.keys() == names
    fixed, floor = rows()
    assert fixed["floor"] is None and fixed["rows"] == 64 and 0 < floor["floor"] < 1
    assert floor["rows"] == pytest.approx(64, abs=1)
    assert floor["mass"] > fixed["mass"] + 0.01 and floor["error"] < fixed["error"]
    assert "%.2e" % floor["floor"] in capsys.readouterr().out
    with open(figure) as file:
        assert "weighted64, floor" in file.read()
    os.makedirs(tmp_path / "other")
    os.rename(path, tmp_path / "other" / "layer7.safetensors")
    assert main(["calibrate", str(tmp_path / "other"), held]) == 2
    assert "no traces of layer 7" in capsys.readouterr().err


FLOOR, SLOPES = dict(min_probability=0.01, min_k=3), {"hamming": [0.1, 0.15], "weighted": [0.02, 0.03]}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("score", traces.SCORES)
def test_decode_is_a_plans(score, device):
    """Of the reference, also when it is called again, compiled, with other floors, and with none."""
    world = World(device, torch.float16 if device == "cuda" else torch.float32)
    arrays = [x.cpu().numpy() for x in (world.q, world.k, world.v, world.map, world.seq_len, world.codes)]
    q, k, v, weight, seq_len, codes = arrays
    slopes = torch.tensor(SLOPES[score], device=device)
    plan = hattn.Device("reference").plan(q=q, k_cache=k, v_cache=v, query_map=weight, max_sequences=2, max_length=N,
                                          k=200, score_kind=ops.SCORES[score], codes=codes, **FLOOR)
    kept = np.zeros((2, HKV), np.int32)
    expected = torch.from_numpy(plan.decode(q, k, v, codes, weight, seq_len, slopes=slopes.cpu().numpy(), counts=kept))
    assert 3 <= kept.min() and kept.max() < 200 and kept.min() < kept.max(), kept
    near = dict(rtol=0, atol=1e-5 if device == "cpu" else 2e-3)

    def step(q, **more):
        return ops.decode(q, world.k, world.v, world.codes, world.map, world.seq_len, 200, score=score, **more)

    def counts_of(q, **more):
        found, counts = ops.decode_counted(q, world.k, world.v, world.codes, world.map, world.seq_len, 200, score=score,
                                           **more)
        assert torch.equal(found, step(q, **more))
        return counts

    fixed, kept = step(world.q), torch.from_numpy(kept)
    for _ in range(2):
        torch.testing.assert_close(step(world.q, slopes=slopes, **FLOOR).cpu(), expected, **near)
        assert torch.equal(counts_of(world.q, slopes=slopes, **FLOOR).cpu(), kept)
    assert torch.equal(step(world.q), fixed) and not torch.equal(step(world.q, slopes=slopes, **FLOOR), fixed)
    assert counts_of(world.q).eq(200).all()
    assert counts_of(world.q, slopes=slopes, min_probability=0.9, min_k=5).eq(5).all()
    assert counts_of(world.q, num_selection_heads=HKV).eq(200).all()

    def both(q):
        out, counts = ops.decode_counted(q, world.k, world.v, world.codes, world.map, world.seq_len, 200, score=score)
        return step(q * 2 - q, slopes=slopes, **FLOOR), out, counts

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    all_keys = torch.full((2, HKV), 200, dtype=torch.int32)
    torch.testing.assert_close([x.cpu() for x in compiled(world.q)], [expected, fixed.cpu(), all_keys], **near)


@pytest.mark.parametrize("op", ["decode", "decode_counted"])
def test_opcheck(op):
    world = World()
    args = [world.q, world.k, world.v, world.codes, [world.map], world.seq_len, 200]
    more = dict(FLOOR, slopes=torch.tensor(SLOPES["hamming"]), num_selection_heads=HKV)
    torch.library.opcheck(getattr(torch.ops.hattn, op).default, args, more)


REFUSED = [
    (dict(min_probability=0.1), "min_probability is 0.1, .*, slopes are missing: a tail needs them, and a floor"),
    (dict(slopes=torch.ones(HKV)), "min_probability is 0, .*, slopes are given"),
    (dict(slopes=torch.ones(HQ), min_probability=0.1), "slopes is .6., not .2."),
    (dict(slopes=torch.ones(HKV).double(), min_probability=0.1), "slopes is of torch.float64"),
    (dict(slopes=torch.ones(HKV), min_probability=1.0), "it must be at least 0 and below 1"),
    (dict(min_k=4), "without min_probability there is no floor"),
    (dict(slopes=torch.ones(HKV), min_probability=0.1, norms=torch.zeros((2, N, HKV), dtype=torch.float16)),
     "with key_norms"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refusals(number):
    """Also where the same call with all that it needs has been made before."""
    change, words = REFUSED[number]
    world = World()
    world.decode(slopes=torch.ones(HKV), min_probability=0.1)
    with pytest.raises(hattn.HattnError, match=words):
        world.decode(**change)
