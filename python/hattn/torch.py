# SPDX-License-Identifier: Apache-2.0
"""hattn as torch operators, torch.ops.hattn.encode_keys, decode and attend, on CPU and CUDA tensors.

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
from hattn.library import InvalidArgument, check
from hattn.problem import MapLike
from hattn.torch_plans import (
    Plan,
    address,
    cache_fields,
    check_map,
    codes_fields,
    expect,
    flat,
    form,
    layout,
    map_addresses,
    plans,
    run_function,
)

Tensor = torch.Tensor
SCORES = {"hamming": abi.SCORE_HAMMING, "weighted": abi.SCORE_WEIGHTED}
_run_encode_keys, _encode_keys_args = run_function("encode_keys", abi.EncodeKeysArgs)
_run_decode, _decode_args = run_function("decode", abi.DecodeArgs)
_run_attend, _attend_args = run_function("attend", abi.AttendArgs)


def _run(function: Any, plan: Plan, args: bytes) -> None:
    memory = plan.memory()
    status = function(plan.pointer, args, memory.address, memory.error_address)
    if status:
        check(status, memory.error)


def _eager(tensor: Tensor) -> bool:
    """Whether an operator's function may be called without torch's dispatcher, which costs more than all of it."""
    return (not torch.compiler.is_compiling() and type(tensor) is Tensor and not torch._C._len_torch_dispatch_stack()
            and not (tensor.requires_grad and torch.is_grad_enabled()))


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


@torch.library.custom_op("hattn::encode_keys", mutates_args=("codes", "norms"))
def _encode_keys(k_new: Tensor, key_map: Sequence[Tensor], codes: Tensor, slot_mapping: Tensor | None,
                 norms: Tensor | None) -> None:
    key = ("encode_keys", form(k_new), *map(form, key_map), form(codes), form(slot_mapping), form(norms))
    plan = plans.get(key)
    if plan is None:
        plan = plans[key] = _plan_encode_keys(k_new, key_map, codes, slot_mapping, norms)
    _run(_run_encode_keys, plan, _encode_keys_args.pack(
        _encode_keys_args.size, k_new.shape[0], k_new.data_ptr(), 0, *map_addresses(key_map), address(slot_mapping),
        codes.data_ptr(), address(norms)))


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
    function = _encode_keys._init_fn if _eager(k_new) else torch.ops.hattn.encode_keys
    function(k_new, flat(key_map), codes, slot_mapping, norms)


# -- decode ------------------------------------------------------------------------------------------------------------


def _plan_decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, codes: Tensor, query_map: Sequence[Tensor],
                 seq_len: Tensor, tensors: Sequence[Tensor | None], numbers: dict[str, Any]) -> Plan:
    block_table, q_start, norms, budgets, sink_logits = tensors
    fields = cache_fields(k_cache, v_cache, q, seq_len, q_start, block_table)
    mapped = check_map("query_map", query_map, q.shape[2], q.device)
    fields.update(numbers, query_map=mapped, num_code_heads=mapped.weights[0].shape[0],
                  code_bits=mapped.weights[-1].shape[2])
    codes_fields(fields, codes, norms, k_cache)
    for name, tensor in (("codes", codes), ("norms", norms)):
        if tensor is not None and tensor.device != q.device:
            raise InvalidArgument("%s are on %s, not %s" % (name, tensor.device, q.device))
    expect("sink_logits", sink_logits, (q.shape[1],), q.device, torch.float32, contiguous=True)
    expect("budgets", budgets, (seq_len.shape[0], None), q.device, torch.int32)
    if budgets is not None:
        fields["budgets"] = layout(budgets, scalar=True)
    plan = Plan(q.device, fields)
    expect("budgets", budgets, (seq_len.shape[0], plan.problem.num_selection_heads), q.device)
    return plan


@torch.library.custom_op("hattn::decode", mutates_args=())
def _decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, codes: Tensor, query_map: Sequence[Tensor], seq_len: Tensor,
            k: int, block_table: Tensor | None = None, q_start: Tensor | None = None,
            norms: Tensor | None = None, budgets: Tensor | None = None, sink_logits: Tensor | None = None,
            score_kind: int = abi.SCORE_HAMMING, weight_bits: int = 4, num_sink: int = 0, num_recent: int = 0,
            num_selection_heads: int = 0, scale: float = 0.0, soft_cap: float = 0.0) -> Tensor:
    numbers = (k, score_kind, weight_bits, num_sink, num_recent, num_selection_heads, scale, soft_cap)
    key = ("decode", form(q), form(k_cache), form(v_cache), form(codes), *map(form, query_map), form(seq_len),
           form(block_table), form(q_start), form(norms), form(budgets), form(sink_logits), numbers)
    plan = plans.get(key)
    if plan is None:
        names = ("k", "score_kind", "weight_bits", "num_sink", "num_recent", "num_selection_heads", "scale", "soft_cap")
        plan = plans[key] = _plan_decode(q, k_cache, v_cache, codes, query_map, seq_len,
                                         (block_table, q_start, norms, budgets, sink_logits),
                                         dict(zip(names, numbers, strict=True)))
    rows, sequences = q.shape[0], seq_len.shape[0]
    out = q.new_empty((rows, q.shape[1], v_cache.shape[3]))
    _run(_run_decode, plan, _decode_args.pack(
        _decode_args.size, 0, sequences, rows, rows // sequences if sequences and q_start is None else 0, 0,
        address(q_start), seq_len.data_ptr(), address(block_table), q.data_ptr(), k_cache.data_ptr(),
        v_cache.data_ptr(), codes.data_ptr(), address(norms), 0, 0, address(sink_logits), address(budgets),
        0, 0, 0, 0, 0, 0, *map_addresses(query_map), out.data_ptr(), 0, 0, 0, 0))
    return out


@_decode.register_fake
def _(q: Tensor, k_cache: Tensor, v_cache: Tensor, *others: Any, **more: Any) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[1], v_cache.shape[3]))


def decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, codes: Tensor, query_map: MapLike, seq_len: Tensor, k: int, *,
           block_table: Tensor | None = None, q_start: Tensor | None = None, norms: Tensor | None = None,
           budgets: Tensor | None = None, sink_logits: Tensor | None = None, score: str = "hamming",
           weight_bits: int = 4, num_sink: int = 0, num_recent: int = 0, num_selection_heads: int = 0,
           scale: float = 0.0, soft_cap: float = 0.0) -> Tensor:
    """One decode step: out [rows, Hq, dv] of q [rows, Hq, d] over the k best keys of each selection head.

    seq_len int32 [sequences]: keys of each, new tokens included, whose codes are there already (encode_keys).
    block_table int32 [sequences, pages]. q_start int32 [sequences + 1]: a sequence's rows; without it all have rows /
    sequences. norms float16 [pages, slots, Hc], budgets int32 [sequences, Hs], sink_logits float32 [Hq]. query_map:
    weight [Hc, d, bits], or a hattn.HashMap. score: "hamming" or "weighted". Zeros mean the usual; api/hattn.h has the
    definitions.
    """
    function = _decode._init_fn if _eager(q) else torch.ops.hattn.decode
    out: Tensor = function(q, k_cache, v_cache, codes, flat(query_map), seq_len, k, block_table, q_start, norms,
                           budgets, sink_logits, SCORES[score], weight_bits, num_sink, num_recent, num_selection_heads,
                           scale, soft_cap)
    return out


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


@torch.library.custom_op("hattn::attend", mutates_args=())
def _attend(q: Tensor, k_cache: Tensor, v_cache: Tensor, seq_len: Tensor, block_table: Tensor | None = None,
            q_start: Tensor | None = None, indices: Tensor | None = None, counts: Tensor | None = None,
            sink_logits: Tensor | None = None, scale: float = 0.0, soft_cap: float = 0.0) -> tuple[Tensor, Tensor]:
    key = ("attend", form(q), form(k_cache), form(v_cache), form(seq_len), form(block_table), form(q_start),
           form(indices), form(counts), form(sink_logits), scale, soft_cap)
    plan = plans.get(key)
    if plan is None:
        plan = plans[key] = _plan_attend(q, k_cache, v_cache, seq_len,
                                         (block_table, q_start, indices, counts, sink_logits), scale, soft_cap)
    rows, sequences = q.shape[0], seq_len.shape[0]
    out = q.new_empty((rows, q.shape[1], v_cache.shape[3]))
    lse = q.new_empty((rows, q.shape[1]), dtype=torch.float32)
    _run(_run_attend, plan, _attend_args.pack(
        _attend_args.size, 0, sequences, rows, rows // sequences if sequences and q_start is None else 0, 0,
        address(q_start), seq_len.data_ptr(), address(block_table), q.data_ptr(), k_cache.data_ptr(),
        v_cache.data_ptr(), 0, 0, address(sink_logits), address(indices), address(counts), out.data_ptr(),
        lse.data_ptr()))
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
    function = _attend._init_fn if _eager(q) else torch.ops.hattn.attend
    result: tuple[Tensor, Tensor] = function(q, k_cache, v_cache, seq_len, block_table, q_start, indices, counts,
                                             sink_logits, scale, soft_cap)
    return result
