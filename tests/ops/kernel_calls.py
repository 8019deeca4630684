"""Calls of the kernels through ctypes, with maps of any layout and guards around all results."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attnblocks.ops.native.library import library

DTYPES = [torch.float32, torch.bfloat16]
GUARD = 64  # elements before and behind every result
GUARD_BITS = {torch.float32: (torch.int32, 0x3F9D3C1B), torch.bfloat16: (torch.int16, 0x3F9D)}
SIDES = st.one_of(st.sampled_from([1, 2, 7, 8, 9, 16, 33]), st.integers(1, 40))


class Result:
    """A dense array for a kernel to fill, in the middle of a larger one; NaN at first."""

    def __init__(self, *shape: int, dtype: torch.dtype = torch.float32, last: bool = False):
        integers, self.bits = GUARD_BITS[dtype]
        memory = torch.full((math.prod(shape) + 2 * GUARD,), self.bits, dtype=integers)
        self.guards = memory[:GUARD], memory[-GUARD:]
        inside = memory[GUARD:-GUARD].view(dtype).fill_(math.nan)
        if last:
            n, c, h, w = shape
            self.values = inside.view(n, h, w, c).permute(0, 3, 1, 2)
        else:
            self.values = inside.view(shape)


@dataclass
class Map:
    """A map in memory, and how many threads its kernels take."""

    x: Tensor
    last: bool
    threads: int

    def geometry(self, threads: int | None = None) -> bytes:
        half = self.x.dtype == torch.bfloat16
        stride = self.x.stride(0)
        return struct.pack("8q", *self.x.shape, stride, half, self.last, threads or self.threads)

    def like(self, x: Tensor) -> Tensor:
        """A dense map of the same dtype and layout."""
        memory_format = torch.channels_last if self.last else torch.contiguous_format
        return x.to(self.x.dtype).contiguous(memory_format=memory_format)

    def result(self) -> Result:
        return Result(*self.x.shape, dtype=self.x.dtype, last=self.last)


def laid_out(x: Tensor, dtype: torch.dtype, last: bool, gap: int, threads: int) -> Map:
    """A map with these values, and NaN between its images; nothing is behind the last one."""
    n, c, h, w = x.shape
    size = c * h * w
    memory = torch.full((n * (size + gap) - gap,), math.nan, dtype=dtype)
    strides = (1, w * c, c) if last else (h * w, w, 1)
    return Map(memory.as_strided(x.shape, (size + gap, *strides)).copy_(x), last, threads)


@st.composite
def maps(draw, kinds: Sequence[str] = ("normal", "ties", "special")) -> Map:
    """A map of a drawn size, layout and dtype: normal values, ties, or NaN and such."""
    shape = draw(st.integers(1, 5)), draw(st.integers(1, 130)), draw(SIDES), draw(SIDES)
    kind, numbers = draw(st.sampled_from(kinds)), np.random.default_rng(draw(st.integers(0, 999)))
    most = draw(st.sampled_from([0, -1]))  # the zeros that fill vectors tie, or are greater
    x = numbers.integers(-3, most + 1, shape) if kind == "ties" else numbers.standard_normal(shape)
    x = torch.from_numpy(x).float()
    if kind == "special":
        places = numbers.integers(0, x.numel(), 3)
        values = draw(st.lists(st.sampled_from([math.nan, math.inf, -math.inf]), min_size=3))
        x.view(-1)[places] = torch.tensor(values[:3])
        x[-1, -1] = -math.inf  # a whole channel
    dtype, last = draw(st.sampled_from(DTYPES)), draw(st.booleans())
    return laid_out(x, dtype, last, draw(st.sampled_from([0, 3, 64])), draw(st.integers(1, 3)))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drawn(*strategies, few: int = 20, many: int = 400):
    """A test over a few drawn examples, and one marked slow over many."""

    def decorate(check):
        @pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])
        def test(count):
            settings(max_examples=count)(given(*strategies)(check))()

        return test

    return decorate


def memory_of(x: Tensor) -> Tensor:
    """All bytes that the storage of a tensor has."""
    return torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage())


def call(name: str, geometry: bytes, *arguments, parameters: Sequence[Tensor] = ()) -> None:
    """Call a kernel; what it reads does not change, nor what lies around its results.

    Args:
        name: of the function, without its prefix.
        geometry: that of the map.
        arguments: the others. Packed structs, tensors to read, results to fill; None for null.
        parameters: further tensors to read, which packed structs point to.
    """
    places = [a.values if isinstance(a, Result) else a for a in arguments]
    read = [memory_of(a) for a in (*arguments, *parameters) if isinstance(a, Tensor)]
    before = [memory.clone() for memory in read]
    function = getattr(library(), f"attnblocks_{name}")
    function(geometry, *(a.data_ptr() if isinstance(a, Tensor) else a for a in places))
    assert all(map(torch.equal, read, before))
    for result in arguments:
        if isinstance(result, Result):
            assert all((guard == result.bits).all() for guard in result.guards)


def agree(found: Tensor, formula, *inputs: Tensor | None) -> None:
    """The result of a sum of products is that of the formula in float64, but for rounding.

    That is measured with the sum of the magnitudes of all terms.
    """
    exact = [None if x is None else x.double() for x in inputs]
    wanted, size = formula(*exact), formula(*(None if x is None else x.abs() for x in exact))
    within(found, wanted, 2**-19 * size)


def within(found: Tensor, wanted: Tensor, tolerance: Tensor | float) -> None:
    """NaN and infinities are the same; the rest differs by no more, and rounding to bfloat16."""
    assert found.shape == wanted.shape
    if found.dtype == torch.bfloat16:
        tolerance = tolerance + 2**-8 * wanted.abs()
    found = found.double()
    same = (found == wanted) | (found.isnan() & wanted.isnan())
    near = wanted.isfinite() & ((found - wanted).abs() <= tolerance)
    assert (same | near).all(), (found - wanted).abs()[~(same | near)].max()
