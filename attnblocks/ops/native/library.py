"""Finds and loads the library of CPU kernels for this processor, or says why there is none."""

import ctypes
import functools
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ABI = 3  # of the functions below; ATTNBLOCKS_ABI in api.h
FOLDER = Path(__file__).parent
SUFFIX = ".dll" if sys.platform == "win32" else ".so"

_BYTES, _DATA = ctypes.c_char_p, ctypes.c_void_p
# The arguments of every function, after api.h: packed structs, then pointers to data. All return
# nothing.
ARGUMENTS = {
    "attnblocks_statistics": [_BYTES, *[_DATA] * 4],
    "attnblocks_product": [_BYTES, *[_DATA] * 5],
    "attnblocks_gate_gradients": [_BYTES, *[_DATA] * 8],
    "attnblocks_map_gradient": [_BYTES, *[_DATA] * 10],
    "attnblocks_position_statistics": [_BYTES, *[_DATA] * 3],
    "attnblocks_position_gradient": [_BYTES, *[_DATA] * 6],
    "attnblocks_block": [_BYTES, _DATA, *[_BYTES] * 3, *[_DATA] * 2],
}


# Of the one function that is called with the lock of the interpreter, and returns an object.
ARGUMENTS_OF_RUN: list[Any] = [
    _BYTES,
    _BYTES,
    ctypes.c_int64,
    ctypes.py_object,
    _BYTES,
    *[_DATA] * 3,
]


class _MissingError(Exception):
    """Why there are no kernels."""


@dataclass(frozen=True)
class _Kernels:
    """The library if there is one, whether it runs in threads, and where it is or why not."""

    library: ctypes.CDLL | None
    threaded: bool
    why: str


@dataclass(frozen=True)
class Forms:
    """Which form of the operations runs on which maps.

    Attributes:
        cpu: on float32 and bfloat16 maps on the CPU, contiguous or channels-last: "native" (the
            compiled kernels) or "eager" (few plain torch operators).
        other: on all other maps.
        recorded: where operators are recorded: by ``torch.compile``, ``torch.export``, ONNX and
            tracing.
        why: the instruction set, threads and file of the kernels, or why there are none.
    """

    cpu: str
    other: str
    recorded: str
    why: str


def forms() -> Forms:
    """Which form of the operations runs here, and why; loads the kernels.

    Returns:
        The form for every kind of map, in words.

    Raises:
        ValueError: if ``ATTNBLOCKS_NATIVE`` is neither 0 nor 1.
    """
    found = _load()
    if found.library is None:
        return Forms("eager", "eager", "formulas", found.why)
    why = f"{found.why}; threads: {threads()}"
    return Forms("native", "eager", "formulas", why)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, loaded at the first call.

    Returns:
        The library; None where there is none, for the reason that :func:`forms` gives.

    Raises:
        ValueError: if ``ATTNBLOCKS_NATIVE`` is neither 0 nor 1.
    """
    return _load().library


def threads() -> int:
    """The number of threads that a kernel may take now."""
    return torch.get_num_threads() if _load().threaded else 1


@functools.cache
def _load() -> _Kernels:
    """What was found, once in a process."""
    try:
        return _open(FOLDER / f"kernels_{_instruction_set()}{SUFFIX}")
    except _MissingError as reason:
        return _Kernels(None, False, str(reason))


def _instruction_set() -> str:
    """The instruction set to take, by the environment and the processor."""
    wanted = os.environ.get("ATTNBLOCKS_NATIVE", "1")
    if wanted not in ("0", "1"):
        raise ValueError(f"ATTNBLOCKS_NATIVE is {wanted!r}; it takes 1 (kernels) or 0 (none)")
    if wanted == "0":
        raise _MissingError("ATTNBLOCKS_NATIVE=0 turns the kernels off")
    machine = platform.machine()
    if machine in ("arm64", "aarch64", "ARM64"):
        return "neon"
    if machine not in ("x86_64", "AMD64"):
        raise _MissingError(f"there are none for processors of type {machine}")
    capability = torch.backends.cpu.get_cpu_capability()
    if capability.startswith("AVX512"):
        return "avx512"
    if capability != "AVX2":
        raise _MissingError(f"the kernels need AVX2, and torch reports {capability!r}")
    return "avx2"


def _open(file: Path) -> _Kernels:
    """Load a library, and set the signatures of its functions."""
    if not file.exists():
        raise _MissingError(
            f"{file} was not built: no C++ compiler was found when attnblocks was installed, or "
            "this checkout was not"
        )
    shared = _openmp_is_loaded()
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        raise _MissingError(f"{file} does not load: {error}") from error
    abi = library.attnblocks_abi() if hasattr(library, "attnblocks_abi") else "none"
    if abi != ABI:
        raise _MissingError(
            f"{file} was built from other sources (version {abi}, not {ABI}): "
            "install attnblocks again"
        )
    for name, arguments in ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    if not library.attnblocks_openmp():
        return _Kernels(library, False, f"{file}, built without OpenMP")
    if not shared:
        return _Kernels(library, False, f"{file}, whose OpenMP is not the one of torch")
    return _Kernels(library, True, str(file))


@functools.cache
def _openmp_is_loaded() -> bool:
    """Whether torch has loaded the OpenMP that the kernels are linked to; asked before they are.

    A second one in the process would start threads of its own.
    """
    if sys.platform != "linux":
        return False
    try:
        ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    except OSError:
        return False
    return True
