# SPDX-License-Identifier: Apache-2.0
"""Devices and plans: the library's calls over arrays."""

from __future__ import annotations

import ctypes as C
import mmap
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from hattn import abi
from hattn.arrays import HOST, NAMES, PINNED, SIZES, numpy_dtype, view
from hattn.library import InvalidArgument, Library, check, default_library, sized
from hattn.problem import DIMS, SAME_SIZE, HashMap, MapLike, Problem, outer_strides

Array = Any  # numpy's, or one with __dlpack__, in the device's memory
_HUGE_PAGE = 2 << 20
# Arrays that are no tensors of the problem: their dtype.
_PLAIN = {"q_start": abi.I32, "seq_len": abi.I32, "slot_mapping": abi.I64, "k_scale": abi.F32, "v_scale": abi.F32,
          "sink_logits": abi.F32, "value_slots": abi.I32}


def aligned(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """`size` bytes of zeros that start at a huge page. The mapping lives as long as the array."""
    size_up = (size + _HUGE_PAGE - 1) // _HUGE_PAGE * _HUGE_PAGE
    mapping = mmap.mmap(-1, size_up + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(mapping, np.uint8)
    start = -whole.ctypes.data % _HUGE_PAGE
    return whole[start:start + size]


class Device:
    """A device of a backend ("cpu", "cuda", "reference"; None: $HATTN_BACKEND, else the best that has a device).

    max_threads: the most of a run on the CPU, 0: all that the process may use. isa: nothing above it on the CPU.
    Closed when the last plan and reference are gone, or by close(), before which its plans must be destroyed.
    """

    def __init__(self, backend: str | None = None, index: int = 0, *, max_threads: int = 0, isa: str | None = None,
                 library: Library | None = None) -> None:
        self.library = library or default_library()
        self.handle, error = C.c_void_p(), abi.Error()
        options, info = sized(abi.DeviceOptions), sized(abi.DeviceInfo)
        options.backend, options.index = backend and backend.encode(), index
        options.isa, options.max_threads = isa and isa.encode(), max_threads
        check(self.library.hattn_device_open(C.byref(options), C.byref(self.handle), C.byref(error)), error)
        self.close = weakref.finalize(self, self.library.hattn_device_close, self.handle)
        check(self.library.hattn_device_query(self.handle, C.byref(info), C.byref(error)), error)
        self.backend, self.name, self.isa = (text.decode() for text in (info.backend, info.name, info.isa))
        self.max_threads: int = info.max_threads
        self.on_host = self.backend in ("cpu", "reference")

    def plan(self, problem: Problem | None = None, **fields: Any) -> Plan:
        """A plan of the problem, or of Problem(**fields)."""
        return Plan(self, problem or Problem(library=self.library, **fields))


class Plan:
    """A plan with a workspace of its own. Made once for a problem, run as often as you like.

    The runs below take arrays in the device's memory whose dimensions stand in Problem, and check what can be checked
    without reading them: dimensions, dtypes, and that strides are the problem's. What arrays hold is not looked at:
    page numbers, slots and indices must be inside of their arrays. Outputs that are not given are made where the
    device's memory is the host's. On a CPU a run has ended when it returns, on a GPU it is enqueued on `stream`.

    allocate(bytes): an array in the device's memory, aligned to 256 bytes; where that is the host's it may be left
    out. stream: a cudaStream_t as an integer, or None. num_threads: the most of a run on the CPU, 0: the device's.
    Threads that run the same plan do so one after the other; runs at once need a plan each.
    """

    def __init__(self, device: Device, problem: Problem, allocate: Callable[[int], Array] | None = None,
                 stream: int | None = None, num_threads: int = 0) -> None:
        if allocate is None and not device.on_host:
            raise InvalidArgument("a plan on %s needs allocate: workspaces lie in its memory" % device.backend)
        self.device, self.problem, self._lock = device, problem, threading.Lock()
        library, self._error = device.library, abi.Error()
        self._handle, error = C.c_void_p(), self._error
        check(library.hattn_plan_create(device.handle, C.byref(problem.struct), C.byref(self._handle),
                                        C.byref(error)), error)
        # The device, which the finalizer knows of, outlives the plan.
        self._destroy = weakref.finalize(self, lambda handle, of: of.library.hattn_plan_destroy(handle), self._handle,
                                         device)
        self.workspace_size: int = library.hattn_plan_workspace_size(self._handle)
        self.workspace = (allocate or aligned)(self.workspace_size)
        self._exec = sized(abi.Exec)
        self._exec.workspace.data, self._exec.workspace_size = view(self.workspace).address, self.workspace_size
        self._exec.stream, self._exec.num_threads = stream, num_threads
        check(library.hattn_workspace_init(device.handle, self._exec.workspace, self.workspace_size, stream,
                                           C.byref(error)), error)

    def destroy(self) -> None:
        """Now, rather than with the last reference. A GPU's work of the plan must be finished."""
        self._destroy()

    def run(self, name: str, args: C.Structure, stream: int | None = None) -> None:
        """hattn_`name` with arguments as the library takes them; on `stream` rather than the plan's."""
        function = getattr(self.device.library, "hattn_" + name)
        with self._lock:
            if stream is not None:
                self._exec.stream = stream
            status = function(self._handle, args, self._exec, self._error)
            if status:
                check(status, self._error)

    def empty(self, name: str, **sizes: int) -> np.ndarray[Any, Any]:
        """A host array for tensor `name`, laid out as the plan's. sizes: what the problem does not know of its
        dimensions, rows=..., pages=... ."""
        shape = tuple(sizes[dim] if dim in sizes else getattr(self.problem, dim) for dim in DIMS[name])
        strides = self.problem.strides(name) + (() if len(self.problem.strides(name)) == len(shape) else (1,))
        dtype = numpy_dtype(getattr(self.problem, name).dtype)
        last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        flat = np.zeros(last + 1 if all(shape) else 0, dtype)
        return np.lib.stride_tricks.as_strided(flat, shape, [stride * dtype.itemsize for stride in strides])

    # -- runs ----------------------------------------------------------------------------------------------------

    def encode_keys(self, k_new: Array, key_map: MapLike, codes: Array, *, slot_mapping: Array | None = None,
                    norms: Array | None = None, k_scale: Array | None = None) -> None:
        """Writes the codes (and norms) of k_new [tokens, Hkv, d] into the slots int64 [tokens], negative: skip; token t
        into slot t without. Slot s is page s / page_size, slot s % page_size (sequence and position in max_length
        without pages)."""
        run = _Run(self, tokens=view(k_new).shape[0])
        args = sized(abi.EncodeKeysArgs)
        args.num_tokens, args.key_map = run.sizes["tokens"], run.map("key_map", key_map)
        if slot_mapping is None:
            run.sizes["first_slots"] = run.sizes["tokens"]
        run.fill(args, k_new=k_new, k_scale=k_scale, slot_mapping=slot_mapping)
        run.fill(args, output=True, codes=codes, norms=norms)
        self.run("encode_keys", args)

    def encode_queries(self, q: Array, query_map: MapLike, weights: Array | None = None, *,
                       slopes: Array | None = None, steps: Array | None = None, head_slopes: Array | None = None,
                       head_weights: Array | None = None, head_steps: Array | None = None) -> Array:
        """q [rows, Hq, d] -> weights int8 [rows, Hs, code_bits]. With a floor of probability or a tail slopes float32
        [Hs] are read and steps int32 [rows, Hs] written, for topk. With candidates also, for each query head,
        head_slopes float32 [Hq] read and head_weights int8 [rows, Hq, code_bits] and head_steps int32 [rows, Hq]
        written; slopes and steps are then a tail's alone."""
        run = _Run(self, rows=view(q).shape[0])
        args = sized(abi.EncodeQueriesArgs)
        args.num_rows, args.query_map = run.sizes["rows"], run.map("query_map", query_map)
        run.fill(args, q=q, slopes=slopes, head_slopes=head_slopes)
        run.fill(args, output=True, steps=steps, head_weights=head_weights, head_steps=head_steps)
        weights = run.output(args, "weights", weights)
        self.run("encode_queries", args)
        return weights

    def score(self, weights: Array, codes: Array, seq_len: Array, *, norms: Array | None = None,
              q_start: Array | None = None, block_table: Array | None = None, scores: Array | None = None) -> Array:
        """scores uint16 (float32 with norms) [rows, Hs, max_length], those below each row's length."""
        run = _Run(self, rows=view(weights).shape[0])
        args = sized(abi.ScoreArgs)
        args.batch = run.batch(seq_len, q_start, block_table)
        run.fill(args, weights=weights, codes=codes, norms=norms)
        scores = run.output(args, "scores", scores)
        self.run("score", args)
        return scores

    def topk(self, scores: Array, seq_len: Array, *, budgets: Array | None = None, q_start: Array | None = None,
             steps: Array | None = None, indices: Array | None = None, counts: Array | None = None,
             shares: Array | None = None, rests: Array | None = None, codes: Array | None = None,
             head_weights: Array | None = None, head_steps: Array | None = None,
             block_table: Array | None = None) -> tuple[Array, Array]:
        """indices int32 [rows, Hs, k], ascending, -1 from counts int32 [rows, Hs] on. budgets int32 [sequences, Hs].
        steps: of encode_queries, with a floor of probability or a tail. With a tail shares uint32 [rows, Hs, k] and
        rests int64 [rows, Hs] are written, for attend. With candidates codes, with pages block_table, and head_weights
        and head_steps of encode_queries are read, and shares and rests are [rows, Hq, ...]."""
        run = _Run(self, rows=view(scores).shape[0])
        args = sized(abi.TopkArgs)
        args.batch = run.batch(seq_len, q_start, block_table, pages=self.problem.num_candidates > 0)
        run.fill(args, scores=scores, budgets=budgets, steps=steps, codes=codes, head_weights=head_weights,
                 head_steps=head_steps)
        run.fill(args, output=True, shares=shares, rests=rests)
        indices, counts = run.output(args, "indices", indices), run.output(args, "counts", counts)
        self.run("topk", args)
        return indices, counts

    def attend(self, q: Array, k_cache: Array, v_cache: Array, seq_len: Array, *, indices: Array | None = None,
               counts: Array | None = None, q_start: Array | None = None, block_table: Array | None = None,
               k_scale: Array | None = None, v_scale: Array | None = None, sink_logits: Array | None = None,
               out: Array | None = None, lse: Array | None = None, shares: Array | None = None,
               rests: Array | None = None, value_sums: Array | None = None, value_lengths: Array | None = None,
               value_slots: Array | None = None) -> Array:
        """out [rows, Hq, dv]: softmax attention over the selection, or over all keys without indices. lse: float32
        [rows, Hq], natural logarithms, written if given. sink_logits float32 [Hq]; k_scale, v_scale float32, of fp8
        caches. With a tail, if shares and rests of topk are given, those not selected count with their mean value, by
        the sums of sum_values."""
        run = _Run(self, rows=view(q).shape[0])
        args = sized(abi.AttendArgs)
        args.batch = run.batch(seq_len, q_start, block_table)
        run.fill(args, q=q, k_cache=k_cache, v_cache=v_cache, k_scale=k_scale, v_scale=v_scale,
                 sink_logits=sink_logits, indices=indices, counts=counts, shares=shares, rests=rests)
        run.values(args, value_sums, value_lengths, value_slots, output=False)
        run.fill(args, output=True, lse=lse)
        out = run.output(args, "out", out)
        self.run("attend", args)
        return out

    def merge(self, partial_out: Array, partial_lse: Array, *, out: Array | None = None,
              lse: Array | None = None) -> Array:
        """Joins float32 [parts, rows, Hq, dv] and [parts, rows, Hq], attention over disjoint parts of the keys."""
        parts, rows = view(partial_out).shape[:2]
        run = _Run(self, parts=parts, rows=rows)
        args = sized(abi.MergeArgs)
        args.num_parts, args.num_rows = parts, rows
        run.fill(args, partial_out=partial_out, partial_lse=partial_lse)
        run.fill(args, output=True, lse=lse)
        out = run.output(args, "out", out)
        self.run("merge", args)
        return out

    def sum_values(self, v_cache: Array, seq_len: Array, value_sums: Array, value_lengths: Array, *,
                   value_slots: Array | None = None, rows: int | None = None, q_start: Array | None = None,
                   block_table: Array | None = None) -> None:
        """With a tail: brings value_sums int64 [states, Hkv, dv] and value_lengths int32 [states, Hkv], zeros at first,
        to all tokens but those of the step, which has `rows` rows, one a sequence if not given; after prefill, and
        before each step that is not decode's with key_map. Sequence b has state value_slots[b], int32 [sequences],
        or b."""
        run = _Run(self, rows=view(seq_len).shape[0] if rows is None else rows)
        args = sized(abi.SumValuesArgs)
        args.batch = run.batch(seq_len, q_start, block_table)
        run.fill(args, v_cache=v_cache)
        run.values(args, value_sums, value_lengths, value_slots, output=True)
        self.run("sum_values", args)

    def decode(self, q: Array, k_cache: Array, v_cache: Array, codes: Array, query_map: MapLike, seq_len: Array, *,
               key_map: MapLike | None = None, norms: Array | None = None, budgets: Array | None = None,
               q_start: Array | None = None, block_table: Array | None = None, k_scale: Array | None = None,
               v_scale: Array | None = None, sink_logits: Array | None = None, out: Array | None = None,
               lse: Array | None = None, weights: Array | None = None, indices: Array | None = None,
               counts: Array | None = None, slopes: Array | None = None, steps: Array | None = None,
               value_sums: Array | None = None, value_lengths: Array | None = None,
               value_slots: Array | None = None, head_slopes: Array | None = None,
               head_weights: Array | None = None, head_steps: Array | None = None) -> Array:
        """One step: out [rows, Hq, dv] of q [rows, Hq, d] over the keys that codes select. seq_len int32 [sequences],
        new tokens included. With key_map the rows' own keys, which must be in k_cache, are encoded into codes first.
        lse, weights, indices, counts, steps, head_weights and head_steps are written if given; slopes float32 [Hs] are
        read with a floor of probability or a tail, head_slopes float32 [Hq] with candidates, whose floors read no
        slopes. With a tail value_sums, value_lengths and value_slots are as in sum_values, which decode
        with key_map does itself."""
        run = _Run(self, rows=view(q).shape[0])
        args = sized(abi.DecodeArgs)
        args.batch, args.query_map = run.batch(seq_len, q_start, block_table), run.map("query_map", query_map)
        if key_map is not None:
            args.append, args.key_map = 1, run.map("key_map", key_map)
        run.fill(args, q=q, k_cache=k_cache, v_cache=v_cache, k_scale=k_scale, v_scale=v_scale,
                 sink_logits=sink_logits, budgets=budgets, slopes=slopes, head_slopes=head_slopes)
        run.fill(args, output=key_map is not None, codes=codes, norms=norms)
        run.values(args, value_sums, value_lengths, value_slots, output=key_map is not None)
        run.fill(args, output=True, lse=lse, weights=weights, indices=indices, counts=counts, steps=steps,
                 head_weights=head_weights, head_steps=head_steps)
        out = run.output(args, "out", out)
        self.run("decode", args)
        return out


class _Run:
    """Checks the arrays of one call against the plan's problem, and turns them into buffers."""

    def __init__(self, plan: Plan, **sizes: int) -> None:
        self.plan, self.problem, self.sizes = plan, plan.problem, sizes

    def batch(self, seq_len: Array, q_start: Array | None, block_table: Array | None, pages: bool = True) -> abi.Batch:
        """pages: whether the call reads a table where the problem has pages."""
        batch, rows = abi.Batch(), self.sizes["rows"]
        sequences = self.sizes["sequences"] = view(seq_len).shape[0]
        if q_start is None and sequences and rows % sequences:
            raise InvalidArgument("%d rows are not the same number for each of %d sequences: pass q_start" %
                                  (rows, sequences))
        batch.num_sequences, batch.num_rows = sequences, rows
        batch.q_len = rows // sequences if sequences and q_start is None else 0
        if pages and self.problem.page_size and block_table is None:
            raise InvalidArgument("the problem has pages: block_table is missing")
        if block_table is not None and not self.problem.page_size:
            raise InvalidArgument("block_table is given, but the problem has no page_size")
        self.fill(batch, seq_len=seq_len, q_start=q_start, block_table=block_table)
        return batch

    def fill(self, args: C.Structure, output: bool = False, **arrays: Array | None) -> None:
        for name, array in arrays.items():
            if array is not None:
                getattr(args, name).data = self._address(name, array, output)

    def values(self, args: C.Structure, sums: Array | None, lengths: Array | None, slots: Array | None,
               output: bool) -> None:
        """The states of values that a tail needs."""
        if slots is not None:
            self.sizes["any_states"] = 1
        self.fill(args, value_slots=slots)
        self.fill(args, output=output, value_sums=sums, value_lengths=lengths)

    def output(self, args: C.Structure, name: str, array: Array | None) -> Array:
        if array is None:
            if not self.plan.device.on_host:
                raise InvalidArgument("%s is missing: a run on %s makes no arrays" % (name, self.plan.device.backend))
            array = self.plan.empty(name, **self.sizes)
        self.fill(args, output=True, **{name: array})
        return array

    def map(self, side: str, given: MapLike) -> abi.MapBuffers:
        buffers, described, problem = abi.MapBuffers(), getattr(self.problem, side), self.problem
        given = given if isinstance(given, HashMap) else HashMap(given)
        mlp = problem.map_kind == abi.MAP_MLP
        widths = [problem.head_dim_qk, *(described.hidden if mlp else ()), problem.code_bits]
        if len(given.weights) != len(widths) - 1:
            raise InvalidArgument("%s has %d weights, the problem's maps %d" %
                                  (side, len(given.weights), len(widths) - 1))
        for i, weight in enumerate(given.weights):
            shape = (problem.num_code_heads, widths[i], widths[i + 1])
            strides = tuple(described.weight_stride[i])
            buffers.weight[i].data = self._checked("%s.weight" % side, weight, described.dtype, shape, strides)
        for i, bias in enumerate(given.biases):
            if bias is not None:
                buffers.bias[i].data = self._checked("%s.bias" % side, bias, described.dtype,
                                                     (problem.num_code_heads, widths[i + 1]),
                                                     (described.bias_stride[i],))
        return buffers

    def _dim(self, dim: str) -> tuple[int, bool]:
        """How many there must be in that dimension, and whether more are as good."""
        sizes, page_size = self.sizes, self.problem.page_size
        if dim in sizes:
            return sizes[dim], False
        if dim == "pages":
            # Tokens without a mapping go to the first slots of all.
            first = -(-sizes.get("first_slots", 0) // (page_size or self.problem.max_length))
            return max(first, 0 if page_size else sizes.get("sequences", 0)), True
        if dim == "states":
            return 0 if "any_states" in sizes else sizes["sequences"], True
        if dim == "slots":
            return page_size or self.problem.max_length, not page_size
        if dim == "table_pages":
            return -(-self.problem.max_length // page_size), True
        return getattr(self.problem, dim), False

    def _address(self, name: str, array: Array, output: bool) -> int:
        if name in _PLAIN:
            size = {"q_start": self.sizes.get("sequences", 0) + 1, "seq_len": self.sizes.get("sequences", 0),
                    "value_slots": self.sizes.get("sequences", 0), "slot_mapping": self.sizes.get("tokens", 0),
                    "sink_logits": self.problem.num_q_heads}.get(name)
            if size is None:
                size = self.problem.num_kv_heads if self.problem.per_head_kv_scales else 1
            return self._checked(name, array, _PLAIN[name], (size,), ())
        seen = view(array)
        outer_strides(name, seen)
        for dim, given in zip(DIMS[name], seen.shape, strict=True):
            wanted, or_more = self._dim(dim)
            if given != wanted and not (or_more and given > wanted):
                raise InvalidArgument("%s [%s] is %s: %s must be %d%s" % (
                    name, ", ".join(DIMS[name]), list(seen.shape), dim, wanted, " at least" if or_more else ""))
        tensor = getattr(self.problem, name)
        return self._checked(name, array, tensor.dtype, seen.shape, self.problem.strides(name), output,
                             tensor.memory == abi.MEMORY_PINNED_HOST)

    def _checked(self, name: str, array: Array, dtype: int, shape: tuple[int, ...], strides: tuple[int, ...],
                 output: bool = False, pinned: bool = False) -> int:
        """The address, once dtype, shape, outer strides and memory are known to be those."""
        seen, device = view(array), self.plan.device
        if seen.dtype not in SAME_SIZE.get(dtype, (dtype,)):
            raise InvalidArgument("%s is of %s, not %s" % (name, NAMES[seen.dtype], NAMES[dtype]))
        if seen.shape != shape:
            raise InvalidArgument("%s is %s, not %s" % (name, list(seen.shape), list(shape)))
        strides = tuple(0 if stride == abi.BROADCAST else stride for stride in strides)
        wanted = strides if len(strides) == len(shape) else strides + (1,)
        if any(size > 1 and a != b for size, a, b in zip(shape, seen.strides, wanted, strict=True)):
            raise InvalidArgument("%s has strides %s, the plan's are %s: describe it in the problem" %
                                  (name, list(seen.strides), list(wanted)))
        on_host = seen.device[0] in HOST + PINNED
        if on_host != device.on_host and not (pinned and on_host):
            raise InvalidArgument("%s lies in %s memory, the plan is of %s" %
                                  (name, "the host's" if on_host else "a device's", device.backend))
        if output and seen.readonly:
            raise InvalidArgument("%s is written to, but read-only" % name)
        if device.on_host and seen.address % SIZES[dtype]:
            raise InvalidArgument("%s is not aligned to its elements" % name)
        return seen.address


def backends(library: Library | None = None) -> list[tuple[str, int, str]]:
    """(name, devices, why there are none) of every backend that the library knows, the preferred first."""
    library, found, error = library or default_library(), [], abi.Error()
    for i in range(library.hattn_backend_count()):
        info = sized(abi.BackendInfo)
        check(library.hattn_backend_query(i, C.byref(info), C.byref(error)), error)
        found.append((info.name.decode(), info.num_devices, info.text.decode()))
    return found
