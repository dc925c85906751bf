# SPDX-License-Identifier: Apache-2.0
"""Maps of others: what is read projects as their own modules do."""

import pytest
import torch
from hattn.maps import scores, traces
from hattn.maps.__main__ import main
from torch import nn

D, HEADS, BITS = 64, 4, 32


def hashattention(tmp_path, widths=(D, 48, 48, BITS)):
    """A file with two layers, and the modules of them, in the form in which HashAttention publishes them."""
    def mlp():
        parts = []
        for i, o in zip(widths, widths[1:], strict=False):
            parts += [nn.Linear(i, o), nn.SiLU()]
        return nn.Sequential(*parts[:-1])

    torch.manual_seed(0)
    layers = nn.ModuleList([nn.ModuleDict({"learning_to_hash_transformation_" + side: nn.ModuleList(
        [mlp() for _ in range(HEADS)]) for side in "kq"}) for _ in range(2)]).half()
    torch.save(layers.state_dict(), tmp_path / "modules.pt")
    return layers


def test_hashattention(tmp_path):
    layers = hashattention(tmp_path)
    assert main(["convert", str(tmp_path / "modules.pt"), "--out", str(tmp_path / "maps")]) == 0
    x = torch.randn(HEADS, 10, D)
    for layer in (0, 1):
        (by,) = traces.load_maps(str(tmp_path / "maps" / ("layer%d.safetensors" % layer)))
        assert (by.name, by.bits, by.is_mlp, by.score) == ("hashattention32", BITS, True, "hamming")
        for side, flat in (("k", by.key), ("q", by.query)):
            modules = layers[layer]["learning_to_hash_transformation_" + side].float()
            expected = torch.stack([module(x[head]) for head, module in enumerate(modules)])
            torch.testing.assert_close(scores.project([part.float() for part in flat], x), expected)


@pytest.mark.parametrize("shared", [False, True])
def test_hata(shared, tmp_path):
    (tmp_path / "hata").mkdir()
    weight = torch.randn((D, 128) if shared else (2, D, 128), dtype=torch.bfloat16)
    torch.save(weight, tmp_path / "hata" / "hash_weight_layer_03.pt")
    more = ["--kv-heads", "2"] if shared else []
    assert main(["convert", str(tmp_path / "hata"), "--out", str(tmp_path / "maps"), *more]) == 0
    (by,) = traces.load_maps(str(tmp_path / "maps" / "layer3.safetensors"))
    assert by.name == "hata128" and len(by.key) == 1 and by.key[0].shape == (2, D, 128)
    assert torch.equal(by.key[0].float(), by.query[0].float())
    torch.testing.assert_close(by.key[0][1].float(), (weight if shared else weight[1]).float(), rtol=1e-3, atol=1e-3)


def test_refusals(tmp_path, capsys):
    def refused(source, words):
        assert main(["convert", str(source), "--out", str(tmp_path / "maps")]) == 2
        assert words in capsys.readouterr().err

    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no hash_weight_layer")
    refused(tmp_path / "none.pt", "none.pt")
    (tmp_path / "text.pt").write_text("text")
    refused(tmp_path / "text.pt", "no file of tensors")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    refused(tmp_path / "other.pt", "no learning_to_hash_transformation_k")
    hashattention(tmp_path, (D, 48, BITS))
    refused(tmp_path / "modules.pt", "linear layers at [0, 2]")
    torch.save(torch.zeros(D, 32), tmp_path / "empty" / "hash_weight_layer_00.pt")
    refused(tmp_path / "empty", "say how many")
