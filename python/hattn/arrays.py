# SPDX-License-Identifier: Apache-2.0
"""What numpy arrays, and all others that export DLPack (torch, cupy, jax), have in common: address, dtype, strides."""

from __future__ import annotations

import ctypes as C
from typing import Any, NamedTuple

import numpy as np

from hattn import abi
from hattn.library import InvalidArgument

# As numpy and ml_dtypes name them; torch the same.
DTYPES = {"float32": abi.F32, "float16": abi.F16, "bfloat16": abi.BF16, "float8_e4m3fn": abi.F8_E4M3, "int8": abi.I8,
          "uint16": abi.U16, "int32": abi.I32, "uint32": abi.U32, "int64": abi.I64, "uint8": 0}
NAMES = {number: name for name, number in DTYPES.items()}
SIZES = {abi.F32: 4, abi.F16: 2, abi.BF16: 2, abi.F8_E4M3: 1, abi.I8: 1, abi.U16: 2, abi.I32: 4, abi.U32: 4,
         abi.I64: 8, 0: 1}
# DLPack's {type code, bits}: signed, unsigned, float, bfloat, float8_e4m3fn.
_DLPACK_DTYPES = {(0, 8): "int8", (0, 32): "int32", (0, 64): "int64", (1, 8): "uint8", (1, 16): "uint16",
                  (1, 32): "uint32", (2, 16): "float16", (2, 32): "float32", (4, 16): "bfloat16",
                  (10, 8): "float8_e4m3fn"}
HOST, PINNED = (1,), (3, 11)  # DLPack's devices: the CPU's, memory of the host that CUDA or ROCm have pinned


class View(NamedTuple):
    """An array as the library sees it. The array must be kept alive; a view does not do it."""

    address: int
    dtype: int  # abi.F32 ...; 0: bytes
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    device: tuple[int, int]  # DLPack's type and index: (1, 0) is the host
    readonly: bool


class _DLTensor(C.Structure):
    _fields_ = [("data", C.c_void_p), ("device_type", C.c_int32), ("device_id", C.c_int32), ("ndim", C.c_int32),
                ("code", C.c_uint8), ("bits", C.c_uint8), ("lanes", C.c_uint16), ("shape", C.POINTER(C.c_int64)),
                ("strides", C.POINTER(C.c_int64)), ("byte_offset", C.c_uint64)]


class _Versioned(C.Structure):
    _fields_ = [("major", C.c_uint32), ("minor", C.c_uint32), ("context", C.c_void_p), ("deleter", C.c_void_p),
                ("flags", C.c_uint64), ("tensor", _DLTensor)]


_READONLY = 1  # of _Versioned.flags
_name_of = C.PYFUNCTYPE(C.c_char_p, C.py_object)(("PyCapsule_GetName", C.pythonapi))
_pointer_in = C.PYFUNCTYPE(C.c_void_p, C.py_object, C.c_char_p)(("PyCapsule_GetPointer", C.pythonapi))


def _dlpack_capsule(array: Any) -> Any:
    """Of the array as it is now: no stream is asked to wait, the caller's is the one that runs use."""
    on_host = array.__dlpack_device__()[0] in HOST
    arguments: dict[str, Any] = {} if on_host else {"stream": -1}
    try:
        return array.__dlpack__(max_version=(1, 0), **arguments)
    except TypeError:  # exporters before DLPack 1.0
        return array.__dlpack__(**arguments)


def _dlpack_view(array: Any) -> View:
    capsule = _dlpack_capsule(array)  # calls its deleter when it goes, since nobody renames it
    name = _name_of(capsule)
    pointer = _pointer_in(capsule, name)
    readonly = False
    if name == b"dltensor_versioned":
        versioned = _Versioned.from_address(pointer)
        tensor, readonly = versioned.tensor, bool(versioned.flags & _READONLY)
    else:
        tensor = _DLTensor.from_address(pointer)
    dtype = _DLPACK_DTYPES.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if dtype is None:
        raise InvalidArgument("an array has DLPack's dtype %d with %d bits, which hattn has no use for" %
                              (tensor.code, tensor.bits))
    shape = tuple(tensor.shape[:tensor.ndim])
    if tensor.strides:
        strides = tuple(tensor.strides[:tensor.ndim])
    else:
        strides = tuple(int(np.prod(shape[i + 1:])) for i in range(len(shape)))
    return View((tensor.data or 0) + tensor.byte_offset, DTYPES[dtype], shape, strides,
                (tensor.device_type, tensor.device_id), readonly)


def view(array: Any) -> View:
    """`array`: numpy's, or any with __dlpack__, on any device."""
    if not isinstance(array, np.ndarray):
        if not hasattr(array, "__dlpack__"):
            raise InvalidArgument("%s is no array: numpy's or one with __dlpack__" % type(array).__name__)
        return _dlpack_view(array)
    dtype = DTYPES.get(array.dtype.name)
    if dtype is None or not array.dtype.isnative:
        raise InvalidArgument("an array has dtype %s, which hattn has no use for" % array.dtype)
    if any(stride % array.itemsize for stride in array.strides):
        raise InvalidArgument("an array has strides that are no multiples of its elements")
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return View(array.ctypes.data, dtype, array.shape, strides, (1, 0), not array.flags.writeable)


def numpy_dtype(dtype: int) -> np.dtype[Any]:
    """For arrays made here."""
    if dtype in (abi.BF16, abi.F8_E4M3):
        raise InvalidArgument("numpy has no %s: pass an array of another library" % NAMES[dtype])
    return np.dtype(NAMES[dtype])
