# SPDX-License-Identifier: Apache-2.0
"""What the torch operators run on: plans by the form of arguments, workspaces by stream, checks, packed arguments."""

import ctypes as C
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from hattn import abi
from hattn.library import InvalidArgument, check, default_library
from hattn.plan import Device
from hattn.problem import HashMap, Layout, MapLike, Problem

Tensor = torch.Tensor
MAX_Q_LEN = 8  # of plans whose rows are told by q_start


class Arguments:
    """How the integers and addresses of one function's arguments are packed, and the function."""

    def __init__(self, name: str, kind: type[C.Structure]) -> None:
        prototype = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_char_p, C.c_void_p, C.c_void_p)
        self.function: Any = prototype(("hattn_" + name, default_library()._lib))
        self.size = C.sizeof(kind)
        self._fields = list(_fields(kind, ""))

    def packer(self, names: Sequence[str]) -> struct.Struct:
        """Of the fields `names`, in the struct's order; the others are 0."""
        wanted = set(names)
        parts = [form if name in wanted else "%dx" % struct.calcsize("=" + form) for name, form in self._fields]
        packer = struct.Struct("=" + "".join(parts))
        assert packer.size == self.size and [name for name, _ in self._fields if name in wanted] == list(names), names
        return packer


def _fields(kind: Any, name: str) -> Iterator[tuple[str, str]]:
    """(name, format) of all numbers of a struct: q, num_rows, query_map.bias1 ..."""
    if kind is abi.Buffer:
        yield from ((name, "Q"), ("", "8x"))
    elif issubclass(kind, C.Structure):
        for field in kind._fields_:
            yield from _fields(field[1], "%s.%s" % (name, field[0]) if kind is abi.MapBuffers else field[0])
    elif issubclass(kind, C.Array):
        for i in range(kind._length_):
            yield from _fields(kind._type_, name + str(i))
    else:
        yield name, str(kind._type_)


class _Memory:
    """A workspace and what goes with it, of one thread and stream; or of the graphs of a device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.exec, self.size = device, abi.Exec(struct_size=C.sizeof(abi.Exec)), 0
        self.address, self.tensors = C.addressof(self.exec), []  # type: ignore[var-annotated]
        self.error = abi.Error()
        self.error_address = C.addressof(self.error)

    def reserve(self, hattn_device: Device, size: int, stream: int) -> None:
        """Room for `size` bytes, made ready on `stream`. Older tensors are kept: work of theirs may be under way, and
        graphs have their addresses."""
        if size <= self.size:
            return
        tensor = torch.empty(size + 256, dtype=torch.uint8, device=self.device)
        self.tensors.append(tensor)
        self.exec.workspace.data = (tensor.data_ptr() + 255) // 256 * 256
        self.exec.workspace_size = self.size = size
        check(hattn_device.library.hattn_workspace_init(hattn_device.handle, self.exec.workspace, size, stream,
                                                        C.byref(self.error)), self.error)


class _Local(threading.local):
    def __init__(self) -> None:
        self.memories: dict[tuple[int, int], _Memory] = {}  # by the device's index, -1 for the host, and the stream


_local = _Local()
_devices: dict[torch.device, Device] = {}
_graph_memories: dict[int, _Memory] = {}
plans: dict[Any, "Plan"] = {}
_lock = threading.Lock()


class Plan:
    """A plan without a workspace of its own, never destroyed: graphs may hold what it has loaded."""

    def __init__(self, device: torch.device, fields: dict[str, Any]) -> None:
        if device not in _devices:
            _devices[device] = Device("cuda" if device.type == "cuda" else "cpu", device.index or 0)
            _devices[device].close.atexit = False  # plans are there until the end
        self.torch_device, self.device = device, _devices[device]
        self.problem, self.handle, error = Problem(**fields), C.c_void_p(), abi.Error()
        check(self.device.library.hattn_plan_create(self.device.handle, C.byref(self.problem.struct),
                                                    C.byref(self.handle), C.byref(error)), error)
        self.size = self.device.library.hattn_plan_workspace_size(self.handle)
        self.pointer = self.handle.value
        self.index = (device.index or 0) if device.type == "cuda" else -1

    def memory(self) -> _Memory:
        """What a run on the current stream works in."""
        if self.index < 0:
            memory = self._own_memory(0)
            memory.exec.num_threads = torch.get_num_threads()
            return memory
        stream = torch._C._cuda_getCurrentRawStream(self.index)
        graphs = _graph_memories.get(self.index)
        if torch.cuda.is_current_stream_capturing():
            if graphs is None or graphs.size < self.size:
                raise RuntimeError("hattn: make this call once before it is captured, which reserves its workspace")
            graphs.exec.stream = stream
            return graphs
        if graphs is None or graphs.size < self.size:
            with _lock:
                memory = _graph_memories.setdefault(self.index, _Memory(self.torch_device))
                memory.reserve(self.device, self.size, stream)
        return self._own_memory(stream)

    def _own_memory(self, stream: int) -> _Memory:
        memory = _local.memories.get((self.index, stream))
        if memory is None:
            memory = _local.memories[self.index, stream] = _Memory(self.torch_device)
            memory.exec.stream = stream
        if memory.size < self.size:
            memory.reserve(self.device, self.size, stream)
        return memory


class Call:
    """Calls whose tensors have the forms of `tensors`, and whose numbers are the same: all is known but addresses."""

    def __init__(self, plan: Plan, arguments: Arguments, constants: dict[str, int], tensors: dict[str, Tensor],
                 outputs: dict[str, Tensor], behind: dict[str, Tensor] | None = None) -> None:
        """All in the struct's order. outputs: whose likes the call makes. behind: tensors that stand behind them."""
        self.plan, self.function, self.outputs = plan, arguments.function, list(outputs.values())
        self.constants, behind = (arguments.size, *constants.values()), behind or {}
        self.pack = arguments.packer(["struct_size", *constants, *tensors, *outputs, *behind]).pack
        self.fits, self.before = _guard([*tensors.values(), *behind.values()]), len(tensors)

    def run(self, tensors: Sequence[Tensor]) -> Any:
        """The outputs: one, several, or none."""
        memory, outputs = self.plan.memory(), self.outputs
        if len(outputs) == 1 and len(tensors) == self.before:  # the usual
            made: Any = _empty_like(outputs[0])
            packed = self.pack(*self.constants, *map(_data_ptr, tensors), made.data_ptr())
        else:
            new = [_empty_like(one) for one in outputs]
            packed = self.pack(*self.constants, *map(_data_ptr, tensors[:self.before]), *map(_data_ptr, new),
                               *map(_data_ptr, tensors[self.before:]))
            made = new[0] if len(new) == 1 else tuple(new)
        status = self.function(self.plan.pointer, packed, memory.address, memory.error_address)
        if status:
            check(status, memory.error)
        return made


_data_ptr, _empty_like = Tensor.data_ptr, torch.empty_like
is_compiling = torch.compiler.is_compiling


def _guard(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    """Whether other tensors have the forms of these: by the guard of torch.compile, a tenth of the time of looking at
    each. It also wants the same type, the same need of a gradient, and the same modes of the dispatcher to be on."""
    try:
        kind: Any = torch._C._dynamo.guards.TensorGuards
        guards = kind(
            *tensors, dynamic_dims_sizes=[list(one.shape) for one in tensors],
            dynamic_dims_strides=[list(one.stride()) for one in tensors])
        if guards.check(*tensors):
            found: Callable[..., bool] = guards.check
            return found
    except (AttributeError, TypeError, RuntimeError, SystemError):  # no part of torch's interface
        pass
    return _plain_guard(tensors)


def _plain_guard(tensors: Sequence[Tensor]) -> Callable[..., bool]:
    forms = list(map(form, tensors))
    return lambda *others: plain(*others) and list(map(form, others)) == forms


def plain(*tensors: Tensor) -> bool:
    """Whether an operator may run on them without torch's dispatcher, which costs more than all of it."""
    grad = torch.is_grad_enabled()
    return not torch._C._len_torch_dispatch_stack() and all(type(one) is Tensor and not (grad and one.requires_grad)
                                                            for one in tensors)


def eager(tensor: Tensor) -> bool:
    """Whether an operator's function may be called without torch's dispatcher."""
    return not is_compiling() and plain(tensor)


def given(**tensors: Tensor | None) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def batch_of(rows: int, seq_len: Tensor, q_start: Tensor | None) -> dict[str, int]:
    """The numbers of a batch."""
    sequences = seq_len.shape[0]
    return dict(num_sequences=sequences, num_rows=rows,
                q_len=rows // sequences if sequences and q_start is None else 0)


class Calls:
    """Those of an operator, by its numbers and by which tensors are given: the last few forms of each."""

    KEPT = 4

    def __init__(self) -> None:
        self._calls: dict[Any, list[Call]] = {}

    def find(self, key: Any, tensors: Sequence[Tensor]) -> Call | None:
        for call in self._calls.get(key, ()):
            if call.fits(*tensors):
                return call
        return None

    def add(self, key: Any, call: Call) -> Call:
        self._calls[key] = [call, *self._calls.get(key, ())][:self.KEPT]
        return call


def shape_only(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of which torch.empty_like makes contiguous ones of that shape; it has memory for one element."""
    return like.new_empty((1,) * len(shape), dtype=dtype).expand(shape)


def form(tensor: Tensor | None) -> Any:
    """All that a plan or a check depends on."""
    return tensor if tensor is None else (tensor.dtype, tensor.shape, tensor.stride(), tensor.device)


def _room(count: int) -> int:
    return 1 << max(0, count - 1).bit_length()


def layout(tensor: Tensor, scalar: bool = False) -> Layout:
    if not scalar and tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise InvalidArgument("the last dimension of a %s is not contiguous" % list(tensor.shape))
    strides = tensor.stride() if scalar else tensor.stride()[:-1]
    dtype = "uint32" if tensor.dtype == torch.int32 and tensor.dim() == 4 else str(tensor.dtype).removeprefix("torch.")
    return Layout(dtype, strides)


def expect(name: str, tensor: Tensor | None, shape: Sequence[int | None], device: torch.device,
            dtype: torch.dtype | None = None, contiguous: bool = False) -> None:
    """Shape (None: any), dtype and place of a tensor that may be left out."""
    if tensor is None:
        return
    if tensor.dim() != len(shape) or any(b is not None and a != b for a, b in zip(tensor.shape, shape, strict=True)):
        wanted = ["any" if size is None else size for size in shape]
        raise InvalidArgument("%s is %s, not %s" % (name, list(tensor.shape), wanted))
    if dtype is not None and tensor.dtype != dtype:
        raise InvalidArgument("%s is of %s, not %s" % (name, tensor.dtype, dtype))
    if tensor.device != device:
        raise InvalidArgument("%s is on %s, not %s" % (name, tensor.device, device))
    if contiguous and not tensor.is_contiguous():
        raise InvalidArgument("%s is not contiguous" % name)


def flat(given: MapLike) -> list[Tensor]:
    """A map as an operator takes it, which may be given too: weight; weight, bias; or three of each in turns."""
    if isinstance(given, list):
        return given
    given = given if isinstance(given, HashMap) else HashMap(given)
    if len(given.weights) == 1:
        return [given.weight] if given.bias is None else [given.weight, given.bias]
    return [tensor for pair in zip(given.weights, given.biases, strict=True) for tensor in pair]


def check_map(name: str, flat: Sequence[Tensor], d: int, device: torch.device) -> HashMap:
    if len(flat) not in (1, 2, 6):
        raise InvalidArgument("%s has %d tensors: a weight, a weight and a bias, or three of each" % (name, len(flat)))
    weights, biases, width, heads = list(flat[::2]), list(flat[1::2]), d, flat[0].shape[0]
    for i, weight in enumerate(weights):
        expect(name + " weight", weight, (heads, width, None), device, flat[0].dtype)
        width = weight.shape[2]
        if biases:
            expect(name + " bias", biases[i], (heads, width), device, flat[0].dtype, contiguous=True)
    if len(weights) == 1:
        return HashMap(weights[0], biases[0] if biases else None)
    return HashMap(weights, biases)


def cache_fields(k_cache: Tensor, v_cache: Tensor, q: Tensor, seq_len: Tensor, q_start: Tensor | None,
                  block_table: Tensor | None) -> dict[str, Any]:
    """The fields of a problem that caches and a batch tell, all of it checked."""
    device, rows, sequences = q.device, q.shape[0], seq_len.shape[0]
    expect("q", q, (None, None, None), device)
    expect("k_cache", k_cache, (None, None, None, q.shape[2]), device)
    expect("v_cache", v_cache, (*k_cache.shape[:3], None), device, k_cache.dtype)
    expect("seq_len", seq_len, (None,), device, torch.int32, contiguous=True)
    expect("q_start", q_start, (sequences + 1,), device, torch.int32, contiguous=True)
    expect("block_table", block_table, (sequences, None), device, torch.int32)
    if q_start is None and sequences and rows % sequences:
        raise InvalidArgument("%d rows are not as many for each of %d sequences: pass q_start" % (rows, sequences))
    if block_table is None and k_cache.shape[0] < sequences:
        raise InvalidArgument("k_cache has %d sequences, the batch %d" % (k_cache.shape[0], sequences))
    q_len = MAX_Q_LEN if q_start is not None else max(1, rows // max(1, sequences))
    # Codes whose outermost dimension is the head have room for the sequences that are there, and no more.
    room = _room(sequences) if block_table is not None else min(_room(sequences), k_cache.shape[0])
    fields = dict(num_q_heads=q.shape[1], num_kv_heads=k_cache.shape[2], head_dim_qk=q.shape[2],
                  head_dim_v=v_cache.shape[3], max_sequences=room, max_q_len=q_len,
                  max_rows=_room(max(rows, room * q_len)), q=layout(q), k_cache=layout(k_cache),
                  v_cache=layout(v_cache), max_length=k_cache.shape[1])
    if block_table is not None:
        fields.update(page_size=k_cache.shape[1], max_length=k_cache.shape[1] * block_table.shape[1],
                      block_table=layout(block_table))
    return fields


def codes_fields(fields: dict[str, Any], codes: Tensor, norms: Tensor | None, k_cache: Tensor | None) -> None:
    places = codes.shape[:2] if k_cache is None else k_cache.shape[:2]
    words, heads = (fields["code_bits"] + 31) // 32, fields["num_code_heads"]
    expect("codes", codes, (*places, heads, words), codes.device)
    if codes.dtype not in (torch.int32, torch.uint32):
        raise InvalidArgument("codes are of %s, not int32" % codes.dtype)
    expect("norms", norms, (*places, heads), codes.device, torch.float16)
    fields["codes"], fields["key_norms"] = layout(codes), int(norms is not None)
    if norms is not None:
        fields["norms"] = layout(norms, scalar=True)


def map_tensors(given: MapLike) -> tuple[Tensor, ...]:
    """A map's weights, then its biases: the order of the library's struct."""
    if type(given) is Tensor:
        return (given,)
    tensors = flat(given)
    return (*tensors[::2], *tensors[1::2])


def map_names(side: str, count: int) -> list[str]:
    """Of map_tensors in the struct."""
    return ["%s.%s%d" % (side, kind, i) for kind, of in (("weight", (count + 1) // 2), ("bias", count // 2))
            for i in range(of)]
