# SPDX-License-Identifier: Apache-2.0
"""Maps: figures against the hattn command's on the same files, training that finds what is planted, the commands."""

import json
import os
import subprocess

import pytest
import torch
from hattn.maps import scores, traces
from hattn.maps.__main__ import main
from hattn.maps.train import KINDS, Recipe, train

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMMAND = os.environ.get("HATTN_COMMAND", "")
needs_command = pytest.mark.skipif(not COMMAND, reason="no HATTN_COMMAND: run.py builds it")
EXAMPLES = [os.path.join(ROOT, "examples", "layer%d.safetensors" % layer) for layer in (3, 5)]
BUDGET = 64


def planted(seed, n=768, d=64, num_q_heads=4, num_kv_heads=2, queries=32):
    """Queries, alike in a group, look at a quarter of the dimensions, where keys are smaller than in the others."""
    generator = torch.Generator().manual_seed(seed)
    k, v = (torch.randn((n, num_kv_heads, d), generator=generator) for _ in range(2))
    q = torch.randn((queries, num_kv_heads, d), generator=generator) * 4
    q = q.repeat_interleave(num_q_heads // num_kv_heads, 1)
    q[..., d // 4:] = 0
    k[..., d // 4:] *= 4
    q_pos = torch.linspace(n // 4, n - 1, queries).int()
    return {"q": q.half(), "q_pos": q_pos, "k": k.half(), "v": v.half()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Traces of one layer: three windows to train on, one to check on."""
    path = tmp_path_factory.mktemp("traces")
    os.makedirs(path / "learn"), os.makedirs(path / "held")
    for i in range(4):
        traces.save(str(path / ("held" if i == 3 else "learn") / ("%d.layer0.safetensors" % i)), planted(i))
    return path


def by_command(path, budget, **more):
    """{map: (rows, recall, mass, error)} of `hattn decode`."""
    options = [part for name, value in more.items() for part in ("--" + name, str(value))]
    done = subprocess.run([COMMAND, "decode", "--trace", path, "--topk", str(budget), "--backend", "cpu", "--json", "-",
                           *options], check=True, stdout=subprocess.PIPE)
    return {row["maps"]: (row["mean_rows"], row["recall"], row["mass"], row["output_error"])
            for row in json.loads(done.stdout)["rows"]}


def ours(trace, by, budget):
    return tuple(scores.keep(trace, by, budget).means().values())


@needs_command
@pytest.mark.parametrize("path", EXAMPLES, ids=os.path.basename)
def test_figures_are_the_commands(path):
    trace, theirs = traces.load_trace(path).to("cpu"), by_command(path, 512)
    assert len(trace.maps) == len(theirs) == 5
    for one in trace.maps:
        assert ours(trace, one, 512) == pytest.approx(theirs[one.name], abs=0.002), one.name


OWN = [(kind, False) for kind in KINDS] + [("weighted", True), ("orthogonal", True)]


@needs_command
@pytest.mark.parametrize("kind,per_query_head", OWN)
def test_trained_maps_are_the_commands(kind, per_query_head, tmp_path):
    """Written by us, read and measured by it."""
    tensors, path = planted(3), str(tmp_path / "layer0.safetensors")
    traces.save(str(tmp_path / "plain.safetensors"), tensors)
    trace = traces.load_trace(str(tmp_path / "plain.safetensors")).to("cpu")
    traces.save(path, tensors, [train([trace], Recipe(kind, 32, per_query_head, steps=3, queries=8, budget=BUDGET))])
    (one,) = (trace := traces.load_trace(path).to("cpu")).maps
    assert one.key[0].shape[0] == (4 if per_query_head or kind == "hashattention" else 2)
    assert ours(trace, one, BUDGET) == pytest.approx(by_command(path, BUDGET)[one.name], abs=0.002)


@pytest.mark.parametrize("kind,gain", [("hamming", 0.05), ("weighted", 0.1)])
def test_training_finds_what_is_planted(kind, gain, folder, tmp_path, capsys):
    learn, held, maps = str(folder / "learn"), str(folder / "held"), str(tmp_path / "maps")
    assert main(["train", learn, "--kind", kind, "--bits", "64", "--steps", "150", "--rate", "0.003", "--keys", "512",
                 "--budget", str(BUDGET), "--out", maps, "--device", "cpu"]) == 0
    report, figure = str(tmp_path / "report.json"), str(tmp_path / "figure.svg")
    assert main(["check", maps, held, "--budget", str(BUDGET), "--json", report, "--plot", figure, "--device",
                 "cpu"]) == 0
    with open(report) as file:
        rows = {row["map"]: row for row in json.load(file)["rows"]}
    trained, plain = rows[kind + "64"], rows["orthogonal64, " + kind]
    assert trained["mass"] > plain["mass"] + gain and trained["error"] < plain["error"]
    assert rows["exact"]["recall"] == 1 and rows["exact"]["mass"] > trained["mass"]
    assert len(trained["mass_of_heads"]) == 4 and "orthogonal64" in capsys.readouterr().out
    with open(figure) as file:
        assert kind + "64" in file.read()


def apart(seed):
    """Planted windows whose second query head of a group looks at other dimensions, with keys of their own."""
    tensors = planted(seed)
    d = tensors["q"].shape[2]
    tensors["q"][:, 1::2] = tensors["q"][:, 1::2].roll(d // 4, -1)
    tensors["k"][..., d // 4:d // 2] /= 4
    return tensors


def test_maps_per_query_head(tmp_path, capsys):
    """Two heads of a group that look at different keys: each with its own selection keeps more."""
    for i in range(3):
        folder = tmp_path / ("held" if i == 2 else "learn")
        os.makedirs(folder, exist_ok=True)
        traces.save(str(folder / ("%d.layer0.safetensors" % i)), apart(i))
    mass = {}
    for own in ([], ["--per-query-head"]):
        maps, report = str(tmp_path / ("maps%d" % len(own))), str(tmp_path / "report.json")
        assert main(["train", str(tmp_path / "learn"), "--kind", "weighted", "--bits", "64", "--steps", "60", "--rate",
                     "0.003", "--budget", str(BUDGET), "--out", maps, "--device", "cpu", *own]) == 0
        assert main(["check", maps, str(tmp_path / "held"), "--budget", str(BUDGET), "--json", report, "--device",
                     "cpu"]) == 0
        with open(report) as file:
            rows = {row["map"]: row["mass"] for row in json.load(file)["rows"]}
        mass.update(rows)
    assert mass["weighted64_heads"] > mass["weighted64"] + 0.05
    assert mass["weighted64_heads"] > mass["orthogonal64, weighted per query head"]


def test_samples_of_keys_stand_for_all():
    """The loss of samples is on average that of all keys, which it was far from while samples stood for themselves."""
    from hattn.maps.train import _batches, cross_entropy
    tensors = planted(0)
    trace = traces.Trace("", *(tensors[name].float() if name != "q_pos" else tensors[name] for name in
                               ("q", "q_pos", "k", "v")), 0.125, [])

    def loss(keys, batches):
        found = _batches([trace], Recipe("weighted", queries=32, keys=keys), 2)
        losses = []
        for _, (q, k, target, offset) in zip(range(batches), found, strict=False):
            scores = torch.einsum("phd,nhd->phn", q[:, ::2], k) * 0.1
            losses.append(cross_entropy(scores, target, offset).mean())
        return float(torch.stack(losses).mean())

    assert loss(256, 40) == pytest.approx(loss(0, 1), abs=0.1)


def test_training_is_repeatable(folder):
    loaded = [traces.load_trace(path).to("cpu") for path in traces.files_by_layer(str(folder / "learn"))[0]]
    recipe = Recipe("weighted", 32, steps=5, keys=256, budget=BUDGET)
    first, second = train(loaded, recipe), train(loaded, recipe)
    other = train(loaded, Recipe("weighted", 32, steps=5, keys=256, budget=BUDGET, seed=1))
    for a, b in zip(first.key + first.query, second.key + second.query, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.key[0], other.key[0])
    assert first.about == second.about
    for score in ("hamming", "weighted"):
        assert torch.equal(first.slopes[score], second.slopes[score]) and first.slopes[score].min() > 0


def blind(name):
    """A map that gives all keys of a window the same code."""
    if name.startswith("weighted"):
        return traces.LayerMap(name, [torch.zeros((2, 64, 64))], [torch.ones((2, 64, 64))], "weighted")
    flat = [torch.zeros(shape) for shape in ((4, 64, 8), (4, 8), (4, 8, 8), (4, 8), (4, 8, 64), (4, 64))]
    return traces.LayerMap(name, flat, flat, "hamming")


@pytest.mark.parametrize("name", ["weighted64", "hashattention64"])
def test_worse_maps_are_told(name, folder, tmp_path, capsys):
    os.makedirs(tmp_path / "maps")
    traces.save(str(tmp_path / "maps" / "layer0.safetensors"), {}, [blind(name).to("cpu", torch.float16)])
    assert main(["check", str(tmp_path / "maps"), str(folder / "held"), "--budget", "64", "--device", "cpu"]) == 1
    assert "layer 0: %s keeps" % name in capsys.readouterr().err


REFUSED = [
    (["train", "{empty}", "--kind", "weighted", "--out", "{empty}/x"], "has no layer"),
    (["train", "{empty}/none", "--kind", "weighted", "--out", "{empty}/x"], "No such file"),
    (["check", "{learn}", "{empty}"], "has no layer"),
    (["check", "{maps}", "{learn}"], "no traces of layers"),
]


@pytest.mark.parametrize("arguments,words", REFUSED, ids=[words for _, words in REFUSED])
def test_refusals(arguments, words, folder, tmp_path, capsys):
    os.makedirs(tmp_path / "maps")
    traces.save(str(tmp_path / "maps" / "layer7.safetensors"), {"a.wk": torch.zeros((1, 32, 32))})
    os.makedirs(tmp_path / "empty")
    names = {"empty": tmp_path / "empty", "learn": folder / "learn", "maps": tmp_path / "maps"}
    assert main([argument.format(**names) for argument in arguments] + ["--device", "cpu"]) == 2
    assert words in capsys.readouterr().err


def test_bits_that_codes_cannot_have():
    with pytest.raises(SystemExit):
        main(["train", "x", "--kind", "weighted", "--bits", "30", "--out", "y"])
