# SPDX-License-Identifier: Apache-2.0
"""The part of hattn's ABI that the benchmarks call, through ctypes. api/hattn.h says what everything means.

The library serves structs of every version of the header; fields are only ever added at their ends.
"""
import ctypes as C
import mmap

F16 = 2
PINNED_HOST = 1
HAMMING, WEIGHTED = 1, 2
HUGE_PAGE = 2 << 20


class HattnError(Exception):
    """A call that did not return HATTN_OK, with the library's words."""


class Error(C.Structure):
    _fields_ = [("status", C.c_int), ("text", C.c_char * 508)]


class DeviceOptions(C.Structure):
    _fields_ = [
        ("struct_size", C.c_uint32), ("index", C.c_int32), ("backend", C.c_char_p), ("isa", C.c_char_p),
        ("max_threads", C.c_int32), ("reserved", C.c_int32), ("native_context", C.c_void_p),
        ("native_device", C.c_void_p),
    ]


class DeviceInfo(C.Structure):
    _fields_ = [
        ("struct_size", C.c_uint32), ("max_threads", C.c_int32), ("backend", C.c_char * 16), ("name", C.c_char * 128),
        ("isa", C.c_char * 32),
    ]


class Tensor(C.Structure):
    _fields_ = [("dtype", C.c_int32), ("memory", C.c_int32), ("stride", C.c_int64 * 3)]


class Map(C.Structure):
    _fields_ = [
        ("dtype", C.c_int32), ("hidden", C.c_int32 * 2), ("reserved", C.c_int32), ("weight_stride", C.c_int64 * 6),
        ("bias_stride", C.c_int64 * 3),
    ]


def _int32s(names):
    return [(name, C.c_int32) for name in names.split()]


class Problem(C.Structure):
    _fields_ = (
        [("struct_size", C.c_uint32)] +
        _int32s("num_q_heads num_kv_heads num_code_heads num_selection_heads head_dim_qk head_dim_v code_bits "
                "code_layout map_kind score_kind weight_bits key_norms page_size max_sequences max_rows max_q_len "
                "max_length k num_sink num_recent sliding_window") +
        [("scale", C.c_float), ("soft_cap", C.c_float)] + _int32s("per_head_kv_scales reserved") +
        [("key_map", Map), ("query_map", Map)] +
        [(name, Tensor) for name in ("q k_new k_cache v_cache codes norms weights scores indices counts out lse "
                                     "partial_out partial_lse block_table budgets").split()]
    )


class Buffer(C.Structure):
    _fields_ = [("data", C.c_void_p), ("byte_offset", C.c_uint64)]


class Exec(C.Structure):
    _fields_ = [
        ("struct_size", C.c_uint32), ("num_threads", C.c_int32), ("workspace", Buffer), ("workspace_size", C.c_uint64),
        ("stream", C.c_void_p), ("team", C.c_void_p),
    ]


class Batch(C.Structure):
    _fields_ = _int32s("num_sequences num_rows q_len reserved") + [
        ("q_start", Buffer), ("seq_len", Buffer), ("block_table", Buffer),
    ]


class MapBuffers(C.Structure):
    _fields_ = [("weight", Buffer * 3), ("bias", Buffer * 3)]


def _buffers(names):
    return [(name, Buffer) for name in names.split()]


class EncodeKeysArgs(C.Structure):
    _fields_ = [("struct_size", C.c_uint32), ("num_tokens", C.c_int32), ("k_new", Buffer), ("k_scale", Buffer),
                ("key_map", MapBuffers), ("slot_mapping", Buffer), ("codes", Buffer), ("norms", Buffer)]


class EncodeQueriesArgs(C.Structure):
    _fields_ = [("struct_size", C.c_uint32), ("num_rows", C.c_int32), ("q", Buffer), ("query_map", MapBuffers),
                ("weights", Buffer)]


class ScoreArgs(C.Structure):
    _fields_ = [("struct_size", C.c_uint32), ("reserved", C.c_uint32), ("batch", Batch)] + \
        _buffers("weights codes norms scores")


class TopkArgs(C.Structure):
    _fields_ = [("struct_size", C.c_uint32), ("reserved", C.c_uint32), ("batch", Batch)] + \
        _buffers("scores budgets indices counts")


class AttendArgs(C.Structure):
    _fields_ = [("struct_size", C.c_uint32), ("reserved", C.c_uint32), ("batch", Batch)] + \
        _buffers("q k_cache v_cache k_scale v_scale sink_logits indices counts out lse")


class DecodeArgs(C.Structure):
    _fields_ = [("struct_size", C.c_uint32), ("append", C.c_int32), ("batch", Batch)] + \
        _buffers("q k_cache v_cache codes norms k_scale v_scale sink_logits budgets") + \
        [("key_map", MapBuffers), ("query_map", MapBuffers)] + _buffers("out lse weights indices counts")


# The last two parameters of all of them are exec and error.
_RUNS = {
    "hattn_encode_keys": EncodeKeysArgs, "hattn_encode_queries": EncodeQueriesArgs, "hattn_score": ScoreArgs,
    "hattn_topk": TopkArgs, "hattn_attend": AttendArgs, "hattn_decode": DecodeArgs,
}


def sized(struct):
    value = struct()
    value.struct_size = C.sizeof(struct)
    return value


def aligned(size):
    """`size` bytes that start at a huge page, as an array of uint8. The mapping lives as long as the array."""
    import numpy as np  # devices with memory of their own do without
    size_up = (size + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE
    mapping = mmap.mmap(-1, size_up + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    mapping.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(mapping, np.uint8)
    start = -whole.ctypes.data % HUGE_PAGE
    return whole[start:start + size]


class Library:
    """libhattn.so.0 at `path`."""

    def __init__(self, path):
        self._lib = C.CDLL(path)
        self._lib.hattn_plan_workspace_size.restype = C.c_uint64
        for name in ("hattn_plan_workspace_size", "hattn_plan_destroy", "hattn_device_close"):
            getattr(self._lib, name).argtypes = [C.c_void_p]
        for name, args in _RUNS.items():
            getattr(self._lib, name).argtypes = [C.c_void_p, C.POINTER(args), C.POINTER(Exec), C.POINTER(Error)]
        self._lib.hattn_workspace_init.argtypes = [C.c_void_p, Buffer, C.c_uint64, C.c_void_p, C.POINTER(Error)]

    def __getattr__(self, name):
        return getattr(self._lib, name)

    def check(self, status, error):
        if status:
            raise HattnError(error.text.decode() or "status %d" % status)

    def problem(self, **fields):
        """The fields, completed. q and k_cache are fp16."""
        problem, complete, error = sized(Problem), sized(Problem), Error()
        problem.q.dtype = problem.k_cache.dtype = F16
        for name, value in fields.items():
            setattr(problem, name, value)
        self.check(self._lib.hattn_problem_complete(C.byref(problem), C.byref(complete), C.byref(error)), error)
        return complete


class Device:
    """The first device of a backend; the CPU with at most `threads` threads."""

    def __init__(self, library, threads, backend="cpu"):
        self.library, self.handle = library, C.c_void_p()
        options, error = sized(DeviceOptions), Error()
        options.backend, options.max_threads = backend.encode(), threads
        library.check(library.hattn_device_open(C.byref(options), C.byref(self.handle), C.byref(error)), error)
        self.threads, self.info = threads, sized(DeviceInfo)
        library.check(library.hattn_device_query(self.handle, C.byref(self.info), C.byref(error)), error)

    def close(self):
        self.library.hattn_device_close(self.handle)


class Plan:
    """A plan with a workspace of its own."""

    def __init__(self, device, problem, allocate=None, stream=None):
        """allocate(size): where the device has memory of its own, something that keeps it alive, and its address."""
        self.library, self.problem, self.handle, self.error = device.library, problem, C.c_void_p(), Error()
        check = self.library.check
        check(self.library.hattn_plan_create(device.handle, C.byref(problem), C.byref(self.handle),
                                             C.byref(self.error)), self.error)
        size = self.library.hattn_plan_workspace_size(self.handle)
        self.exec = sized(Exec)
        if allocate:
            self.workspace, self.exec.workspace.data = allocate(size)
        else:
            self.workspace = aligned(size)
            self.exec.workspace.data = self.workspace.ctypes.data
        self.exec.num_threads, self.exec.workspace_size, self.exec.stream = device.threads, size, stream
        check(self.library.hattn_workspace_init(device.handle, self.exec.workspace, size, stream, C.byref(self.error)),
              self.error)

    def run(self, name, args):
        """`name`: "decode", "score", ..."""
        status = getattr(self.library, "hattn_" + name)(self.handle, args, self.exec, self.error)
        if status:
            self.library.check(status, self.error)

    def destroy(self):
        self.library.hattn_plan_destroy(self.handle)
