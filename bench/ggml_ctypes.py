# SPDX-License-Identifier: Apache-2.0
"""ggml's flash_attn_ext on the CPU, out of the libraries that the Python package llama-cpp-python builds."""
import ctypes as C
import importlib.util
import os

import numpy as np

F32, F16 = 0, 1  # enum ggml_type


class _InitParams(C.Structure):
    _fields_ = [("mem_size", C.c_size_t), ("mem_buffer", C.c_void_p), ("no_alloc", C.c_bool)]


_SIGNATURES = {
    "ggml_init": (C.c_void_p, [_InitParams]),
    "ggml_free": (None, [C.c_void_p]),
    "ggml_new_tensor_4d": (C.c_void_p, [C.c_void_p, C.c_int] + [C.c_int64] * 4),
    "ggml_get_data": (C.c_void_p, [C.c_void_p]),
    "ggml_flash_attn_ext": (C.c_void_p, [C.c_void_p] * 5 + [C.c_float] * 3),
    "ggml_flash_attn_ext_set_n_kv_max": (None, [C.c_void_p, C.c_int32]),
    "ggml_new_graph": (C.c_void_p, [C.c_void_p]),
    "ggml_build_forward_expand": (None, [C.c_void_p] * 2),
    "ggml_backend_graph_compute": (C.c_int, [C.c_void_p] * 2),
}


class Ggml:
    def __init__(self):
        package = os.path.dirname(importlib.util.find_spec("llama_cpp").origin)
        self.base, self.cpu = [C.CDLL(os.path.join(package, "lib", name), C.RTLD_GLOBAL)
                               for name in ("libggml-base.so", "libggml-cpu.so")]
        for name, (result, args) in _SIGNATURES.items():
            function = getattr(self.base, name)
            function.restype, function.argtypes = result, args
        self.cpu.ggml_backend_cpu_init.restype = C.c_void_p
        self.cpu.ggml_backend_cpu_set_n_threads.argtypes = [C.c_void_p, C.c_int]
        self.backend = self.cpu.ggml_backend_cpu_init()
        self.data_offset = self._find_data()

    def _find_data(self):
        """Where a tensor keeps its address: its layout changes between versions, and no call sets it."""
        context = self.base.ggml_init(_InitParams(1 << 20, None, False))
        tensor = self.base.ggml_new_tensor_4d(context, F32, 4, 1, 1, 1)
        words = (C.c_uint64 * 40).from_address(tensor)
        offsets = [8 * i for i, word in enumerate(words) if word == self.base.ggml_get_data(tensor)]
        self.base.ggml_free(context)
        if len(offsets) != 1:
            raise RuntimeError("this ggml's tensors are laid out in an unknown way")
        return offsets[0]

    def set_threads(self, threads):
        self.cpu.ggml_backend_cpu_set_n_threads(self.backend, threads)

    def _set_data(self, tensor, address):
        C.c_uint64.from_address(tensor + self.data_offset).value = address


class FlashAttention:
    """One query token against caches [Hkv, n, d] in fp16. as_rows: the query heads of a KV head are its query rows."""

    def __init__(self, ggml, q, num_kv_heads, n, as_rows=False, mask=None, n_kv_max=0):
        """q: float32 [Hq, d]; mask: fp16 [1 or Hkv, rows, n], 0 and -inf, of which n_kv_max are 0 in each row."""
        num_q_heads, d = q.shape
        group = num_q_heads // num_kv_heads
        rows, heads = (group, num_kv_heads) if as_rows else (1, num_q_heads)
        base = ggml.base
        self.ggml, self.keep = ggml, (q, mask)
        context = base.ggml_init(_InitParams(4 << 20, None, True))
        tensor_q = base.ggml_new_tensor_4d(context, F32, d, rows, heads, 1)
        self.k, self.v = [base.ggml_new_tensor_4d(context, F16, d, n, num_kv_heads, 1) for _ in range(2)]
        tensor_mask = None
        if mask is not None:
            tensor_mask = base.ggml_new_tensor_4d(context, F16, n, rows, mask.shape[0], 1)
            ggml._set_data(tensor_mask, mask.ctypes.data)
        result = base.ggml_flash_attn_ext(context, tensor_q, self.k, self.v, tensor_mask, d ** -0.5, 0, 0)
        if n_kv_max:
            base.ggml_flash_attn_ext_set_n_kv_max(result, n_kv_max)
        self._result = np.zeros((rows, heads, d), np.float32)
        ggml._set_data(tensor_q, q.ctypes.data)
        ggml._set_data(result, self._result.ctypes.data)
        self.graph = base.ggml_new_graph(context)
        base.ggml_build_forward_expand(self.graph, result)

    def run(self, k, v):
        """Addresses of one layer."""
        self.ggml._set_data(self.k, k)
        self.ggml._set_data(self.v, v)
        if self.ggml.base.ggml_backend_graph_compute(self.ggml.backend, self.graph):
            raise RuntimeError("ggml_backend_graph_compute failed")

    def out(self):
        """[Hq, d]"""
        return self._result.transpose(1, 0, 2).reshape(-1, self._result.shape[2])
