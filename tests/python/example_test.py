# SPDX-License-Identifier: Apache-2.0
"""examples/hash_attention.py at small size, and what its model is there for."""

import importlib.util
import os
import subprocess
import sys

import torch
import transformers

EXAMPLES = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "examples")
MODEL = os.path.join(EXAMPLES, "small_model")
_spec = importlib.util.spec_from_file_location("make", os.path.join(MODEL, "make.py"))
assert _spec and _spec.loader
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


def test_the_example_at_small_size():
    done = subprocess.run([sys.executable, os.path.join(EXAMPLES, "hash_attention.py"), "--window", "512", "--budget",
                           "96", "--steps", "10"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    for words in ("weighted128", "copied", "generate()", "96 keys: the passage goes on for"):
        assert words in done.stdout, done.stdout


def test_the_model_looks_back():
    """It has seen none of this text, and knows a passage when it comes again, half a window later."""
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    text = tokenizer(make.topics(held_out=True), return_tensors="pt")["input_ids"][0, :1024]
    assert int(text.max()) < 256 and tokenizer.decode(text[:40]) == make.topics(held_out=True)[:40]
    ids = torch.cat([text, text[256:512]])[None]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    assert losses[-224:].mean() < losses[512:1023].mean() / 2


def test_the_model_is_small():
    assert sum(os.path.getsize(os.path.join(MODEL, name)) for name in os.listdir(MODEL)) < 6 << 20
    assert set(make.topics(True).splitlines()) != set(make.topics(False).splitlines())


def test_it_is_made_by_what_is_here(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make, "REPEATS", 2)
    monkeypatch.setattr(make, "STAGES", [(128, 2, 19)])
    monkeypatch.setattr(sys, "argv", ["make.py", str(tmp_path / "made"), "--device", "cpu"])
    make.main()
    assert "step 20 of 21, 128 bytes: loss of copies" in capsys.readouterr().out
    made, shipped = (transformers.AutoConfig.from_pretrained(path).to_dict() for path in (tmp_path / "made", MODEL))
    assert {**made, "_name_or_path": 0} == {**shipped, "_name_or_path": 0}
