# SPDX-License-Identifier: Apache-2.0
"""hattn as torch operators, torch.ops.hattn.encode_keys, decode, decode_counted, sum_values and attend, on CPU and CUDA
tensors.

Caches are [pages, page_size, Hkv, d] with a block table, or [sequences, slots, Hkv, d] without. Views are as good as
copies, so that the caches of others are passed as they lie:

    vLLM              kv [2, pages, page_size, Hkv, d]: k = kv[0]
    FlashInfer, NHD   kv [pages, 2, page_size, Hkv, d]: k = kv[:, 0]
    FlashInfer, HND   kv [pages, 2, Hkv, page_size, d]: k = kv[:, 0].transpose(1, 2)
    transformers      k [sequences, Hkv, slots, d]: k.transpose(1, 2)

The functions check what can be checked without reading tensors; page numbers, slots and indices must be inside of
their tensors. On CUDA they enqueue on the current stream, and may be captured in a graph if the same call was made
once before. Graphs share one workspace a device: their replays must not overlap. There are no gradients.
"""

from collections.abc import Sequence
from typing import Any

import torch

from hattn import abi
from hattn.library import InvalidArgument
from hattn.problem import MapLike
from hattn.torch_decode import SCORES, decode, decode_counted, sum_values
from hattn.torch_plans import (
    Arguments,
    Call,
    Calls,
    Plan,
    batch_of,
    cache_fields,
    check_map,
    codes_fields,
    eager,
    expect,
    flat,
    form,
    given,
    is_compiling,
    layout,
    map_names,
    map_tensors,
    plans,
    shape_only,
)

__all__ = ["SCORES", "attend", "decode", "decode_counted", "encode_keys", "sum_values"]
Tensor = torch.Tensor
_encode_keys_calls, _encode_keys_arguments = Calls(), Arguments("encode_keys", abi.EncodeKeysArgs)
_attend_calls, _attend_arguments = Calls(), Arguments("attend", abi.AttendArgs)

# -- encode_keys -------------------------------------------------------------------------------------------------------


def _plan_encode_keys(k_new: Tensor, key_map: Sequence[Tensor], codes: Tensor, slot_mapping: Tensor | None,
                      norms: Tensor | None) -> Plan:
    device, tokens = k_new.device, k_new.shape[0]
    expect("k_new", k_new, (None, None, None), device)
    mapped = check_map("key_map", key_map, k_new.shape[2], device)
    expect("slot_mapping", slot_mapping, (tokens,), device, torch.int64, contiguous=True)
    expect("codes", codes, (None, None, None, None), device)
    if slot_mapping is None and tokens > codes.shape[0] * codes.shape[1]:
        raise InvalidArgument("%d tokens, but codes have room for %d" % (tokens, codes.shape[0] * codes.shape[1]))
    fields = dict(num_q_heads=max(k_new.shape[1], mapped.weights[0].shape[0]), num_kv_heads=k_new.shape[1],
                  num_selection_heads=mapped.weights[0].shape[0], head_dim_qk=k_new.shape[2], q=layout(k_new).dtype,
                  k_cache=layout(k_new).dtype, k_new=layout(k_new), max_sequences=1, max_length=codes.shape[1], k=1,
                  key_map=mapped, num_code_heads=mapped.weights[0].shape[0], code_bits=mapped.weights[-1].shape[2])
    codes_fields(fields, codes, norms, None)
    return Plan(device, fields)


def _encode_keys_call(k_new: Tensor, key_map: Sequence[Tensor], codes: Tensor, slot_mapping: Tensor | None,
                      norms: Tensor | None) -> Call:
    key = ("encode_keys", form(k_new), *map(form, key_map), form(codes), form(slot_mapping), form(norms))
    plan = plans.get(key)
    if plan is None:
        plan = plans[key] = _plan_encode_keys(k_new, key_map, codes, slot_mapping, norms)
    mapped = dict(zip(map_names("key_map", len(key_map)), map_tensors(list(key_map)), strict=True))
    tensors = dict(k_new=k_new) | mapped | given(slot_mapping=slot_mapping, codes=codes, norms=norms)
    return Call(plan, _encode_keys_arguments, dict(num_tokens=k_new.shape[0]), tensors, {})


@torch.library.custom_op("hattn::encode_keys", mutates_args=("codes", "norms"))
def _encode_keys(k_new: Tensor, key_map: Sequence[Tensor], codes: Tensor, slot_mapping: Tensor | None,
                 norms: Tensor | None) -> None:
    tensors = _encode_keys_tensors(k_new, map_tensors(list(key_map)), codes, slot_mapping, norms)
    key = (len(key_map), slot_mapping is None, norms is None)
    call = _encode_keys_calls.find(key, tensors)
    if call is None:
        call = _encode_keys_calls.add(key, _encode_keys_call(k_new, key_map, codes, slot_mapping, norms))
    call.run(tensors)


def _encode_keys_tensors(k_new: Tensor, mapped: Sequence[Tensor], codes: Tensor, slot_mapping: Tensor | None,
                         norms: Tensor | None) -> list[Tensor]:
    return [tensor for tensor in (k_new, *mapped, slot_mapping, codes, norms) if tensor is not None]


@_encode_keys.register_fake
def _(k_new: Tensor, key_map: Sequence[Tensor], codes: Tensor, slot_mapping: Tensor | None,
      norms: Tensor | None) -> None:
    return None


def encode_keys(k_new: Tensor, key_map: MapLike, codes: Tensor, slot_mapping: Tensor | None = None,
                norms: Tensor | None = None) -> None:
    """Writes the codes of k_new [tokens, Hkv, d] into codes int32 [pages or sequences, slots, Hc, words].

    key_map: weight [Hc, d, bits], or a hattn.HashMap. Token t goes to slot s = slot_mapping[t] (int64, negative: skip),
    or s = t: page s // slots, slot s % slots. norms: float16 [pages, slots, Hc], written too.
    """
    if not is_compiling():
        mapped = map_tensors(key_map)
        tensors = _encode_keys_tensors(k_new, mapped, codes, slot_mapping, norms)
        call = _encode_keys_calls.find((len(mapped), slot_mapping is None, norms is None), tensors)
        if call is not None:
            call.run(tensors)
            return
    function = _encode_keys._init_fn if eager(k_new) else torch.ops.hattn.encode_keys
    function(k_new, flat(key_map), codes, slot_mapping, norms)


# -- attend ------------------------------------------------------------------------------------------------------------


def _plan_attend(q: Tensor, k_cache: Tensor, v_cache: Tensor, seq_len: Tensor, tensors: Sequence[Tensor | None],
                 scale: float, soft_cap: float) -> Plan:
    block_table, q_start, indices, counts, sink_logits = tensors
    fields = cache_fields(k_cache, v_cache, q, seq_len, q_start, block_table)
    expect("sink_logits", sink_logits, (q.shape[1],), q.device, torch.float32, contiguous=True)
    fields.update(scale=scale, soft_cap=soft_cap, k=1, code_bits=32)
    if (indices is None) != (counts is None):
        raise InvalidArgument("indices and counts: both or none")
    if indices is not None and counts is not None:
        heads = indices.shape[1]
        expect("indices", indices, (q.shape[0], None, None), q.device, torch.int32)
        expect("counts", counts, (q.shape[0], heads), q.device, torch.int32)
        fields.update(k=indices.shape[2], num_selection_heads=heads, indices=layout(indices),
                      counts=layout(counts, scalar=True))
    return Plan(q.device, fields)


def _attend_call(q: Tensor, k_cache: Tensor, v_cache: Tensor, seq_len: Tensor, optional: Sequence[Tensor | None],
                 scale: float, soft_cap: float) -> Call:
    block_table, q_start, indices, counts, sink_logits = optional
    key = ("attend", form(q), form(k_cache), form(v_cache), form(seq_len), *map(form, optional), scale, soft_cap)
    plan = plans.get(key)
    if plan is None:
        plan = plans[key] = _plan_attend(q, k_cache, v_cache, seq_len, optional, scale, soft_cap)
    tensors = given(q_start=q_start, seq_len=seq_len, block_table=block_table, q=q, k_cache=k_cache, v_cache=v_cache,
                     sink_logits=sink_logits, indices=indices, counts=counts)
    outputs = dict(out=shape_only(q, (q.shape[0], q.shape[1], v_cache.shape[3])),
                   lse=shape_only(q, q.shape[:2], torch.float32))
    return Call(plan, _attend_arguments, batch_of(q.shape[0], seq_len, q_start), tensors, outputs)


def _attend_known(q: Tensor, k_cache: Tensor, v_cache: Tensor, seq_len: Tensor, optional: Sequence[Tensor | None],
                  scale: float, soft_cap: float) -> tuple[Any, list[Tensor], Call | None]:
    """The key of a call, its tensors in the struct's order, and the call if it was made before."""
    block_table, q_start, indices, counts, sink_logits = optional
    key = (scale, soft_cap, *[one is None for one in optional])
    tensors = [one for one in (q_start, seq_len, block_table, q, k_cache, v_cache, sink_logits, indices, counts)
               if one is not None]
    return key, tensors, _attend_calls.find(key, tensors)


@torch.library.custom_op("hattn::attend", mutates_args=())
def _attend(q: Tensor, k_cache: Tensor, v_cache: Tensor, seq_len: Tensor, block_table: Tensor | None = None,
            q_start: Tensor | None = None, indices: Tensor | None = None, counts: Tensor | None = None,
            sink_logits: Tensor | None = None, scale: float = 0.0, soft_cap: float = 0.0) -> tuple[Tensor, Tensor]:
    optional = (block_table, q_start, indices, counts, sink_logits)
    key, tensors, call = _attend_known(q, k_cache, v_cache, seq_len, optional, scale, soft_cap)
    if call is None:
        call = _attend_calls.add(key, _attend_call(q, k_cache, v_cache, seq_len, optional, scale, soft_cap))
    out, lse = call.run(tensors)
    return out, lse


@_attend.register_fake
def _(q: Tensor, k_cache: Tensor, v_cache: Tensor, *others: Any, **more: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty((q.shape[0], q.shape[1], v_cache.shape[3])), q.new_empty(q.shape[:2], dtype=torch.float32)


def attend(q: Tensor, k_cache: Tensor, v_cache: Tensor, seq_len: Tensor, *, block_table: Tensor | None = None,
           q_start: Tensor | None = None, indices: Tensor | None = None, counts: Tensor | None = None,
           sink_logits: Tensor | None = None, scale: float = 0.0,
           soft_cap: float = 0.0) -> tuple[Tensor, Tensor]:
    """out [rows, Hq, dv] and lse float32 [rows, Hq] of q [rows, Hq, d] over a selection, or over all keys: the dense
    attention of a decode step. indices int32 [rows, Hs, k], counts int32 [rows, Hs]. The rest is as in decode."""
    if not is_compiling():
        _, tensors, call = _attend_known(q, k_cache, v_cache, seq_len,
                                         (block_table, q_start, indices, counts, sink_logits), scale, soft_cap)
        if call is not None:
            found, logs = call.run(tensors)
            return found, logs
    function = _attend._init_fn if eager(q) else torch.ops.hattn.attend
    result: tuple[Tensor, Tensor] = function(q, k_cache, v_cache, seq_len, block_table, q_start, indices, counts,
                                             sink_logits, scale, soft_cap)
    return result
