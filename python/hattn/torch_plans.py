# SPDX-License-Identifier: Apache-2.0
"""What the torch operators run on: plans by the form of arguments, workspaces by stream, checks, packed arguments."""

import ctypes as C
import struct
import threading
from collections.abc import Sequence
from typing import Any

import torch

from hattn import abi
from hattn.library import InvalidArgument, check, default_library
from hattn.plan import Device
from hattn.problem import HashMap, Layout, MapLike, Problem

Tensor = torch.Tensor
MAX_Q_LEN = 8  # of plans whose rows are told by q_start


def _packer(kind: type[C.Structure]) -> struct.Struct:
    """Packs the integers of a struct and the addresses of its buffers, in their order, whose offsets stay 0."""

    def format_of(kind: Any) -> str:
        if kind is abi.Buffer:
            return "Q8x"
        if issubclass(kind, C.Structure):
            return "".join(format_of(field[1]) for field in kind._fields_)
        return format_of(kind._type_) * kind._length_ if issubclass(kind, C.Array) else str(kind._type_)

    packer = struct.Struct("=" + format_of(kind))
    assert packer.size == C.sizeof(kind), kind
    return packer


def run_function(name: str, args: type[C.Structure]) -> Any:
    """The library's function, of packed arguments."""
    prototype = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_char_p, C.c_void_p, C.c_void_p)
    return prototype(("hattn_" + name, default_library()._lib)), _packer(args)


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


_local = threading.local()  # .memories: {(device, stream): _Memory}
_devices: dict[torch.device, Device] = {}
_graph_memories: dict[torch.device, _Memory] = {}
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

    def memory(self) -> _Memory:
        """What a run on the current stream works in."""
        device = self.torch_device
        if device.type != "cuda":
            memory = self._own_memory(0)
            memory.exec.num_threads = torch.get_num_threads()
            return memory
        stream = torch._C._cuda_getCurrentRawStream(device.index)
        graphs = _graph_memories.get(device)
        if torch.cuda.is_current_stream_capturing():
            if graphs is None or graphs.size < self.size:
                raise RuntimeError("hattn: make this call once before it is captured, which reserves its workspace")
            graphs.exec.stream = stream
            return graphs
        if graphs is None or graphs.size < self.size:
            with _lock:
                _graph_memories.setdefault(device, _Memory(device)).reserve(self.device, self.size, stream)
        return self._own_memory(stream)

    def _own_memory(self, stream: int) -> _Memory:
        if not hasattr(_local, "memories"):
            _local.memories = {}
        key = (self.torch_device, stream)
        memory: _Memory | None = _local.memories.get(key)
        if memory is None:
            memory = _local.memories[key] = _Memory(self.torch_device)
            memory.exec.stream = stream
        if memory.size < self.size:
            memory.reserve(self.device, self.size, stream)
        return memory


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


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def map_addresses(flat: Sequence[Tensor]) -> list[int]:
    pointers = [tensor.data_ptr() for tensor in flat]
    weights, biases = pointers[::2], pointers[1::2]
    return weights + [0] * (3 - len(weights)) + biases + [0] * (3 - len(biases))


