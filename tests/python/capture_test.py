# SPDX-License-Identifier: Apache-2.0
"""Traces of tiny random models: what is captured is what the model attends with."""

import os

import numpy as np
import pytest
import torch
import transformers
from hattn.maps import traces
from hattn.maps.__main__ import main
from tokenizers import Tokenizer, models, pre_tokenizers

SMALL = dict(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, head_dim=32, max_position_embeddings=512, bos_token_id=0, eos_token_id=0)
MODELS = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config, "qwen3": transformers.Qwen3Config,
          "mistral": transformers.MistralConfig}
WINDOW = 96


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Token numbers of three windows."""
    path = str(tmp_path_factory.mktemp("text") / "tokens.npy")
    np.save(path, np.random.default_rng(0).integers(0, 64, 3 * WINDOW + 5).astype(np.uint16))
    return path


def model_of(name, folder):
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(MODELS[name](**SMALL))
    path = str(folder / name)
    model.save_pretrained(path)
    return path


def capture(model, text, out, *more):
    return main(["capture", model, "--text", text, "--out", str(out), "--window", str(WINDOW), "--queries", "12",
                 "--device", "cpu", *more])


@pytest.mark.parametrize("name", MODELS)
def test_attention_of_what_is_captured_is_the_models(name, text, tmp_path):
    path = model_of(name, tmp_path)
    assert capture(path, text, tmp_path / "out", "--layers", "0,2", "--windows", "2") == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["%04d.layer%d.safetensors" % (w, layer) for w in (0, 1)
                                                     for layer in (0, 2)]
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    inputs = {}
    for layer in (0, 2):
        model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(
            lambda _, args, layer=layer: inputs.__setitem__(layer, args[0][0]))
    with torch.no_grad():  # the second of two windows is the last of the text
        model(torch.from_numpy(np.load(text).astype(np.int64))[None, -WINDOW:])
    for layer in (0, 2):
        trace = traces.load_trace(str(tmp_path / "out" / ("0001.layer%d.safetensors" % layer))).to("cpu")
        assert trace.q.shape == (len(trace.q_pos), 4, 32) and trace.k.shape == (WINDOW, 2, 32) and len(trace.q_pos) > 8
        k, v = (x.repeat_interleave(2, 1) for x in (trace.k, trace.v))
        logits = torch.einsum("phd,nhd->hpn", trace.q, k) * trace.scale
        logits.masked_fill_(torch.arange(WINDOW) > trace.q_pos[:, None], float("-inf"))
        out = torch.einsum("hpn,nhd->phd", logits.softmax(-1), v)
        expected = inputs[layer][trace.q_pos.long()].view(out.shape)
        torch.testing.assert_close(out, expected, rtol=0, atol=2e-3 * float(expected.abs().max()))


def test_a_stopped_run_goes_on(text, tmp_path):
    path, out = model_of("llama", tmp_path), tmp_path / "out"
    assert capture(path, text, out) == 0
    stamps = {name: os.stat(out / name).st_mtime_ns for name in os.listdir(out)}
    assert len(stamps) == 9
    os.remove(out / "0001.layer1.safetensors")
    assert capture(path, text, out) == 0
    again = {name: os.stat(out / name).st_mtime_ns for name in os.listdir(out)}
    assert [name for name in again if again[name] != stamps[name]] == ["0001.layer1.safetensors"]


def test_plain_text_goes_through_the_models_tokenizer(tmp_path):
    path = model_of("llama", tmp_path)
    tokenizer = Tokenizer(models.WordLevel({"word%d" % i: i for i in range(63)} | {"?": 63}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(path)
    words, numbers = np.random.default_rng(2).integers(0, 63, WINDOW + 2), str(tmp_path / "numbers.npy")
    np.save(numbers, words)
    with open(tmp_path / "text", "w") as file:
        file.write(" ".join("word%d" % i for i in words))
    assert capture(path, str(tmp_path / "text"), tmp_path / "a", "--layers", "1") == 0
    assert capture(path, numbers, tmp_path / "b", "--layers", "1") == 0
    a, b = (traces.load_trace(str(tmp_path / x / "0000.layer1.safetensors")) for x in "ab")
    assert torch.equal(a.q, b.q) and torch.equal(a.k, b.k)


def test_refusals(text, tmp_path, capsys):
    path = model_of("llama", tmp_path)
    assert capture(path, text, tmp_path / "out", "--layers", "3") == 2
    assert "layers 0..2" in capsys.readouterr().err
    assert capture(path, text, tmp_path / "out", "--window", "4096") == 2
    assert "the text has 293 tokens" in capsys.readouterr().err
