"""What the kernels use of Python and torch in order to read a block: addresses, in one struct."""

import ctypes
import functools
import struct
import sys
from itertools import chain
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

LOCKED = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
"""Whether one thread of Python runs at a time, so that a module is not changed while it is read."""

_CALLS = (
    "PyDict_GetItem",
    "PyDict_Size",
    "PyObject_Type",
    "PyObject_GenericGetDict",
    "PyObject_GetAttr",
    "PyObject_RichCompareBool",
    "PyTuple_Size",
    "PyTuple_GetItem",
    "PyLong_AsLongLong",
    "PyFloat_AsDouble",
    "PyErr_Clear",
    "Py_IncRef",
    "Py_DecRef",
    "PyTuple_New",
    "PyTuple_SetItem",
    "PyLong_FromLongLong",
    "PyEval_SaveThread",
    "PyEval_RestoreThread",
)
FUNCTIONS: tuple[type[nn.Module], ...] = (
    nn.Identity,
    nn.ReLU,
    nn.ReLU6,
    nn.Hardswish,
    nn.SiLU,
    nn.Sigmoid,
    nn.Hardsigmoid,
)
"""Activations and gates, in the order of their numbers in the kernels."""

_CLASSES: tuple[type[nn.Module], ...] = (*FUNCTIONS, nn.Conv1d, nn.Conv2d, nn.BatchNorm2d)
_forward = attrgetter("forward")
_OBJECTS: tuple[Any, ...] = (
    *(None, True, False, (1,), (1, 1), (0, 0), "zeros", Tensor, nn.Parameter),
    *chain.from_iterable((cls, _forward(cls)) for cls in _CLASSES),
)
_NAMES = (
    *("_modules", "_parameters", "_buffers"),
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("forward", "_compiled_call_impl", "_conv_forward"),
    *("channel_gate", "coordinate_gates", "times_gain"),
    *("forward", "stride", "padding", "dilation", "padding_mode", "out_channels"),
    *("weight", "bias", "running_mean", "running_var", "training", "eps", "gain"),
)
# Names are looked up faster where they are the very strings that the modules have.
_NAMED = tuple(map(sys.intern, _NAMES))


@functools.cache
def host() -> bytes:
    """The struct ``Host``; what it names is never freed."""
    calls = [ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value for name in _CALLS]
    values = (*calls, view(), *map(id, _OBJECTS), *map(id, _NAMED))
    return struct.pack(f"{len(values)}P", *values)


@functools.cache
def view() -> int:
    """The function of torch that describes a tensor to C; 0 in a torch that has none."""
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return 0
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.argtypes, get.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    table = struct.Struct("2I5P")  # version, older table, and the first functions, all of DLPack
    place = get(capsule, b"dlpack_exchange_api")
    version, _, _, _, _, _, found = table.unpack(ctypes.string_at(place, table.size))
    return int(found) if version == 1 else 0
