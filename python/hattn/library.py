# SPDX-License-Identifier: Apache-2.0
"""libhattn.so.0: where it is, its functions, and its refusals as exceptions."""

from __future__ import annotations

import ctypes as C
import os
from typing import Any, TypeVar

from hattn import abi

Struct = TypeVar("Struct", bound=C.Structure)


class HattnError(Exception):
    """A call that the library refused, in its words. `status` is one of hattn.abi's, INVALID_ARGUMENT ..."""

    status = -1


class InvalidArgument(HattnError, ValueError):
    """Something is missing, has a wrong size or contradicts itself; also of arrays, before the library sees them."""

    status = abi.INVALID_ARGUMENT


class Unsupported(HattnError, NotImplementedError):
    """A valid problem that this backend does not do."""

    status = abi.UNSUPPORTED


class NoDevice(HattnError):
    """The backend is not built, has no driver, or has no device of that index."""

    status = abi.NO_DEVICE


class OutOfMemory(HattnError, MemoryError):
    status = abi.OUT_OF_MEMORY


class WorkspaceTooSmall(HattnError):
    status = abi.WORKSPACE_TOO_SMALL


class DeviceError(HattnError, RuntimeError):
    """The vendor's runtime failed."""

    status = abi.DEVICE_ERROR


ERRORS = {e.status: e for e in (InvalidArgument, Unsupported, NoDevice, OutOfMemory, WorkspaceTooSmall, DeviceError)}


def sized(struct: type[Struct]) -> Struct:
    """A struct of zeros with its size set, which the library must be told."""
    value = struct()
    value.struct_size = C.sizeof(struct)
    return value


def check(status: int, error: abi.Error) -> None:
    """Raises what a call refused. `error` is what the call was given."""
    if status:
        raise ERRORS.get(status, HattnError)(error.text.decode(errors="replace") or "status %d" % status)


class Library:
    """The shared library at `path`; without one $HATTN_LIBRARY, that of the wheel, or the system's.

    Its functions are attributes, hattn_decode(plan, args, exec, error) ...: abi.FUNCTIONS has their types. A call
    releases Python's global lock.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        bundled = os.path.join(os.path.dirname(os.path.abspath(__file__)), "libhattn.so.0")
        self.path = os.fspath(path or os.environ.get("HATTN_LIBRARY") or
                              (bundled if os.path.exists(bundled) else "libhattn.so.0"))
        try:
            self._lib = C.CDLL(self.path)
        except OSError as error:
            raise NoDevice("no hattn library: %s" % error) from error
        for name, (returned, parameters) in abi.FUNCTIONS.items():
            function = getattr(self._lib, name)
            function.restype, function.argtypes = returned, parameters

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lib, name)

    @property
    def version(self) -> str:
        number = self._lib.hattn_version()
        return "%d.%d.%d" % (number // 10000, number // 100 % 100, number % 100)


_default: Library | None = None


def default_library() -> Library:
    """Loaded at the first use, once for the process."""
    global _default
    if _default is None:
        _default = Library()
    return _default
