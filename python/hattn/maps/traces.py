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
SCORES = ("hamming", "weighted")
OF_HEADS = "head"  # of slopes: those of query heads
_MLP = [(kind, layer) for layer in (1, 2, 3) for kind in ("w", "b")]


@dataclass
class LayerMap:
    """A map of one layer. key, query: weight [Hc, d, bits]; weight and bias [Hc, bits]; or three of each in turns, an
    MLP. about: how it came to be. slopes: {score: float32 [Hs]}, what floors of probability and tails need, and
    {OF_HEADS: float32 [Hq]}, which candidates need."""

    name: str
    key: list[Tensor]
    query: list[Tensor]
    score: str  # "hamming" or "weighted"
    about: dict[str, Any] = field(default_factory=dict)
    slopes: dict[str, Tensor] = field(default_factory=dict)

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

    def score_of(self, num_candidates: int) -> str:
        """By which it selects: candidates are chosen, and scored by query heads, by weighted scores of any map."""
        return "weighted" if num_candidates else self.score

    def slopes_of(self, score: str) -> Tensor:
        if score not in self.slopes:
            raise ValueError("map %s has no slopes of %s scores, which floors of probability and tails need: "
                             "python -m hattn.maps calibrate fits them" % (self.name, score))
        return self.slopes[score]

    def head_slopes(self) -> Tensor:
        """Of query heads."""
        if OF_HEADS not in self.slopes:
            raise ValueError("map %s has no slopes of query heads, which candidates need: python -m hattn.maps "
                             "calibrate fits them, to maps per KV head" % self.name)
        return self.slopes[OF_HEADS]

    def tensors(self) -> dict[str, Tensor]:
        """As they stand in a file."""
        names = {"slope." + kind: slopes for kind, slopes in self.slopes.items()}
        if self.is_mlp:
            names |= {"%s.%s%d" % (side, kind, layer): flat[i]
                      for side, flat in (("k", self.key), ("q", self.query)) for i, (kind, layer) in enumerate(_MLP)}
            return {"%s.%s" % (self.name, part): tensor for part, tensor in names.items()}
        names["wk"] = self.key[0]
        if self.query[0].data_ptr() != self.key[0].data_ptr():
            names["wq"] = self.query[0]  # without it wk serves both
        if len(self.key) == 2:
            names["bias"] = self.key[1]
        return {"%s.%s" % (self.name, part): tensor for part, tensor in names.items()}

    def to(self, device: str | torch.device, dtype: torch.dtype = torch.float32) -> "LayerMap":
        key, query = ([tensor.to(device, dtype) for tensor in flat] for flat in (self.key, self.query))
        slopes = {kind: tensor.to(device) for kind, tensor in self.slopes.items()}  # always float32
        return LayerMap(self.name, key, query, self.score, self.about, slopes)


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

    def queries(self, rows: Tensor | slice) -> "Trace":
        """With these of its queries only."""
        return Trace(self.path, self.q[rows], self.q_pos[rows], self.k, self.v, self.scale, self.maps)

    def spread_queries(self, most: int) -> "Trace":
        """With at most so many of its queries, from all positions."""
        return self.queries(slice(0, None, max(1, -(-self.q.shape[0] // most))))


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
        slopes = {kind: tensors["%s.slope.%s" % (name, kind)] for kind in (*SCORES, OF_HEADS)
                  if "%s.slope.%s" % (name, kind) in tensors}
        maps.append(LayerMap(name, key, query, score, about.get(name, {}), slopes))
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
    _write(path, tensors, metadata)


def put_slopes(path: str, maps: Iterable[LayerMap]) -> None:
    """Those of the maps in a file of maps, or of a trace with maps, which keeps all else."""
    tensors, metadata = _read(path)
    for one in maps:
        tensors |= {name: tensor for name, tensor in one.tensors().items() if ".slope." in name}
    _write(path, tensors, metadata)


def _write(path: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
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
