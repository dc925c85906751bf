# SPDX-License-Identifier: Apache-2.0
"""Problems: shapes, dtypes, strides and maxima, out of numbers and of the arrays that will be used."""

from __future__ import annotations

import ctypes as C
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from hattn import abi
from hattn.arrays import DTYPES, PINNED, View, view
from hattn.library import InvalidArgument, Library, check, default_library, sized

# The dimensions of each tensor, as api/hattn.h names them: fields of the problem, or sizes of a run.
DIMS = {
    "q": ("rows", "num_q_heads", "head_dim_qk"),
    "k_new": ("tokens", "num_kv_heads", "head_dim_qk"),
    "k_cache": ("pages", "slots", "num_kv_heads", "head_dim_qk"),
    "v_cache": ("pages", "slots", "num_kv_heads", "head_dim_v"),
    "codes": ("pages", "slots", "num_code_heads", "words"),
    "norms": ("pages", "slots", "num_code_heads"),
    "weights": ("rows", "num_selection_heads", "code_bits"),
    "scores": ("rows", "num_selection_heads", "max_length"),
    "indices": ("rows", "num_selection_heads", "k"),
    "counts": ("rows", "num_selection_heads"),
    "out": ("rows", "num_q_heads", "head_dim_v"),
    "lse": ("rows", "num_q_heads"),
    "partial_out": ("parts", "rows", "num_q_heads", "head_dim_v"),
    "partial_lse": ("parts", "rows", "num_q_heads"),
    "block_table": ("sequences", "table_pages"),
    "budgets": ("sequences", "num_selection_heads"),
    "slopes": ("num_selection_heads",),
    "steps": ("rows", "num_selection_heads"),
    "shares": ("rows", "num_share_heads", "k"),
    "rests": ("rows", "num_share_heads"),
    "value_sums": ("states", "num_kv_heads", "head_dim_v"),
    "value_lengths": ("states", "num_kv_heads"),
    "head_weights": ("rows", "num_q_heads", "code_bits"),
    "head_slopes": ("num_q_heads",),
    "head_steps": ("rows", "num_q_heads"),
}
# Those of one number an index, which have a stride for each dimension; the others' last dimension is contiguous.
SCALAR = ("norms", "counts", "lse", "partial_lse", "budgets", "slopes", "steps", "rests", "value_lengths",
          "head_slopes", "head_steps")
# What a tensor's shape says of the problem where its field is not given.
_FROM_SHAPE = {"num_q_heads": (("q", 1), ("out", 1)), "head_dim_qk": (("q", 2), ("k_cache", 3), ("k_new", 2)),
               "num_kv_heads": (("k_cache", 2), ("k_new", 1)), "head_dim_v": (("v_cache", 3), ("out", 2)),
               "num_code_heads": (("codes", 2),)}
SAME_SIZE = {abi.U32: (abi.U32, abi.I32), abi.F8_E4M3: (abi.F8_E4M3, 0)}  # of torch: codes, shares; fp8 as bytes


@dataclass(frozen=True)
class Layout:
    """A tensor without memory. dtype: "float16" ...; strides in elements, of all dimensions but a contiguous last;
    without them compact, as api/hattn.h says. pinned: K or V in pinned memory of the host."""

    dtype: str
    strides: Sequence[int] = ()
    pinned: bool = False


@dataclass(frozen=True)
class HashMap:
    """One side's hash map. Linear: weight [Hc, d, bits], bias [Hc, bits] or None. MLP: three weights [Hc, in, out]
    and three biases [Hc, out], SiLU between."""

    weight: Any
    bias: Any = None

    @property
    def weights(self) -> tuple[Any, ...]:
        return tuple(self.weight) if isinstance(self.weight, (tuple, list)) else (self.weight,)

    @property
    def biases(self) -> tuple[Any, ...]:
        return tuple(self.bias) if isinstance(self.bias, (tuple, list)) else (self.bias,)


TensorLike = Any  # an array, a Layout, or the name of a dtype
MapLike = Any  # a HashMap, a weight without a bias, or the name of a dtype


class Fields(TypedDict, total=False):
    """Of hattn_problem, which api/hattn.h explains. What is left out means the usual."""

    num_q_heads: int
    num_kv_heads: int
    num_code_heads: int
    num_selection_heads: int
    head_dim_qk: int
    head_dim_v: int
    code_bits: int
    map_kind: int
    score_kind: int
    weight_bits: int
    key_norms: int
    page_size: int
    max_sequences: int
    max_rows: int
    max_q_len: int
    max_length: int
    k: int
    num_sink: int
    num_recent: int
    scale: float
    soft_cap: float
    per_head_kv_scales: int
    min_value_weight: float
    min_probability: float
    min_k: int
    tail: float
    num_candidates: int
    key_map: MapLike
    query_map: MapLike
    q: TensorLike
    k_new: TensorLike
    k_cache: TensorLike
    v_cache: TensorLike
    codes: TensorLike
    norms: TensorLike
    weights: TensorLike
    scores: TensorLike
    indices: TensorLike
    counts: TensorLike
    out: TensorLike
    lse: TensorLike
    partial_out: TensorLike
    partial_lse: TensorLike
    block_table: TensorLike
    budgets: TensorLike
    slopes: TensorLike
    steps: TensorLike
    shares: TensorLike
    rests: TensorLike
    value_sums: TensorLike
    value_lengths: TensorLike
    head_weights: TensorLike
    head_slopes: TensorLike
    head_steps: TensorLike


def dtype_number(name: str) -> int:
    if name not in DTYPES:
        raise InvalidArgument("%r is no dtype of hattn: %s" % (name, ", ".join(DTYPES)))
    return DTYPES[name]


def outer_strides(name: str, seen: View) -> tuple[int, ...]:
    """The strides that the library is told of tensor `name`; refuses what it could not be told."""
    if len(seen.shape) != len(DIMS[name]):
        raise InvalidArgument("%s has %d dimensions, not [%s]" % (name, len(seen.shape), ", ".join(DIMS[name])))
    if name in SCALAR:
        return seen.strides
    if seen.strides[-1] != 1 and seen.shape[-1] > 1:
        raise InvalidArgument("the last dimension of %s is not contiguous" % name)
    return seen.strides[:-1]


def _describe_tensor(tensor: abi.Tensor, name: str, given: TensorLike) -> View | None:
    """Fills in a tensor of the struct; what was seen of an array."""
    if isinstance(given, str):
        given = Layout(given)
    if isinstance(given, Layout):
        tensor.dtype, strides, seen = dtype_number(given.dtype), given.strides, None
        tensor.memory = abi.MEMORY_PINNED_HOST if given.pinned else abi.MEMORY_DEVICE
    else:
        seen = view(given)
        strides = outer_strides(name, seen)
        tensor.dtype = abi.F8_E4M3 if seen.dtype == 0 else abi.U32 if name in ("codes", "shares") else seen.dtype
        if name in ("k_cache", "v_cache") and seen.device[0] in PINNED:
            tensor.memory = abi.MEMORY_PINNED_HOST
    for i, stride in enumerate(strides):
        tensor.stride[i] = stride or abi.BROADCAST
    return seen


def _describe_map(struct: abi.Problem, side: str, given: MapLike) -> None:
    described = getattr(struct, side)
    if isinstance(given, str):
        described.dtype = dtype_number(given)
        return
    given = given if isinstance(given, HashMap) else HashMap(given)
    weights = [view(weight) for weight in given.weights]
    described.dtype = weights[0].dtype
    for i, weight in enumerate(weights):
        if len(weight.shape) != 3 or weight.strides[-1] != 1:
            raise InvalidArgument("%s is not [Hc, in, out] with a contiguous last dimension" % side)
        for j in range(2):
            described.weight_stride[i][j] = weight.strides[j] or abi.BROADCAST
    for i, bias in enumerate(given.biases):
        if bias is not None:
            described.bias_stride[i] = view(bias).strides[0] or abi.BROADCAST
    if len(weights) == 3:
        struct.map_kind = abi.MAP_MLP
        described.hidden[0], described.hidden[1] = weights[0].shape[2], weights[1].shape[2]
    struct.code_bits = struct.code_bits or weights[-1].shape[2]


class Problem:
    """What a plan is made for. Fields are those of hattn_problem; numbers are read back as attributes, completed.

    A tensor or a map is given as an array, from which dtype and strides are taken (dimensions in api/hattn.h's order:
    pass views of whatever your layout is), as a Layout, or as the name of a dtype, compact. Heads, head dimensions
    and code_bits are taken from arrays too. Tensors left out have the usual dtype and are compact.

    q [rows, Hq, d] · k_new [tokens, Hkv, d] · k_cache, v_cache [pages, page_size, Hkv, d] or, without page_size,
    [sequences, slots, Hkv, d] · codes [pages, slots, Hc, (code_bits + 31) / 32] of 32-bit words · out [rows, Hq, dv].
    """

    def __init__(self, fields: Fields | None = None, *, library: Library | None = None, **more: Any) -> None:
        library = library or default_library()
        given: dict[str, Any] = {**(fields or {}), **more}
        struct, views = sized(abi.Problem), {}
        known = {name for name, *_ in abi.Problem._fields_} - {"struct_size", "reserved"}
        for name, value in given.items():
            if name not in known:
                raise InvalidArgument("a problem has no field %s" % name)
            if name in DIMS:
                views[name] = _describe_tensor(getattr(struct, name), name, value)
            elif name not in ("key_map", "query_map"):
                setattr(struct, name, value)
        for side in ("key_map", "query_map"):
            if side in given:
                _describe_map(struct, side, given[side])
        for name, places in _FROM_SHAPE.items():
            shapes = [seen.shape[at] for tensor, at in places if (seen := views.get(tensor))]
            if shapes and not getattr(struct, name):
                setattr(struct, name, shapes[0])
        self.struct, error = sized(abi.Problem), abi.Error()
        check(library.hattn_problem_complete(C.byref(struct), C.byref(self.struct), C.byref(error)), error)

    def __getattr__(self, name: str) -> Any:
        if name == "struct":  # while __init__ has not set it
            raise AttributeError(name)
        return getattr(self.struct, name)

    @property
    def words(self) -> int:
        """32-bit words of a code."""
        bits: int = self.struct.code_bits
        return (bits + 31) // 32

    @property
    def num_share_heads(self) -> int:
        """Of shares and rests: query heads with candidates, else selections."""
        heads: int = self.struct.num_q_heads if self.struct.num_candidates else self.struct.num_selection_heads
        return heads

    def strides(self, name: str) -> tuple[int, ...]:
        """In elements, of all dimensions of tensor `name` but a contiguous last; 0 where it is broadcast."""
        count = len(DIMS[name]) - (name not in SCALAR)
        return tuple(0 if stride == abi.BROADCAST else stride for stride in getattr(self.struct, name).stride[:count])
