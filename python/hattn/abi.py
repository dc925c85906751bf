# SPDX-License-Identifier: Apache-2.0
"""The ABI of api/hattn.h for ctypes, which says what everything means. python/write_abi.py wrote this file."""
import ctypes as C

VERSION_MAJOR = 0
VERSION_MINOR = 1
VERSION_PATCH = 0
BROADCAST = -1
OK = 0
INVALID_ARGUMENT = 1
UNSUPPORTED = 2
NO_DEVICE = 3
OUT_OF_MEMORY = 4
WORKSPACE_TOO_SMALL = 5
DEVICE_ERROR = 6
F32 = 1
F16 = 2
BF16 = 3
F8_E4M3 = 4
I8 = 5
U16 = 6
I32 = 7
U32 = 8
I64 = 9
MEMORY_DEVICE = 0
MEMORY_PINNED_HOST = 1
MAP_LINEAR = 1
MAP_MLP = 2
SCORE_HAMMING = 1
SCORE_WEIGHTED = 2
CODE_LAYOUT_KEY_MAJOR = 0
COUNTER_RESCORED = 0


class Error(C.Structure):
    """hattn_error"""

    _fields_ = [
        ("status", C.c_int),
        ("text", C.c_char * 508),
    ]


class BackendInfo(C.Structure):
    """hattn_backend_info"""

    _fields_ = [
        ("struct_size", C.c_uint32),
        ("built", C.c_int32),
        ("num_devices", C.c_int32),
        ("name", C.c_char * 16),
        ("text", C.c_char * 256),
    ]


class DeviceOptions(C.Structure):
    """hattn_device_options"""

    _fields_ = [
        ("struct_size", C.c_uint32),
        ("index", C.c_int32),
        ("backend", C.c_char_p),
        ("isa", C.c_char_p),
        ("max_threads", C.c_int32),
        ("reserved", C.c_int32),
        ("native_context", C.c_void_p),
        ("native_device", C.c_void_p),
    ]


class DeviceInfo(C.Structure):
    """hattn_device_info"""

    _fields_ = [
        ("struct_size", C.c_uint32),
        ("max_threads", C.c_int32),
        ("backend", C.c_char * 16),
        ("name", C.c_char * 128),
        ("isa", C.c_char * 32),
        ("native_context", C.c_void_p),
        ("native_device", C.c_void_p),
        ("native_stream", C.c_void_p),
    ]


class Tensor(C.Structure):
    """hattn_tensor"""

    _fields_ = [
        ("dtype", C.c_int32),
        ("memory", C.c_int32),
        ("stride", C.c_int64 * 3),
    ]


class Map(C.Structure):
    """hattn_map"""

    _fields_ = [
        ("dtype", C.c_int32),
        ("hidden", C.c_int32 * 2),
        ("reserved", C.c_int32),
        ("weight_stride", (C.c_int64 * 2) * 3),
        ("bias_stride", C.c_int64 * 3),
    ]


class Problem(C.Structure):
    """hattn_problem"""

    _fields_ = [
        ("struct_size", C.c_uint32),
        ("num_q_heads", C.c_int32),
        ("num_kv_heads", C.c_int32),
        ("num_code_heads", C.c_int32),
        ("num_selection_heads", C.c_int32),
        ("head_dim_qk", C.c_int32),
        ("head_dim_v", C.c_int32),
        ("code_bits", C.c_int32),
        ("code_layout", C.c_int32),
        ("map_kind", C.c_int32),
        ("score_kind", C.c_int32),
        ("weight_bits", C.c_int32),
        ("key_norms", C.c_int32),
        ("page_size", C.c_int32),
        ("max_sequences", C.c_int32),
        ("max_rows", C.c_int32),
        ("max_q_len", C.c_int32),
        ("max_length", C.c_int32),
        ("k", C.c_int32),
        ("num_sink", C.c_int32),
        ("num_recent", C.c_int32),
        ("sliding_window", C.c_int32),
        ("scale", C.c_float),
        ("soft_cap", C.c_float),
        ("per_head_kv_scales", C.c_int32),
        ("min_value_weight", C.c_float),
        ("key_map", Map),
        ("query_map", Map),
        ("q", Tensor),
        ("k_new", Tensor),
        ("k_cache", Tensor),
        ("v_cache", Tensor),
        ("codes", Tensor),
        ("norms", Tensor),
        ("weights", Tensor),
        ("scores", Tensor),
        ("indices", Tensor),
        ("counts", Tensor),
        ("out", Tensor),
        ("lse", Tensor),
        ("partial_out", Tensor),
        ("partial_lse", Tensor),
        ("block_table", Tensor),
        ("budgets", Tensor),
        ("min_probability", C.c_float),
        ("min_k", C.c_int32),
        ("slopes", Tensor),
        ("steps", Tensor),
        ("tail", C.c_float),
        ("num_candidates", C.c_int32),
        ("shares", Tensor),
        ("rests", Tensor),
        ("value_sums", Tensor),
        ("value_lengths", Tensor),
        ("head_weights", Tensor),
        ("head_slopes", Tensor),
        ("head_steps", Tensor),
    ]


class Buffer(C.Structure):
    """hattn_buffer"""

    _fields_ = [
        ("data", C.c_void_p),
        ("byte_offset", C.c_uint64),
    ]


class Team(C.Structure):
    """hattn_team"""

    _fields_ = [
        ("size", C.c_int32),
        ("rank", C.c_int32),
        ("barrier", C.CFUNCTYPE(None, C.c_void_p)),
        ("context", C.c_void_p),
    ]


class Exec(C.Structure):
    """hattn_exec"""

    _fields_ = [
        ("struct_size", C.c_uint32),
        ("num_threads", C.c_int32),
        ("workspace", Buffer),
        ("workspace_size", C.c_uint64),
        ("stream", C.c_void_p),
        ("team", C.POINTER(Team)),
    ]


class Batch(C.Structure):
    """hattn_batch"""

    _fields_ = [
        ("num_sequences", C.c_int32),
        ("num_rows", C.c_int32),
        ("q_len", C.c_int32),
        ("reserved", C.c_int32),
        ("q_start", Buffer),
        ("seq_len", Buffer),
        ("block_table", Buffer),
    ]


class MapBuffers(C.Structure):
    """hattn_map_buffers"""

    _fields_ = [
        ("weight", Buffer * 3),
        ("bias", Buffer * 3),
    ]


class EncodeKeysArgs(C.Structure):
    """hattn_encode_keys_args"""

    _fields_ = [
        ("struct_size", C.c_uint32),
        ("num_tokens", C.c_int32),
        ("k_new", Buffer),
        ("k_scale", Buffer),
        ("key_map", MapBuffers),
        ("slot_mapping", Buffer),
        ("codes", Buffer),
        ("norms", Buffer),
    ]


class EncodeQueriesArgs(C.Structure):
    """hattn_encode_queries_args"""

    _fields_ = [
        ("struct_size", C.c_uint32),
        ("num_rows", C.c_int32),
        ("q", Buffer),
        ("query_map", MapBuffers),
        ("weights", Buffer),
        ("slopes", Buffer),
        ("steps", Buffer),
        ("head_slopes", Buffer),
        ("head_weights", Buffer),
        ("head_steps", Buffer),
    ]


class ScoreArgs(C.Structure):
    """hattn_score_args"""

    _fields_ = [
        ("struct_size", C.c_uint32),
        ("reserved", C.c_uint32),
        ("batch", Batch),
        ("weights", Buffer),
        ("codes", Buffer),
        ("norms", Buffer),
        ("scores", Buffer),
    ]


class TopkArgs(C.Structure):
    """hattn_topk_args"""

    _fields_ = [
        ("struct_size", C.c_uint32),
        ("reserved", C.c_uint32),
        ("batch", Batch),
        ("scores", Buffer),
        ("budgets", Buffer),
        ("indices", Buffer),
        ("counts", Buffer),
        ("steps", Buffer),
        ("shares", Buffer),
        ("rests", Buffer),
        ("codes", Buffer),
        ("head_weights", Buffer),
        ("head_steps", Buffer),
    ]


class AttendArgs(C.Structure):
    """hattn_attend_args"""

    _fields_ = [
        ("struct_size", C.c_uint32),
        ("reserved", C.c_uint32),
        ("batch", Batch),
        ("q", Buffer),
        ("k_cache", Buffer),
        ("v_cache", Buffer),
        ("k_scale", Buffer),
        ("v_scale", Buffer),
        ("sink_logits", Buffer),
        ("indices", Buffer),
        ("counts", Buffer),
        ("out", Buffer),
        ("lse", Buffer),
        ("shares", Buffer),
        ("rests", Buffer),
        ("value_sums", Buffer),
        ("value_lengths", Buffer),
        ("value_slots", Buffer),
    ]


class MergeArgs(C.Structure):
    """hattn_merge_args"""

    _fields_ = [
        ("struct_size", C.c_uint32),
        ("num_parts", C.c_int32),
        ("num_rows", C.c_int32),
        ("reserved", C.c_uint32),
        ("partial_out", Buffer),
        ("partial_lse", Buffer),
        ("out", Buffer),
        ("lse", Buffer),
    ]


class SumValuesArgs(C.Structure):
    """hattn_sum_values_args"""

    _fields_ = [
        ("struct_size", C.c_uint32),
        ("reserved", C.c_uint32),
        ("batch", Batch),
        ("v_cache", Buffer),
        ("value_slots", Buffer),
        ("value_sums", Buffer),
        ("value_lengths", Buffer),
    ]


class DecodeArgs(C.Structure):
    """hattn_decode_args"""

    _fields_ = [
        ("struct_size", C.c_uint32),
        ("append", C.c_int32),
        ("batch", Batch),
        ("q", Buffer),
        ("k_cache", Buffer),
        ("v_cache", Buffer),
        ("codes", Buffer),
        ("norms", Buffer),
        ("k_scale", Buffer),
        ("v_scale", Buffer),
        ("sink_logits", Buffer),
        ("budgets", Buffer),
        ("key_map", MapBuffers),
        ("query_map", MapBuffers),
        ("out", Buffer),
        ("lse", Buffer),
        ("weights", Buffer),
        ("indices", Buffer),
        ("counts", Buffer),
        ("slopes", Buffer),
        ("steps", Buffer),
        ("value_sums", Buffer),
        ("value_lengths", Buffer),
        ("value_slots", Buffer),
        ("head_slopes", Buffer),
        ("head_weights", Buffer),
        ("head_steps", Buffer),
    ]


# name: what it returns, its parameters
FUNCTIONS = {
    "hattn_status_string": (
        C.c_char_p,
        [C.c_int],
    ),
    "hattn_version": (
        C.c_int,
        [],
    ),
    "hattn_backend_count": (
        C.c_int,
        [],
    ),
    "hattn_backend_query": (
        C.c_int,
        [C.c_int, C.POINTER(BackendInfo), C.POINTER(Error)],
    ),
    "hattn_device_open": (
        C.c_int,
        [C.POINTER(DeviceOptions), C.POINTER(C.c_void_p), C.POINTER(Error)],
    ),
    "hattn_device_close": (
        None,
        [C.c_void_p],
    ),
    "hattn_device_query": (
        C.c_int,
        [C.c_void_p, C.POINTER(DeviceInfo), C.POINTER(Error)],
    ),
    "hattn_problem_complete": (
        C.c_int,
        [C.POINTER(Problem), C.POINTER(Problem), C.POINTER(Error)],
    ),
    "hattn_plan_create": (
        C.c_int,
        [C.c_void_p, C.POINTER(Problem), C.POINTER(C.c_void_p), C.POINTER(Error)],
    ),
    "hattn_plan_destroy": (
        None,
        [C.c_void_p],
    ),
    "hattn_plan_workspace_size": (
        C.c_uint64,
        [C.c_void_p],
    ),
    "hattn_plan_counter": (
        C.c_int,
        [C.c_void_p, C.c_int, C.POINTER(C.c_uint64), C.POINTER(Error)],
    ),
    "hattn_workspace_init": (
        C.c_int,
        [C.c_void_p, Buffer, C.c_uint64, C.c_void_p, C.POINTER(Error)],
    ),
    "hattn_encode_keys": (
        C.c_int,
        [C.c_void_p, C.POINTER(EncodeKeysArgs), C.POINTER(Exec), C.POINTER(Error)],
    ),
    "hattn_encode_queries": (
        C.c_int,
        [C.c_void_p, C.POINTER(EncodeQueriesArgs), C.POINTER(Exec), C.POINTER(Error)],
    ),
    "hattn_score": (
        C.c_int,
        [C.c_void_p, C.POINTER(ScoreArgs), C.POINTER(Exec), C.POINTER(Error)],
    ),
    "hattn_topk": (
        C.c_int,
        [C.c_void_p, C.POINTER(TopkArgs), C.POINTER(Exec), C.POINTER(Error)],
    ),
    "hattn_attend": (
        C.c_int,
        [C.c_void_p, C.POINTER(AttendArgs), C.POINTER(Exec), C.POINTER(Error)],
    ),
    "hattn_merge": (
        C.c_int,
        [C.c_void_p, C.POINTER(MergeArgs), C.POINTER(Exec), C.POINTER(Error)],
    ),
    "hattn_sum_values": (
        C.c_int,
        [C.c_void_p, C.POINTER(SumValuesArgs), C.POINTER(Exec), C.POINTER(Error)],
    ),
    "hattn_decode": (
        C.c_int,
        [C.c_void_p, C.POINTER(DecodeArgs), C.POINTER(Exec), C.POINTER(Error)],
    ),
}
