# SPDX-License-Identifier: Apache-2.0
"""Traces and maps as files: what tools/trace.h says, so that `hattn decode --trace` reads them too.

A folder of traces has WINDOW.layerL.safetensors: q float16 [queries, Hq, d] at positions q_pos int32 [queries], k
[n, Hkv, d], v [n, Hkv, dv], after the position embedding. A folder of maps has layerL.safetensors.
"""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

Tensor = torch.Tensor
_MLP = [(kind, layer) for layer in (1, 2, 3) for kind in ("w", "b")]


@dataclass
class LayerMap:
    """A map of one layer. key, query: weight [Hc, d, bits]; weight and bias [Hc, bits]; or three of each in turns, an
    MLP. about: how it came to be."""

    name: str
    key: list[Tensor]
    query: list[Tensor]
    score: str  # "hamming" or "weighted"
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def bits(self) -> int:
        return self.key[-2 if len(self.key) == 6 else 0].shape[2]

    @property
    def is_mlp(self) -> bool:
        return len(self.key) == 6

    def per_query_head(self, num_kv_heads: int) -> bool:
        """Whether each query head selects keys of its own, by codes of its own; else the query heads of a KV head do
        together."""
        return self.is_mlp or self.key[0].shape[0] > num_kv_heads

    def tensors(self) -> dict[str, Tensor]:
        """As they stand in a file."""
        if self.is_mlp:
            return {"%s.%s.%s%d" % (self.name, side, kind, layer): flat[i]
                    for side, flat in (("k", self.key), ("q", self.query)) for i, (kind, layer) in enumerate(_MLP)}
        names = dict(wk=self.key[0])
        if self.query[0].data_ptr() != self.key[0].data_ptr():
            names["wq"] = self.query[0]  # without it wk serves both
        if len(self.key) == 2:
            names["bias"] = self.key[1]
        return {"%s.%s" % (self.name, part): tensor for part, tensor in names.items()}

    def to(self, device: str | torch.device, dtype: torch.dtype = torch.float32) -> "LayerMap":
        key, query = ([tensor.to(device, dtype) for tensor in flat] for flat in (self.key, self.query))
        return LayerMap(self.name, key, query, self.score, self.about)


@dataclass
class Trace:
    """One layer of one window of text."""

    path: str
    q: Tensor
    q_pos: Tensor
    k: Tensor
    v: Tensor
    scale: float
    maps: list[LayerMap]

    def to(self, device: str | torch.device) -> "Trace":
        q, k, v = (tensor.to(device, torch.float32) for tensor in (self.q, self.k, self.v))
        return Trace(self.path, q, self.q_pos.to(device), k, v, self.scale, [m.to(device) for m in self.maps])


def _maps_of(tensors: dict[str, Tensor], metadata: dict[str, str]) -> list[LayerMap]:
    about, maps = json.loads(metadata.get("hattn_maps", "{}")), []
    for name in sorted({key.split(".")[0] for key in tensors if "." in key}):
        if name + ".wk" in tensors:
            key, query = [tensors[name + ".wk"]], [tensors.get(name + ".wq", tensors[name + ".wk"])]
            if name + ".bias" in tensors:
                key.append(tensors[name + ".bias"])
        else:
            key, query = ([tensors["%s.%s.%s%d" % (name, side, kind, layer)] for kind, layer in _MLP] for side in "kq")
        score = "weighted" if name.startswith("weighted") else "hamming"  # as `hattn decode` takes it
        maps.append(LayerMap(name, key, query, score, about.get(name, {})))
    return maps


def _read(path: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}


def load_trace(path: str) -> Trace:
    tensors, metadata = _read(path)
    missing = {"q", "q_pos", "k", "v"} - tensors.keys()
    if missing:
        raise ValueError("%s is no trace: %s missing" % (path, ", ".join(sorted(missing))))
    scale = float(metadata.get("softmax_scale", tensors["q"].shape[2] ** -0.5))
    return Trace(path, tensors["q"], tensors["q_pos"], tensors["k"], tensors["v"], scale, _maps_of(tensors, metadata))


def load_maps(path: str) -> list[LayerMap]:
    return _maps_of(*_read(path))


def save(path: str, tensors: dict[str, Tensor], maps: Iterable[LayerMap] = (), scale: float | None = None) -> None:
    """Whole or not at all: a file of that name is a finished one."""
    maps = list(maps)
    for one in maps:
        tensors = tensors | one.tensors()
    metadata = {"hattn_maps": json.dumps({one.name: one.about for one in maps})} if maps else {}
    if scale is not None:
        metadata["softmax_scale"] = repr(scale)
    part = "%s.part%d" % (path, os.getpid())
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, part, metadata)
    os.replace(part, path)


def files_by_layer(folder: str) -> dict[int, list[str]]:
    """{layer: paths} of a folder of traces or maps; or of one file."""
    names = [folder] if os.path.isfile(folder) else [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    layers: dict[int, list[str]] = {}
    for path in names:
        found = re.search(r"layer(\d+)\.safetensors$", path)
        if found:
            layers.setdefault(int(found[1]), []).append(path)
    if not layers:
        raise ValueError("%s has no layer*.safetensors" % folder)
    return dict(sorted(layers.items()))
