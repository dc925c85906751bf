# SPDX-License-Identifier: Apache-2.0
"""hattn for Python: the library's calls over numpy arrays and all that export DLPack. api/hattn.h is the contract.

    device = hattn.Device("cpu")
    plan = device.plan(q=q, k_cache=k, v_cache=v, query_map=wq, max_sequences=1, max_length=n, k=512)
    out = plan.decode(q, k, v, codes, wq, seq_len)
"""

from hattn.library import (
    DeviceError,
    HattnError,
    InvalidArgument,
    Library,
    NoDevice,
    OutOfMemory,
    Unsupported,
    WorkspaceTooSmall,
)
from hattn.plan import Device, Plan, backends
from hattn.problem import HashMap, Layout, Problem

__all__ = ["Device", "DeviceError", "HashMap", "HattnError", "InvalidArgument", "Layout", "Library", "NoDevice",
           "OutOfMemory", "Plan", "Problem", "Unsupported", "WorkspaceTooSmall", "backends"]
