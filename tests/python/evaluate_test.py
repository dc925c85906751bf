# SPDX-License-Identifier: Apache-2.0
"""python -m hattn.evaluate on a tiny random model."""

import json

import numpy as np
import pytest
from hattn.evaluate import main
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


def test_refusals(folder, capsys):
    assert run(folder, "--window", "900") == 2
    assert "the text has 700 tokens" in capsys.readouterr().err
    assert run(folder, "--tokens", "200") == 2
