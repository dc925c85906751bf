# SPDX-License-Identifier: Apache-2.0
"""Maps that others have trained. HATA's: a folder of hash_weight_layer_LL.pt, each [Hkv, d, bits], without a bias, for
queries and keys. HashAttention's: a .pt file of a module for each layer, with an MLP for each query head and side."""

import os
import re
from typing import Any

import torch

from hattn.maps.traces import LayerMap

Tensor = torch.Tensor
_LINEARS = (0, 2, 4)  # the places of nn.Linear between SiLUs


def _load(path: str) -> Any:
    """Tensors only: a .pt file from elsewhere must not run code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zipfile's and torch's own
        raise ValueError("%s is no file of tensors: %s" % (path, str(error).split("\n")[0])) from error


def from_hata(folder: str, num_kv_heads: int | None = None) -> dict[int, LayerMap]:
    """num_kv_heads: for weights [d, bits] that all heads share."""
    maps = {}
    for name in sorted(os.listdir(folder)):
        found = re.fullmatch(r"hash_weight_layer_(\d+)\.pt", name)
        if not found:
            continue
        weight = _load(os.path.join(folder, name))
        if isinstance(weight, Tensor) and weight.dim() == 2 and num_kv_heads:
            weight = weight.expand(num_kv_heads, *weight.shape)
        if not isinstance(weight, Tensor) or weight.dim() != 3:
            raise ValueError("%s/%s is no weight [heads, d, bits]%s" % (
                folder, name, ": it is of all heads, say how many" if getattr(weight, "ndim", 0) == 2 else ""))
        half = weight.to(torch.float16).contiguous()
        maps[int(found[1])] = LayerMap("hata%d" % weight.shape[2], [half], [half], "hamming", {"from": "HATA"})
    if not maps:
        raise ValueError("%s has no hash_weight_layer_*.pt" % folder)
    return maps


def _side(state: dict[str, Tensor], layer: int, side: str) -> list[Tensor]:
    """Weight [Hq, in, out] and bias [Hq, out] in turns; torch's are [out, in], a head each."""
    prefix = "%d.learning_to_hash_transformation_%s." % (layer, side)
    places = {(int(head), int(place)) for key in state if key.startswith(prefix)
              for head, place in [key.removeprefix(prefix).split(".")[:2]]}
    heads = 1 + max(head for head, _ in places)
    if places != {(head, place) for head in range(heads) for place in _LINEARS}:
        raise ValueError("layer %d has linear layers at %s: three of each head are known, at 0, 2 and 4" %
                         (layer, sorted({place for _, place in places})))
    flat: list[Tensor] = []
    for place in _LINEARS:
        for kind in ("weight", "bias"):
            parts = [state["%s%d.%d.%s" % (prefix, head, place, kind)].to(torch.float16) for head in range(heads)]
            flat.append(torch.stack([part.T if kind == "weight" else part for part in parts]).contiguous())
    return flat


def from_hashattention(path: str) -> dict[int, LayerMap]:
    state = _load(path)
    keys = state.keys() if isinstance(state, dict) else []
    found = (re.match(r"(\d+)\.learning_to_hash_transformation_k\.", key) for key in keys)
    layers = sorted({int(one[1]) for one in found if one})
    if not layers:
        raise ValueError("%s has no learning_to_hash_transformation_k" % path)
    maps = {}
    for layer in layers:
        key, query = _side(state, layer, "k"), _side(state, layer, "q")
        name = "hashattention%d" % key[-1].shape[1]
        maps[layer] = LayerMap(name, key, query, "hamming", {"from": "HashAttention"})
    return maps


def convert(source: str, num_kv_heads: int | None = None) -> dict[int, LayerMap]:
    """{layer: map} of a folder as HATA writes it, or of a file as HashAttention does."""
    return from_hata(source, num_kv_heads) if os.path.isdir(source) else from_hashattention(source)
