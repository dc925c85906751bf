# SPDX-License-Identifier: Apache-2.0
"""examples/hash_attention.py at small size, and what its model is there for."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest
import torch
import transformers

EXAMPLES = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "examples")
MODEL = os.path.join(EXAMPLES, "small_model")
_spec = importlib.util.spec_from_file_location("make", os.path.join(MODEL, "make.py"))
assert _spec and _spec.loader
make = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model of a few steps, and what was printed of it."""
    path = str(tmp_path_factory.mktemp("made"))
    program = "import make; make.REPEATS, make.STAGES = 2, [(128, 2, 19)]; make.main()"
    done = subprocess.run([sys.executable, "-c", program, path, "--device", "cpu"], cwd=MODEL, stdout=subprocess.PIPE,
                          text=True, check=True)
    return path, done.stdout


def test_the_example_at_small_size():
    done = subprocess.run([sys.executable, os.path.join(EXAMPLES, "hash_attention.py"), "--window", "512", "--budget",
                           "32", "--steps", "60"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    assert "copied" in done.stdout and "worse than orthogonal maps" not in done.stdout, done.stdout
    # At most a sixth more keys, and nearer to what all keys predict, in the mean over texts.
    line = "^.*: fixed %s; floor and tail %s; scores per query head too %s$" % ((r"(\d\.\d+) \((\d+)\)",) * 3)
    texts = re.findall(line, done.stdout, re.M)
    assert len(texts) == 3, done.stdout
    fixed, fixed_rows, tail, tail_rows, heads, heads_rows = (sum(map(float, one)) for one in zip(*texts, strict=True))
    assert tail < 0.95 * fixed and heads < 0.75 * fixed and heads < tail, texts
    assert max(tail_rows, heads_rows) < 7 / 6 * fixed_rows, texts
    found = re.findall(r"^(\w+) keys: the passages go on for (\d+) of", done.stdout, re.M)
    assert [name for name, _ in found] == ["all", "32", "8"], done.stdout
    every, some, few = (int(count) for _, count in found)
    assert every > 8 and some > every / 2 and few < every, done.stdout


@pytest.mark.parametrize("distance", [512, 3072])
def test_the_model_looks_back(distance):
    """It has seen none of this text, and knows a passage when it comes again so many bytes later."""
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    text = tokenizer(make.topics(held_out=True), return_tensors="pt")["input_ids"][0, :3584]
    assert int(text.max()) < 256 and tokenizer.decode(text[:40]) == make.topics(held_out=True)[:40]
    start = len(text) - distance
    ids = torch.cat([text, text[start:start + 256]])[None]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    assert losses[-224:].mean() < losses[512:len(text) - 1].mean() / 4


def test_the_model_is_small():
    assert sum(os.path.getsize(os.path.join(MODEL, name)) for name in os.listdir(MODEL)) < 6 << 20
    assert set(make.topics(True).splitlines()) != set(make.topics(False).splitlines())


def test_training_says_how_far_it_is(made):
    assert "step 20 of 21, 128 bytes: loss of copies" in made[1]


def test_it_is_made_by_what_is_here(made):
    config, other = (transformers.AutoConfig.from_pretrained(path).to_dict() for path in (made[0], MODEL))
    assert {**config, "_name_or_path": 0} == {**other, "_name_or_path": 0}
