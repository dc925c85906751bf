# SPDX-License-Identifier: Apache-2.0
"""hattn as torch operators, torch.ops.hattn.encode_keys, decode, decode_counted and attend, on CPU and CUDA tensors.

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

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from hattn import abi
from hattn.library import InvalidArgument
from hattn.problem import MapLike
from hattn.torch_plans import (
    Arguments,
    Call,
    Calls,
    Plan,
    cache_fields,
    check_map,
    codes_fields,
    expect,
    flat,
    form,
    layout,
    map_names,
    map_tensors,
    plain,
    plans,
    shape_only,
)

Tensor = torch.Tensor
SCORES = {"hamming": abi.SCORE_HAMMING, "weighted": abi.SCORE_WEIGHTED}
_encode_keys_calls, _encode_keys_arguments = Calls(), Arguments("encode_keys", abi.EncodeKeysArgs)
_decode_calls, _decode_arguments = Calls(), Arguments("decode", abi.DecodeArgs)
_attend_calls, _attend_arguments = Calls(), Arguments("attend", abi.AttendArgs)
_is_compiling = torch.compiler.is_compiling


def _eager(tensor: Tensor) -> bool:
    """Whether an operator's function may be called without torch's dispatcher."""
    return not _is_compiling() and plain(tensor)


def _given(**tensors: Tensor | None) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


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
    tensors = dict(k_new=k_new) | mapped | _given(slot_mapping=slot_mapping, codes=codes, norms=norms)
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
    if not _is_compiling():
        mapped = map_tensors(key_map)
        tensors = _encode_keys_tensors(k_new, mapped, codes, slot_mapping, norms)
        call = _encode_keys_calls.find((len(mapped), slot_mapping is None, norms is None), tensors)
        if call is not None:
            call.run(tensors)
            return
    function = _encode_keys._init_fn if _eager(k_new) else torch.ops.hattn.encode_keys
    function(k_new, flat(key_map), codes, slot_mapping, norms)


# -- decode ------------------------------------------------------------------------------------------------------------


def _plan_decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, codes: Tensor, query_map: Sequence[Tensor],
                 seq_len: Tensor, tensors: Sequence[Tensor | None], numbers: dict[str, Any]) -> Plan:
    block_table, q_start, norms, budgets, sink_logits, slopes = tensors
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
    expect("slopes", slopes, (None,), q.device, torch.float32)
    if (slopes is None) != (numbers["min_probability"] == 0):
        raise InvalidArgument("min_probability is %g, slopes are %s: a floor needs both" %
                              (numbers["min_probability"], "missing" if slopes is None else "given"))
    for name, tensor in _given(budgets=budgets, slopes=slopes).items():
        fields[name] = layout(tensor, scalar=True)
    plan = Plan(q.device, fields)
    heads = plan.problem.num_selection_heads
    expect("budgets", budgets, (seq_len.shape[0], heads), q.device)
    expect("slopes", slopes, (heads,), q.device)
    return plan


_DECODE_NUMBERS = ("k", "score_kind", "weight_bits", "num_sink", "num_recent", "num_selection_heads", "scale",
                   "soft_cap", "min_probability", "min_k")


def _decode_call(q: Tensor, k_cache: Tensor, v_cache: Tensor, codes: Tensor, query_map: Sequence[Tensor],
                 seq_len: Tensor, optional: Sequence[Tensor | None], numbers: Sequence[Any], counted: bool) -> Call:
    block_table, q_start, norms, budgets, sink_logits, slopes = optional
    key = ("decode", form(q), form(k_cache), form(v_cache), form(codes), *map(form, query_map), form(seq_len),
           *map(form, optional), numbers)
    plan = plans.get(key)
    if plan is None:
        plan = plans[key] = _plan_decode(q, k_cache, v_cache, codes, query_map, seq_len, optional,
                                         dict(zip(_DECODE_NUMBERS, numbers, strict=True)))
    mapped = dict(zip(map_names("query_map", len(query_map)), map_tensors(list(query_map)), strict=True))
    tensors = _given(q_start=q_start, seq_len=seq_len, block_table=block_table, q=q, k_cache=k_cache, v_cache=v_cache,
                     codes=codes, norms=norms, sink_logits=sink_logits, budgets=budgets) | mapped
    outputs = dict(out=shape_only(q, (q.shape[0], q.shape[1], v_cache.shape[3])))
    if counted:
        outputs["counts"] = shape_only(q, (q.shape[0], plan.problem.num_selection_heads), torch.int32)
    return Call(plan, _decode_arguments, _batch(q, seq_len, q_start), tensors, outputs, _given(slopes=slopes))


def _batch(q: Tensor, seq_len: Tensor, q_start: Tensor | None) -> dict[str, int]:
    rows, sequences = q.shape[0], seq_len.shape[0]
    return dict(num_sequences=sequences, num_rows=rows,
                q_len=rows // sequences if sequences and q_start is None else 0)


def _decode_known(q: Tensor, k_cache: Tensor, v_cache: Tensor, codes: Tensor, mapped: Sequence[Tensor],
                  seq_len: Tensor, optional: Sequence[Tensor | None], numbers: Sequence[Any],
                  counted: bool) -> tuple[Any, tuple[Tensor, ...], Call | None]:
    """The key of a call, its tensors in the struct's order, and the call if it was made before."""
    block_table, q_start, norms, budgets, sink_logits, slopes = optional
    key = (numbers, counted, len(mapped), block_table is None, q_start is None, norms is None, budgets is None,
           sink_logits is None, slopes is None)
    if q_start is norms is budgets is sink_logits is slopes is None:  # the usual, in half the time
        paged = () if block_table is None else (block_table,)
        tensors: tuple[Tensor, ...] = (seq_len, *paged, q, k_cache, v_cache, codes, *mapped)
    else:
        all_of_them = (q_start, seq_len, block_table, q, k_cache, v_cache, codes, norms, sink_logits, budgets, *mapped,
                       slopes)
        tensors = tuple(one for one in all_of_them if one is not None)
    return key, tensors, _decode_calls.find(key, tensors)


def _decode_function(counted: bool) -> Any:
    """Of the operator without counts and with them, which differ in what comes out."""
    def decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, codes: Tensor, query_map: Sequence[Tensor],
               seq_len: Tensor, k: int, block_table: Tensor | None = None, q_start: Tensor | None = None,
               norms: Tensor | None = None, budgets: Tensor | None = None, sink_logits: Tensor | None = None,
               score_kind: int = abi.SCORE_HAMMING, weight_bits: int = 4, num_sink: int = 0, num_recent: int = 0,
               num_selection_heads: int = 0, scale: float = 0.0, soft_cap: float = 0.0, min_probability: float = 0.0,
               min_k: int = 0, slopes: Tensor | None = None) -> Tensor:
        numbers = (k, score_kind, weight_bits, num_sink, num_recent, num_selection_heads, scale, soft_cap,
                   min_probability, min_k)
        optional = (block_table, q_start, norms, budgets, sink_logits, slopes)
        key, tensors, call = _decode_known(q, k_cache, v_cache, codes, map_tensors(list(query_map)), seq_len,
                                           optional, numbers, counted)
        if call is None:
            call = _decode_call(q, k_cache, v_cache, codes, query_map, seq_len, optional, numbers, counted)
            _decode_calls.add(key, call)
        out: Tensor = call.run(tensors)  # and counts
        return out
    return decode


_decode = torch.library.custom_op("hattn::decode", _decode_function(False), mutates_args=())
_decode_counted = torch.library.custom_op(
    "hattn::decode_counted", _decode_function(True), mutates_args=(),
    schema=torch.library.infer_schema(_decode._init_fn, mutates_args=()).replace("-> Tensor", "-> (Tensor, Tensor)"))


def _fake_decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, *others: Any, **more: Any) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[1], v_cache.shape[3]))


def _fake_decode_counted(q: Tensor, k_cache: Tensor, v_cache: Tensor, *others: Any,
                         **more: Any) -> tuple[Tensor, Tensor]:
    given = inspect.signature(_decode._init_fn).bind(q, k_cache, v_cache, *others, **more).arguments
    heads = given.get("num_selection_heads") or k_cache.shape[2]
    return _fake_decode(q, k_cache, v_cache), q.new_empty((q.shape[0], heads), dtype=torch.int32)


_decode.register_fake(_fake_decode)
_decode_counted.register_fake(_fake_decode_counted)


def decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, codes: Tensor, query_map: MapLike, seq_len: Tensor, k: int, *,
           block_table: Tensor | None = None, q_start: Tensor | None = None, norms: Tensor | None = None,
           budgets: Tensor | None = None, sink_logits: Tensor | None = None, score: str = "hamming",
           weight_bits: int = 4, num_sink: int = 0, num_recent: int = 0, num_selection_heads: int = 0,
           scale: float = 0.0, soft_cap: float = 0.0, min_probability: float = 0.0, min_k: int = 0,
           slopes: Tensor | None = None) -> Tensor:
    """One decode step: out [rows, Hq, dv] of q [rows, Hq, d] over the k best keys of each selection head.

    seq_len int32 [sequences]: keys of each, new tokens included, whose codes are there already (encode_keys).
    block_table int32 [sequences, pages]. q_start int32 [sequences + 1]: a sequence's rows; without it all have rows /
    sequences. norms float16 [pages, slots, Hc], budgets int32 [sequences, Hs], sink_logits float32 [Hq]. query_map:
    weight [Hc, d, bits], or a hattn.HashMap. score: "hamming" or "weighted". Zeros mean the usual; api/hattn.h has the
    definitions.

    min_probability: a floor of probability. Of the k best those are kept that have it, by slopes float32 [Hs] of the
    map (hattn.maps, `hattn calibrate`), and min_k in any case.
    """
    kind = SCORES[score]
    if not _is_compiling():
        numbers = (k, kind, weight_bits, num_sink, num_recent, num_selection_heads, scale, soft_cap, min_probability,
                   min_k)
        _, tensors, call = _decode_known(q, k_cache, v_cache, codes, map_tensors(query_map), seq_len,
                                         (block_table, q_start, norms, budgets, sink_logits, slopes), numbers, False)
        if call is not None:
            known: Tensor = call.run(tensors)
            return known
    function = _decode._init_fn if _eager(q) else torch.ops.hattn.decode
    out: Tensor = function(q, k_cache, v_cache, codes, flat(query_map), seq_len, k, block_table, q_start, norms,
                           budgets, sink_logits, kind, weight_bits, num_sink, num_recent, num_selection_heads, scale,
                           soft_cap, min_probability, min_k, slopes)
    return out


def decode_counted(q: Tensor, k_cache: Tensor, v_cache: Tensor, codes: Tensor, query_map: MapLike, seq_len: Tensor,
                   k: int, *, score: str = "hamming", **more: Any) -> tuple[Tensor, Tensor]:
    """decode's out, and counts int32 [rows, Hs]: how many keys each selection keeps. more: as decode's."""
    function = _decode_counted._init_fn if _eager(q) else torch.ops.hattn.decode_counted
    out, counts = function(q, k_cache, v_cache, codes, flat(query_map), seq_len, k, score_kind=SCORES[score], **more)
    return out, counts


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
    tensors = _given(q_start=q_start, seq_len=seq_len, block_table=block_table, q=q, k_cache=k_cache, v_cache=v_cache,
                     sink_logits=sink_logits, indices=indices, counts=counts)
    outputs = dict(out=shape_only(q, (q.shape[0], q.shape[1], v_cache.shape[3])),
                   lse=shape_only(q, q.shape[:2], torch.float32))
    return Call(plan, _attend_arguments, _batch(q, seq_len, q_start), tensors, outputs)


def _attend_known(q: Tensor, k_cache: Tensor, v_cache: Tensor, seq_len: Tensor, optional: Sequence[Tensor | None],
                  scale: float, soft_cap: float) -> tuple[Any, list[Tensor], Call | None]:
    """As _decode_known."""
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
    if not _is_compiling():
        _, tensors, call = _attend_known(q, k_cache, v_cache, seq_len,
                                         (block_table, q_start, indices, counts, sink_logits), scale, soft_cap)
        if call is not None:
            found, logs = call.run(tensors)
            return found, logs
    function = _attend._init_fn if _eager(q) else torch.ops.hattn.attend
    result: tuple[Tensor, Tensor] = function(q, k_cache, v_cache, seq_len, block_table, q_start, indices, counts,
                                             sink_logits, scale, soft_cap)
    return result
