# SPDX-License-Identifier: Apache-2.0
"""hattn.torch's decode, decode_counted and sum_values."""

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

Tensor = torch.Tensor
SCORES = {"hamming": abi.SCORE_HAMMING, "weighted": abi.SCORE_WEIGHTED}
_decode_calls, _decode_arguments = Calls(), Arguments("decode", abi.DecodeArgs)
_sum_values_calls, _sum_values_arguments = Calls(), Arguments("sum_values", abi.SumValuesArgs)


def _check_states(fields: dict[str, Any], seq_len: Tensor, value_sums: Tensor | None, value_lengths: Tensor | None,
                  value_slots: Tensor | None) -> None:
    """Those of values, which go to the fields of a problem."""
    heads, d, device = fields["num_kv_heads"], fields["head_dim_v"], seq_len.device
    expect("value_sums", value_sums, (None, heads, d), device, torch.int64)
    expect("value_lengths", value_lengths, (None, heads), device, torch.int32)
    expect("value_slots", value_slots, (seq_len.shape[0],), device, torch.int32, contiguous=True)
    for name, tensor in given(value_sums=value_sums, value_lengths=value_lengths).items():
        if value_slots is None and tensor.shape[0] < seq_len.shape[0]:
            raise InvalidArgument("%s have %d states, the batch has %d sequences" %
                                  (name, tensor.shape[0], seq_len.shape[0]))
        fields[name] = layout(tensor, scalar=name == "value_lengths")


# -- sum_values --------------------------------------------------------------------------------------------------------


def _plan_sum_values(v_cache: Tensor, seq_len: Tensor, tensors: Sequence[Tensor | None], rows: int) -> Plan:
    value_sums, value_lengths, value_slots, q_start, block_table = tensors
    expect("v_cache", v_cache, (None, None, None, None), v_cache.device)
    number = torch.float16 if v_cache.dtype.itemsize == 1 else v_cache.dtype
    q = v_cache.new_empty((rows, v_cache.shape[2], v_cache.shape[3]), dtype=number)  # not read
    fields = cache_fields(v_cache, v_cache, q, seq_len, q_start, block_table)
    _check_states(fields, seq_len, value_sums, value_lengths, value_slots)
    fields.update(k=1, code_bits=32, tail=1.0)
    return Plan(v_cache.device, fields)


def _sum_values_known(v_cache: Tensor, seq_len: Tensor, value_sums: Tensor, value_lengths: Tensor,
                      optional: Sequence[Tensor | None], rows: int | None) -> tuple[Any, list[Tensor], Call | None]:
    """As _decode_known."""
    value_slots, q_start, block_table = optional
    key = (rows, *[one is None for one in optional])
    tensors = [one for one in (q_start, seq_len, block_table, v_cache, value_slots, value_sums, value_lengths)
               if one is not None]
    return key, tensors, _sum_values_calls.find(key, tensors)


@torch.library.custom_op("hattn::sum_values", mutates_args=("value_sums", "value_lengths"))
def _sum_values(v_cache: Tensor, seq_len: Tensor, value_sums: Tensor, value_lengths: Tensor,
                value_slots: Tensor | None = None, rows: int | None = None, q_start: Tensor | None = None,
                block_table: Tensor | None = None) -> None:
    optional = (value_slots, q_start, block_table)
    key, tensors, call = _sum_values_known(v_cache, seq_len, value_sums, value_lengths, optional, rows)
    if call is None:
        rows = seq_len.shape[0] if rows is None else rows
        of_plan = (value_sums, value_lengths, *optional)
        plan_key = ("sum_values", form(v_cache), form(seq_len), *map(form, of_plan), rows)
        plan = plans.get(plan_key)
        if plan is None:
            plan = plans[plan_key] = _plan_sum_values(v_cache, seq_len, of_plan, rows)
        named = given(q_start=q_start, seq_len=seq_len, block_table=block_table, v_cache=v_cache,
                      value_slots=value_slots, value_sums=value_sums, value_lengths=value_lengths)
        call = _sum_values_calls.add(key, Call(plan, _sum_values_arguments, batch_of(rows, seq_len, q_start), named,
                                               {}))
    call.run(tensors)


@_sum_values.register_fake
def _(v_cache: Tensor, seq_len: Tensor, value_sums: Tensor, value_lengths: Tensor, *others: Any, **more: Any) -> None:
    return None


def sum_values(v_cache: Tensor, seq_len: Tensor, value_sums: Tensor, value_lengths: Tensor, *,
               value_slots: Tensor | None = None, rows: int | None = None, q_start: Tensor | None = None,
               block_table: Tensor | None = None) -> None:
    """Brings the sums of values that a tail needs to all tokens but those of the step, which has `rows` rows (one a
    sequence if not given): after a prefill, and before each step, so that steps do not read all values.

    value_sums int64 [states, Hkv, dv] and value_lengths int32 [states, Hkv] are 0 at first; sequence b has state
    value_slots[b], int32 [sequences], or b. Who drops tokens that were counted sets the state's value_lengths to 0.
    """
    if not is_compiling():
        _, tensors, call = _sum_values_known(v_cache, seq_len, value_sums, value_lengths,
                                             (value_slots, q_start, block_table), rows)
        if call is not None:
            call.run(tensors)
            return
    function = _sum_values._init_fn if eager(v_cache) else torch.ops.hattn.sum_values
    function(v_cache, seq_len, value_sums, value_lengths, value_slots, rows, q_start, block_table)


# -- decode ------------------------------------------------------------------------------------------------------------


def _plan_decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, codes: Tensor, query_map: Sequence[Tensor],
                 seq_len: Tensor, tensors: Sequence[Tensor | None], numbers: dict[str, Any]) -> Plan:
    block_table, q_start, norms, budgets, sink_logits, slopes, *states, head_slopes = tensors
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
    expect("head_slopes", head_slopes, (q.shape[1],), q.device, torch.float32)
    _check_features(numbers, slopes, states, head_slopes)
    _check_states(fields, seq_len, *states)
    for name, tensor in given(budgets=budgets, slopes=slopes, head_slopes=head_slopes).items():
        fields[name] = layout(tensor, scalar=True)
    plan = Plan(q.device, fields)
    heads = plan.problem.num_selection_heads
    expect("budgets", budgets, (seq_len.shape[0], heads), q.device)
    expect("slopes", slopes, (heads,), q.device)
    return plan


def _check_features(numbers: dict[str, Any], slopes: Tensor | None, states: Sequence[Tensor | None],
                    head_slopes: Tensor | None) -> None:
    """That what floors, tails and candidates read is given with them, and not without."""
    floor, tail, candidates = (numbers[name] for name in ("min_probability", "tail", "num_candidates"))
    for name, tensor, wanted, why in (
            ("slopes", slopes, tail or floor and not candidates, "a tail needs them, and a floor without candidates"),
            ("value_sums", states[0], tail, "a tail needs them"),
            ("value_lengths", states[1], tail, "a tail needs them"),
            ("head_slopes", head_slopes, candidates, "candidates need them")):
        if (tensor is None) == bool(wanted):
            raise InvalidArgument("min_probability is %g, tail is %g, num_candidates is %d, %s are %s: %s" % (
                floor, tail, candidates, name, "missing" if tensor is None else "given", why))
    if states[2] is not None and not tail:
        raise InvalidArgument("value_slots are given, tail is 0")


_DECODE_NUMBERS = ("k", "score_kind", "weight_bits", "num_sink", "num_recent", "num_selection_heads", "scale",
                   "soft_cap", "min_probability", "min_k", "tail", "num_candidates", "min_value_weight")


def _decode_call(q: Tensor, k_cache: Tensor, v_cache: Tensor, codes: Tensor, query_map: Sequence[Tensor],
                 seq_len: Tensor, optional: Sequence[Tensor | None], numbers: Sequence[Any], counted: bool) -> Call:
    block_table, q_start, norms, budgets, sink_logits, slopes, value_sums, value_lengths, value_slots, head_slopes = (
        optional)
    key = ("decode", form(q), form(k_cache), form(v_cache), form(codes), *map(form, query_map), form(seq_len),
           *map(form, optional), numbers)
    plan = plans.get(key)
    if plan is None:
        plan = plans[key] = _plan_decode(q, k_cache, v_cache, codes, query_map, seq_len, optional,
                                         dict(zip(_DECODE_NUMBERS, numbers, strict=True)))
    mapped = dict(zip(map_names("query_map", len(query_map)), map_tensors(list(query_map)), strict=True))
    tensors = given(q_start=q_start, seq_len=seq_len, block_table=block_table, q=q, k_cache=k_cache, v_cache=v_cache,
                     codes=codes, norms=norms, sink_logits=sink_logits, budgets=budgets) | mapped
    outputs = dict(out=shape_only(q, (q.shape[0], q.shape[1], v_cache.shape[3])))
    if counted:
        outputs["counts"] = shape_only(q, (q.shape[0], plan.problem.num_selection_heads), torch.int32)
    behind = given(slopes=slopes, value_sums=value_sums, value_lengths=value_lengths, value_slots=value_slots,
                   head_slopes=head_slopes)
    return Call(plan, _decode_arguments, batch_of(q.shape[0], seq_len, q_start), tensors, outputs, behind)


def _decode_known(q: Tensor, k_cache: Tensor, v_cache: Tensor, codes: Tensor, mapped: Sequence[Tensor],
                  seq_len: Tensor, optional: Sequence[Tensor | None], numbers: Sequence[Any],
                  counted: bool) -> tuple[Any, tuple[Tensor, ...], Call | None]:
    """The key of a call, its tensors in the struct's order, and the call if it was made before."""
    block_table, q_start, norms, budgets, sink_logits, slopes, sums, lengths, slots, head_slopes = optional
    key: Any
    # The usual, in half the time.
    if q_start is norms is budgets is sink_logits is slopes is sums is lengths is slots is head_slopes is None:
        paged = () if block_table is None else (block_table,)
        tensors: tuple[Tensor, ...] = (seq_len, *paged, q, k_cache, v_cache, codes, *mapped)
        key = (numbers, counted, len(mapped), block_table is None)
    else:
        all_of_them = (q_start, seq_len, block_table, q, k_cache, v_cache, codes, norms, sink_logits, budgets, *mapped,
                       slopes, sums, lengths, slots, head_slopes)
        tensors = tuple(one for one in all_of_them if one is not None)
        key = (numbers, counted, len(mapped), *[one is None for one in optional])
    return key, tensors, _decode_calls.find(key, tensors)


def _decode_function(counted: bool) -> Any:
    """Of the operator without counts and with them, which differ in what comes out."""
    def decode(q: Tensor, k_cache: Tensor, v_cache: Tensor, codes: Tensor, query_map: Sequence[Tensor],
               seq_len: Tensor, k: int, block_table: Tensor | None = None, q_start: Tensor | None = None,
               norms: Tensor | None = None, budgets: Tensor | None = None, sink_logits: Tensor | None = None,
               score_kind: int = abi.SCORE_HAMMING, weight_bits: int = 4, num_sink: int = 0, num_recent: int = 0,
               num_selection_heads: int = 0, scale: float = 0.0, soft_cap: float = 0.0, min_probability: float = 0.0,
               min_k: int = 0, slopes: Tensor | None = None, tail: float = 0.0, value_sums: Tensor | None = None,
               value_lengths: Tensor | None = None, value_slots: Tensor | None = None, num_candidates: int = 0,
               head_slopes: Tensor | None = None, min_value_weight: float = 0.0) -> Tensor:
        numbers = (k, score_kind, weight_bits, num_sink, num_recent, num_selection_heads, scale, soft_cap,
                   min_probability, min_k, tail, num_candidates, min_value_weight)
        optional = (block_table, q_start, norms, budgets, sink_logits, slopes, value_sums, value_lengths, value_slots,
                    head_slopes)
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
           slopes: Tensor | None = None, tail: float = 0.0, value_sums: Tensor | None = None,
           value_lengths: Tensor | None = None, value_slots: Tensor | None = None, num_candidates: int = 0,
           head_slopes: Tensor | None = None, min_value_weight: float = 0.0) -> Tensor:
    """One decode step: out [rows, Hq, dv] of q [rows, Hq, d] over the k best keys of each selection head.

    seq_len int32 [sequences]: keys of each, new tokens included, whose codes are there already (encode_keys).
    block_table int32 [sequences, pages]. q_start int32 [sequences + 1]: a sequence's rows; without it all have rows /
    sequences. norms float16 [pages, slots, Hc], budgets int32 [sequences, Hs], sink_logits float32 [Hq]. query_map:
    weight [Hc, d, bits], or a hattn.HashMap. score: "hamming" or "weighted". Zeros mean the usual; api/hattn.h has the
    definitions.

    min_probability: a floor of probability. Of the k best those are kept that have it, by slopes float32 [Hs] of the
    map (hattn.maps, `hattn calibrate`), and min_k in any case.

    tail: others count with their mean value, by this factor (0.5) what their scores promise, by slopes. States as in
    sum_values, which the caller calls before; values that it has not counted are read.

    num_candidates: of so many (4 k) by the group's summed weights, the estimates of each query head, by head_slopes
    float32 [Hq], decide together. Weighted scores only; a floor of theirs needs no slopes.

    min_value_weight: with a tail, V of kept tokens that weigh less is not read, and the mean value takes its place.
    """
    kind = SCORES[score]
    if not is_compiling():
        numbers = (k, kind, weight_bits, num_sink, num_recent, num_selection_heads, scale, soft_cap, min_probability,
                   min_k, tail, num_candidates, min_value_weight)
        optional = (block_table, q_start, norms, budgets, sink_logits, slopes, value_sums, value_lengths, value_slots,
                    head_slopes)
        _, tensors, call = _decode_known(q, k_cache, v_cache, codes, map_tensors(query_map), seq_len, optional, numbers,
                                         False)
        if call is not None:
            known: Tensor = call.run(tensors)
            return known
    function = _decode._init_fn if eager(q) else torch.ops.hattn.decode
    out: Tensor = function(q, k_cache, v_cache, codes, flat(query_map), seq_len, k, block_table, q_start, norms,
                           budgets, sink_logits, kind, weight_bits, num_sink, num_recent, num_selection_heads, scale,
                           soft_cap, min_probability, min_k, slopes, tail, value_sums, value_lengths, value_slots,
                           num_candidates, head_slopes, min_value_weight)
    return out


def decode_counted(q: Tensor, k_cache: Tensor, v_cache: Tensor, codes: Tensor, query_map: MapLike, seq_len: Tensor,
                   k: int, *, score: str = "hamming", **more: Any) -> tuple[Tensor, Tensor]:
    """decode's out, and counts int32 [rows, Hs]: how many keys each selection keeps. more: as decode's."""
    function = _decode_counted._init_fn if eager(q) else torch.ops.hattn.decode_counted
    out, counts = function(q, k_cache, v_cache, codes, flat(query_map), seq_len, k, score_kind=SCORES[score], **more)
    return out, counts


