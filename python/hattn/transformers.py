# SPDX-License-Identifier: Apache-2.0
"""hattn as an attention implementation of transformers: decode steps attend to the keys that codes select.

    model = AutoModelForCausalLM.from_pretrained(NAME, attn_implementation=hattn.transformers.NAME)
    cache = hattn.transformers.HashCache(model.config, "maps", budget=512)
    model.generate(**inputs, past_key_values=cache)

Prompts are attended to as by sdpa, and so are steps of layers without maps and of sequences no longer than the budget
(with a floor of probability: than the least that is kept).
Codes stand beside keys and values in the cache; padding, beams, cropping and offloading move all three. With a tail so
do sums of the values, which stay on the device.
"""

import os
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

import hattn.torch as ops
from hattn.maps.traces import OF_HEADS, LayerMap, files_by_layer, load_maps

Tensor = torch.Tensor
NAME = "hattn"


class _Padding:
    """What a mask says of a step, once for all its layers: where each sequence's keys are, as pages of one token."""

    def __init__(self) -> None:
        self.mask: Tensor | None = None
        self.capacity, self.table, self.lengths = -1, torch.empty(0), torch.empty(0)

    def of(self, mask: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
        """table int32 [sequences, capacity], lengths int32 [sequences] of a mask [sequences, 1, 1, keys]."""
        if mask is not self.mask or capacity != self.capacity:
            seen = mask[:, 0, -1] if mask.dtype == torch.bool else mask[:, 0, -1] >= 0
            order = torch.argsort(~seen, dim=1, stable=True).to(torch.int32)
            starts = torch.arange(len(seen), dtype=torch.int32, device=mask.device)[:, None] * capacity
            self.table = torch.zeros((len(seen), capacity), dtype=torch.int32, device=mask.device)
            self.table[:, :seen.shape[1]] = order + starts
            self.lengths, self.mask, self.capacity = seen.sum(1, dtype=torch.int32), mask, capacity
        return self.table, self.lengths


class _Step(NamedTuple):
    """What attention finds at the keys that it is given: an offloaded layer is on its way to the host by then."""

    layer: "HashLayer"
    keys: Tensor
    values: Tensor
    codes: Tensor | None


class HashLayer(DynamicLayer):
    """One layer's keys and values [sequences, capacity, Hkv, d] in memory that grows by doubling, and codes [Hc,
    sequences, capacity, words] where it has a map: a head's codes are neighbours."""

    def __init__(self, by: LayerMap | None, cache: "HashCache") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by, self.cache, self.length = by, cache, 0
        self.key_map: list[Tensor] = []
        self.query_map: list[Tensor] = []
        self.slopes: dict[str, Tensor] = {}
        self.codes_buffer: Tensor | None = None
        # What a tail needs: int64 [sequences, Hkv, dv], int32 [sequences, Hkv], and hidden int32 [sequences], as many
        # tokens of each were then padding; of tokens below `summed`.
        self.value_sums: Tensor | None = None
        self.value_lengths, self.hidden, self.summed = torch.empty(0), torch.empty(0), 0

    # transformers asks for these by name, [sequences, Hkv, length, d].
    @property
    def keys(self) -> Any:
        return self._view(self.key_buffer) if self.is_initialized else None

    @keys.setter
    def keys(self, value: Any) -> None:
        if value is not None:
            raise AttributeError("the keys of a HashLayer are changed by update, which encodes them")

    @property
    def values(self) -> Any:
        return self._view(self.value_buffer) if self.is_initialized else None

    @values.setter
    def values(self, value: Any) -> None:
        if value is not None:
            raise AttributeError("the values of a HashLayer are changed by update")

    def _view(self, buffer: Tensor) -> Tensor:
        return buffer[:, :self.length].transpose(1, 2)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        sequences, heads, _, d = key_states.shape
        self.key_buffer = key_states.new_empty((sequences, 0, heads, d))
        self.value_buffer = value_states.new_empty((sequences, 0, heads, value_states.shape[3]))
        if self.by is not None:
            if self.by.key[0].shape[0] % heads or self.by.key[0].shape[1] != d:
                raise ValueError("map %s is of %d heads and %d dimensions, the layer of %d and %d" %
                                 (self.by.name, *self.by.key[0].shape[:2], heads, d))
            self.key_map, self.query_map = ([x.to(self.device, self.dtype).contiguous() for x in flat]
                                            for flat in (self.by.key, self.by.query))
            self.slopes = {kind: slopes.to(self.device) for kind, slopes in self.by.slopes.items()}
            self.codes_buffer = torch.empty((self.by.key[0].shape[0], sequences, 0, (self.by.bits + 31) // 32),
                                            dtype=torch.int32, device=self.device)
        self.is_initialized = True

    def _grow(self, length: int) -> None:
        capacity = self.key_buffer.shape[1]
        if length <= capacity:
            return
        capacity = self.cache.capacity if length <= self.cache.capacity else max(length + 256, 2 * capacity)

        def grown(old: Tensor, dim: int) -> Tensor:
            new = old.new_zeros([capacity if i == dim else size for i, size in enumerate(old.shape)])
            new.narrow(dim, 0, self.length).copy_(old.narrow(dim, 0, self.length))
            return new

        self.key_buffer, self.value_buffer = grown(self.key_buffer, 1), grown(self.value_buffer, 1)
        if self.codes_buffer is not None:
            self.codes_buffer = grown(self.codes_buffer, 2)

    @property
    def codes(self) -> Tensor:
        """[sequences, capacity, Hc, words]"""
        assert self.codes_buffer is not None
        return self.codes_buffer.permute(1, 2, 0, 3)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        sequences, _, new, _ = key_states.shape
        start, end = self.length, self.length + new
        self._grow(end)
        self.key_buffer[:, start:end] = key_states.transpose(1, 2)
        self.value_buffer[:, start:end] = value_states.transpose(1, 2)
        self.length = end
        if self.codes_buffer is not None:
            fresh = self.key_buffer[:, start:end].reshape(sequences * new, *self.key_buffer.shape[2:])
            slots = self.cache.slots(sequences, start, new, self.key_buffer.shape[1], self.device)
            ops.encode_keys(fresh, self.key_map, self.codes, slots)
        keys, values = self.keys, self.values
        keys.hattn_step = _Step(self, self.key_buffer, self.value_buffer, self.codes_buffer)
        return keys, values

    def sum_values(self, values: Tensor, lengths: Tensor, table: Tensor | None) -> dict[str, Tensor]:
        """States of values, brought to all tokens but the step's. Where other tokens are padding than before, anew."""
        if self.value_sums is None:
            sequences, heads, d = len(lengths), values.shape[2], values.shape[3]
            self.value_sums = torch.zeros((sequences, heads, d), dtype=torch.int64, device=values.device)
            self.value_lengths = torch.zeros((sequences, heads), dtype=torch.int32, device=values.device)
            self.hidden = torch.zeros_like(lengths)
        hidden = self.length - lengths
        self.value_lengths.masked_fill_((hidden != self.hidden)[:, None], 0)
        self.hidden, self.summed = hidden, self.length - 1
        ops.sum_values(values, lengths, self.value_sums, self.value_lengths, block_table=table)
        return dict(value_sums=self.value_sums, value_lengths=self.value_lengths)

    def get_seq_length(self) -> int:
        return self.length

    def crop(self, tokens_to_remove: int) -> None:
        """Negative: so many of the last tokens; positive: all but so many of the first."""
        self._shorten(min(self.length, tokens_to_remove) if tokens_to_remove > 0 else self.length + tokens_to_remove)

    def reset(self) -> None:
        self._shorten(0)

    def _shorten(self, length: int) -> None:
        self.length = length
        if self.value_sums is not None and length < self.summed:
            self.value_lengths.zero_()
            self.summed = 0

    def _each_sequence(self, change: Any) -> None:
        """As _each, the sums of values too."""
        self._each(change)
        if self.value_sums is not None:
            self.value_sums, self.value_lengths, self.hidden = (
                change(state, 0) for state in (self.value_sums, self.value_lengths, self.hidden))

    def _each(self, change: Any) -> None:
        """change(buffer, its dimension of sequences) for all of them."""
        if self.is_initialized:
            self.key_buffer, self.value_buffer = change(self.key_buffer, 0), change(self.value_buffer, 0)
            if self.codes_buffer is not None:
                self.codes_buffer = change(self.codes_buffer, 1)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self._each_sequence(lambda buffer, dim: buffer.index_select(dim, indices.to(buffer.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._each_sequence(lambda buffer, dim: buffer.repeat_interleave(repeats, dim=dim))

    def offload(self) -> None:
        self._each(lambda buffer, dim: buffer.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        if self.is_initialized:
            self._each(lambda buffer, dim: buffer.to(self.device, non_blocking=True))


class HashCache(DynamicCache):
    """Keys, values and codes of a model. maps: a folder that hattn.maps wrote, or {layer: LayerMap}; layers that are
    not in it, and all below first_layer, stay dense. budget: keys that a selection head keeps, num_sink of the first
    and num_recent of the last among them. min_probability: with such a floor, by the slopes of the maps, the budget is
    the most; min_k are kept in any case (0: 64, or the budget). tail: keys that are not kept count with the mean of all
    values, by this factor (0.5) what their scores promise. num_candidates: of so many, 4 times the budget, scores of
    each query head decide, which are weighted ones. min_value_weight: with a tail, V of kept keys of less weight is not
    read. capacity: tokens to have room for from the start."""

    def __init__(self, config: Any, maps: str | os.PathLike[str] | dict[int, LayerMap], budget: int = 512,
                 num_sink: int = 0, num_recent: int = 0, first_layer: int = 0, capacity: int = 0,
                 offloading: bool = False, min_probability: float = 0.0, min_k: int = 0, tail: float = 0.0,
                 num_candidates: int = 0, min_value_weight: float = 0.0) -> None:
        super().__init__(config=config, offloading=offloading)
        if not isinstance(maps, dict):
            loaded = {layer: load_maps(paths[0]) for layer, paths in files_by_layer(os.fspath(maps)).items()}
            for layer, found in loaded.items():
                if len(found) != 1:
                    raise ValueError("%s has %d maps for layer %d, not one" % (maps, len(found), layer))
            maps = {layer: found[0] for layer, found in loaded.items()}
        if any(not 0 <= layer < len(self.layers) for layer in maps):
            raise ValueError("maps are of layers %s, the model has %d" % (sorted(maps), len(self.layers)))
        self.num_sink, self.num_recent, self.capacity = num_sink, num_recent, capacity
        self.counts: list[Tensor] | None = None  # where a list, each step of a layer with a map adds int32 [rows, Hs]
        self.padding, self._slots, self._lengths = _Padding(), (None, torch.empty(0)), (None, torch.empty(0))
        for i, plain in enumerate(self.layers):
            if type(plain) is DynamicLayer:  # sliding windows are short already
                self.layers[i] = HashLayer(maps.get(i) if i >= first_layer else None, self)
        self.select(budget, min_probability, min_k, tail, num_candidates, min_value_weight)

    def select(self, budget: int, min_probability: float = 0.0, min_k: int = 0, tail: float = 0.0,
               num_candidates: int = 0, min_value_weight: float = 0.0) -> None:
        """From now on, as the arguments of the cache say."""
        if min_value_weight and not tail:
            raise ValueError("min_value_weight is %g: without a tail there is no mean for values that are not read" %
                             min_value_weight)
        self.reads_slopes = bool(tail or min_probability and not num_candidates)
        if num_candidates and num_candidates < budget:  # refused here rather than in a step, and so are slopes
            raise ValueError("%d candidates are fewer than the %d keys to be kept" % (num_candidates, budget))
        for layer in self.layers:
            if isinstance(layer, HashLayer) and layer.by is not None:
                if num_candidates:
                    layer.by.head_slopes()
                if self.reads_slopes:
                    layer.by.slopes_of(layer.by.score_of(num_candidates))
        self.budget, self.min_probability, self.min_k = budget, min_probability, min_k
        self.tail, self.num_candidates, self.min_value_weight = tail, num_candidates, min_value_weight
        # Sequences no longer than this are attended to as they are.
        self.dense_length = min(min_k or 64, budget) if min_probability else budget

    def slots(self, sequences: int, start: int, new: int, capacity: int, device: torch.device) -> Tensor:
        """int64 [sequences * new], of tokens start..start+new of each sequence; the same for all layers of a pass."""
        key: Any = (sequences, start, new, capacity, device)
        if key != self._slots[0]:
            first = torch.arange(sequences, device=device)[:, None] * capacity
            self._slots = key, (first + torch.arange(start, start + new, device=device)).reshape(-1)
        return self._slots[1]

    def lengths(self, sequences: int, length: int, device: torch.device) -> Tensor:
        """int32 [sequences] of the same length, the same tensor for all layers of a step."""
        key: Any = (sequences, length, device)
        if key != self._lengths[0]:
            self._lengths = key, torch.full((sequences,), length, dtype=torch.int32, device=device)
        return self._lengths[1]


def _decode(step: _Step, query: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """[sequences, 1, Hq, d] of a query [sequences, Hq, 1, d]."""
    layer, k, v, codes = step
    cache, q, table = layer.cache, query[:, :, 0], None
    if mask is None:
        lengths = cache.lengths(q.shape[0], layer.length, q.device)
        codes = None if codes is None else codes.permute(1, 2, 0, 3)
    else:
        table, lengths = cache.padding.of(mask, k.shape[1])
        k, v = k.flatten(0, 1)[:, None], v.flatten(0, 1)[:, None]
        codes = None if codes is None else codes.flatten(1, 2).permute(1, 0, 2)[:, None]
    if codes is None or layer.length <= cache.dense_length or layer.by is None:
        if cache.counts is not None and codes is not None:
            cache.counts.append(lengths[:, None])
        return ops.attend(q, k, v, lengths, block_table=table, scale=scaling or 0.0)[0][:, None]
    heads = q.shape[1] if layer.by.per_query_head(k.shape[2]) else 0
    score = layer.by.score_of(cache.num_candidates)
    more: dict[str, Any] = dict(block_table=table, score=score, num_sink=cache.num_sink,
                                num_recent=cache.num_recent, num_selection_heads=heads, scale=scaling or 0.0)
    if cache.min_probability:
        more.update(min_probability=cache.min_probability, min_k=cache.min_k)
    if cache.reads_slopes:
        more.update(slopes=layer.slopes[score])
    if cache.tail:
        more.update(tail=cache.tail, min_value_weight=cache.min_value_weight, **layer.sum_values(v, lengths, table))
    if cache.num_candidates:
        more.update(num_candidates=cache.num_candidates, head_slopes=layer.slopes[OF_HEADS])
    if cache.counts is None:
        return ops.decode(q, k, v, codes, layer.query_map, lengths, cache.budget, **more)[:, None]
    out, counts = ops.decode_counted(q, k, v, codes, layer.query_map, lengths, cache.budget, **more)
    cache.counts.append(counts)
    return out[:, None]


def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
              scaling: float | None = None, dropout: float = 0.0, **more: Any) -> tuple[Tensor, Tensor | None]:
    """As transformers calls it. More than one token, and caches that are not HashCache's: sdpa."""
    step = getattr(key, "hattn_step", None)
    if step is None or query.shape[2] != 1:
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **more)
        return out, None
    return _decode(step, query, attention_mask, scaling), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

