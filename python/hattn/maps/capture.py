# SPDX-License-Identifier: Apache-2.0
"""Queries, keys and values of a model's attention on text, as traces. Any model of transformers whose attention goes
through its AttentionInterface: Llama, Qwen, Mistral and most others."""

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from hattn.maps.traces import save

Tensor = torch.Tensor
_NAME = "hattn_capture"


class _Sink:
    """Where the layers of a forward pass go: one file after the other, so that memory holds one layer's tensors."""

    def __init__(self, paths: dict[int, str], positions: Tensor) -> None:
        self.paths, self.positions = paths, positions

    def take(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> None:
        """q [1, Hq, n, d], k and v [1, Hkv, n, d]."""
        if layer not in self.paths:
            return
        half = {name: x[0].transpose(0, 1).to(torch.float16) for name, x in (("k", k), ("v", v))}
        half["q"] = q[0][:, self.positions].transpose(0, 1).to(torch.float16)
        if not all(torch.isfinite(x).all() for x in half.values()):
            raise ValueError("layer %d has values that float16 does not hold" % layer)
        save(self.paths[layer], half | {"q_pos": self.positions.to(torch.int32)}, scale=scale)


_sink: _Sink | None = None


def _attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
               scaling: float | None = None, **more: Any) -> tuple[Tensor, None]:
    """transformers' own sdpa, which is watched."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    if _sink is not None:
        _sink.take(module.layer_idx, query, key, value, scaling or query.shape[-1] ** -0.5)
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
    return out, None


def _load(model: str, device: str) -> Any:
    from transformers import AttentionInterface, AutoModelForCausalLM
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    dtype = torch.float32 if device == "cpu" else "auto"
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, attn_implementation=_NAME, dtype=dtype)
    return loaded.to(device).eval()


def tokens_of(model: str, texts: Iterable[str]) -> Tensor:
    """The tokens of files, one after the other. A .npy file has token numbers."""
    parts, tokenizer = [], None
    for path in texts:
        if path.endswith(".npy"):
            parts.append(torch.from_numpy(np.load(path).astype(np.int64)))
            continue
        if tokenizer is None:
            from transformers import AutoTokenizer
            tokenizer = AutoTokenizer.from_pretrained(model)
        with open(path, encoding="utf-8", errors="replace") as file:
            parts.append(torch.tensor(tokenizer(file.read())["input_ids"], dtype=torch.int64))
    return torch.cat(parts)


def query_positions(length: int, count: int, seed: int) -> Tensor:
    """One in each of `count` equal parts of the window: maps trained on late positions alone fail on early ones."""
    edges = torch.linspace(0, length, count + 1)
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    positions: Tensor = (edges[:-1] + drawn * (edges[1:] - edges[:-1])).long().clamp_(max=length - 1).unique()
    return positions


def capture(model: str, texts: Sequence[str], out: str, layers: Sequence[int] | None = None, window: int = 32768,
            windows: int = 12, queries: int = 1024, seed: int = 0, device: str = "cpu") -> list[str]:
    """Writes WINDOW.layerL.safetensors into `out`, and returns them. Windows that are there already are left: a run
    that was stopped goes on with the next."""
    global _sink
    tokens = tokens_of(model, texts)
    windows = min(windows, len(tokens) // window)
    if not windows:
        raise ValueError("the text has %d tokens, a window %d" % (len(tokens), window))
    os.makedirs(out, exist_ok=True)
    loaded, paths = _load(model, device), []
    num_layers = loaded.config.get_text_config().num_hidden_layers
    chosen = list(layers) if layers is not None else list(range(num_layers))
    if any(not 0 <= layer < num_layers for layer in chosen):
        raise ValueError("the model has layers 0..%d" % (num_layers - 1))
    # Spread over the text.
    for i, start in enumerate(np.linspace(0, len(tokens) - window, windows).astype(int)):
        names = {layer: os.path.join(out, "%04d.layer%d.safetensors" % (i, layer)) for layer in chosen}
        paths += list(names.values())
        missing = {layer: path for layer, path in names.items() if not os.path.exists(path)}
        if missing:
            _sink = _Sink(missing, query_positions(window, queries, seed + i).to(device))
            try:
                with torch.no_grad():
                    ids = tokens[start:start + window].to(device)
                    loaded.model(input_ids=ids[None], use_cache=False)
            finally:
                _sink = None
        if any(not os.path.exists(path) for path in missing.values()):
            raise ValueError("%s does not go through transformers' AttentionInterface" % model)
        print("window %d of %d, %d layers" % (i + 1, windows, len(chosen)), file=sys.stderr)
    return paths
