# SPDX-License-Identifier: Apache-2.0
"""python -m hattn.evaluate on a tiny random model."""

import json

import numpy as np
import pytest
import torch
from hattn.evaluate import _texts, main
from hattn.maps import traces
from transformers_test import maps_of, model_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("evaluate")
    model_of(attention="sdpa").save_pretrained(path / "model")
    for layer, by in maps_of().items():
        traces.save(str(path / ("layer%d.safetensors" % layer)), {}, [by.to("cpu")])
    np.save(path / "tokens.npy", np.random.default_rng(0).integers(2, 64, 700))
    return path


def run(folder, *more):
    return main([str(folder / "model"), "--maps", str(folder), "--text", str(folder / "tokens.npy"), "--window", "300",
                 "--tokens", "24", "--device", "cpu", *more])


def test_rows(folder, capsys):
    report, figure = str(folder / "rows.json"), str(folder / "figure.svg")
    assert run(folder, "--budgets", "8,400", "--json", report, "--plot", figure) == 0
    with open(report) as file:
        rows = {(row["text"], row["budget"]): row for row in json.load(file)}
    assert len(rows) == 6 and "copied" in capsys.readouterr().out
    for kind in ("plain", "copied"):
        assert rows[kind, None]["kl"] == 0
        # All keys are kept: sdpa's predictions, but for rounding.
        assert abs(rows[kind, 400]["kl"]) < 1e-6 and abs(rows[kind, 400]["nll"] - rows[kind, None]["nll"]) < 1e-4
        assert rows[kind, 8]["kl"] > 1e-5 and rows[kind, 8]["tokens_per_second"] > 0
    with open(figure) as file:
        assert "selected keys" in file.read()


def test_floors(folder, tmp_path, capsys):
    """They have rows of their own, with how many keys were kept; spans are copied from where it is said."""
    assert run(folder, "--min-probability", "0.01", "--budgets", "") == 2
    assert "weighted64 has no slopes of weighted scores" in capsys.readouterr().err
    for layer, by in maps_of().items():
        by.slopes = {"weighted": torch.tensor([0.05, 0.1])}
        traces.save(str(tmp_path / ("layer%d.safetensors" % layer)), {}, [by])
    report, figure = str(tmp_path / "rows.json"), str(tmp_path / "figure.svg")
    more = ["--maps", str(tmp_path), "--json", report, "--plot", figure, "--distances", "24,276", "--budgets", "8"]
    assert run(folder, *more, "--min-probability", "0.001,0.01,0.9", "--most", "100", "--min-k", "5") == 0
    with open(report) as file:
        rows = {(row["distance"], row["budget"], row["min_probability"]): row for row in json.load(file)}
    assert len(rows) == 3 * 5
    for distance in (0, 24, 276):
        kept = [rows[distance, 100, floor] for floor in (0.001, 0.01, 0.9)]
        assert kept[2]["rows"] == 5 < kept[1]["rows"] < kept[0]["rows"] < 100
        assert kept[2]["kl"] > kept[1]["kl"] > kept[0]["kl"] > 0
        assert rows[distance, 8, 0]["rows"] == 8 and rows[distance, None, 0]["rows"] == 276 + 23 / 2
    out = capsys.readouterr().out
    assert "copied, 276 back" in out and "above 0.01" in out
    with open(figure) as file:
        assert "copied, 24 back, floors" in file.read()


def test_tails_and_candidates(folder, tmp_path, capsys):
    """Each budget and each floor, with each tail and each number of candidates."""
    more = ["--maps", str(tmp_path), "--budgets", "8", "--min-probability", "0.01", "--most", "20", "--min-k", "5"]
    for slopes, words in [({}, "no slopes of query heads"), ({"head": torch.full((4,), 0.1)}, "no slopes of weighted")]:
        for layer, by in maps_of().items():
            by.slopes = slopes
            traces.save(str(tmp_path / ("layer%d.safetensors" % layer)), {}, [by])
        assert run(folder, *more, "--tail", "0,0.5", "--candidates", "40") == 2
        assert words in capsys.readouterr().err
    for layer, by in maps_of().items():
        by.slopes = {"weighted": torch.tensor([0.05, 0.1]), "head": torch.linspace(0.1, 0.2, 4)}
        traces.save(str(tmp_path / ("layer%d.safetensors" % layer)), {}, [by])
    assert run(folder, *more, "--candidates", "19") == 2
    assert "19 candidates are fewer than the 20 keys" in capsys.readouterr().err
    report, figure = str(tmp_path / "rows.json"), str(tmp_path / "figure.svg")
    assert run(folder, *more, "--tail", "0,0.5", "--candidates", "0,40", "--json", report, "--plot", figure) == 0
    with open(report) as file:
        rows = {tuple(row[name] for name in ("text", "min_probability", "tail", "num_candidates")): row
                for row in json.load(file) if row["budget"]}
    assert len(rows) == 2 * 8
    for text in ("plain", "copied"):
        found = {tuple(way): row for (kind, *way), row in rows.items() if kind == text}
        assert len({row["kl"] for row in found.values()}) == 8
        assert all(row["rows"] == 8 for (floor, _, _), row in found.items() if not floor)
        assert all(5 < row["rows"] < 20 for (floor, _, _), row in found.items() if floor)
    out = capsys.readouterr().out
    assert "above 0.01, tail 0.5, of 40" in out and " 8, of 40" in out
    with open(figure) as file:
        assert "plain, floors, tail 0.5, of 40" in file.read()


def test_values_that_are_not_read(folder, tmp_path, capsys):
    """Lines with a tail, with each least weight; those without are decoded once, and alone they are refused."""
    for layer, by in maps_of().items():
        by.slopes = {"weighted": torch.tensor([0.05, 0.1])}
        traces.save(str(tmp_path / ("layer%d.safetensors" % layer)), {}, [by])
    more = ["--maps", str(tmp_path), "--budgets", "20", "--min-value-weight"]
    assert run(folder, *more, "0.02") == 2
    assert "without a tail there is no mean" in capsys.readouterr().err
    report = str(tmp_path / "rows.json")
    assert run(folder, *more, "0,1e-9,0.04,0.9", "--tail", "0,0.5", "--json", report) == 0
    with open(report) as file:
        rows = [row for row in json.load(file) if row["budget"]]
    for text in ("plain", "copied"):
        kl = {(row["tail"], row["min_value_weight"]): row["kl"] for row in rows if row["text"] == text}
        assert len(kl) == 5 and (0, 0) in kl
        assert abs(kl[0.5, 1e-9] - kl[0.5, 0]) < 1e-6  # all are read
        assert len({kl[0.5, weight] for weight in (0, 0.04, 0.9)}) == 3
    assert ", tail 0.5, values above 0.04" in capsys.readouterr().out


def test_where_spans_come_from():
    prompt, text = torch.arange(100), torch.arange(100, 110)
    plain, near, far = _texts(prompt, text, [10, 100])
    assert plain.tokens.equal(text) and (plain.distance, plain.skipped) == (0, 0)
    assert near.tokens.equal(prompt[90:]) and far.tokens.equal(prompt[:10]) and far.skipped == 2


def test_refusals(folder, capsys):
    assert run(folder, "--window", "900") == 2
    assert "the text has 700 tokens" in capsys.readouterr().err
    assert run(folder, "--tokens", "200") == 2
    assert run(folder, "--distances", "23") == 2
    assert "spans are copied from 24 to 276 back" in capsys.readouterr().err
