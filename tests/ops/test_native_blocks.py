"""Whole blocks by their function of api.h, called through ctypes, against formulas in float64."""

import math
import struct
import threading
from dataclasses import dataclass

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from attnblocks.ops.native.library import library
from tests.ops.kernel_calls import DTYPES, Map, Result, call, drawn, laid_out, maps, normal, within

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels here: see ops.forms()")

MEANS, MEANS_AND_MAXIMA, CONVOLUTION, COORD = 1, 2, 3, None
FUNCTIONS = [lambda x: x, F.relu, F.relu6, F.hardswish, F.silu, F.sigmoid, F.hardsigmoid]
SIGMOID, HARDSIGMOID = 5, 6
EPS = 1e-3


@dataclass
class Stage:
    """A stage of a block: its kind, its numbers, and its tensors by the names of api.h."""

    kind: int | None
    width: int
    activation: int
    gate: int
    tensors: dict[str, Tensor]

    def packed(self) -> bytes:
        """The struct of api.h; None becomes a null pointer."""
        names = ["w1", "b1", "norm_weight", "norm_bias", "norm_mean", "norm_var"]
        names += ["wh", "bh", "ww", "bw"] if self.kind is COORD else ["w2", "b2"]
        pointers = [
            self.tensors[n].data_ptr() if n in self.tensors else 0 for n in [*names, "gain"]
        ]
        gains = self.tensors["gain"].numel() if "gain" in self.tensors else 0
        numbers = self.width, self.activation, self.gate, gains
        if self.kind is COORD:
            return struct.pack("4q11qd", *numbers, *pointers, EPS)
        return struct.pack("5q9qd", self.kind, *numbers, *pointers, EPS)

    def exact(self, name: str, absent: float = 0.0) -> Tensor:
        found = self.tensors.get(name)
        return torch.tensor(absent, dtype=torch.float64) if found is None else found.double()

    def hidden(self, vectors: Tensor) -> Tensor:
        """The bottleneck of vectors, (..., C) to (..., width)."""
        y = torch.einsum("kc,...c->...k", self.exact("w1"), vectors) + self.exact("b1")
        if "norm_mean" in self.tensors:
            y = (y - self.exact("norm_mean")) / (self.exact("norm_var") + EPS).sqrt()
            y = y * self.exact("norm_weight", 1.0) + self.exact("norm_bias")
        return FUNCTIONS[self.activation](y)

    def gated(self, logits: Tensor) -> Tensor:
        return FUNCTIONS[self.gate](logits) * self.exact("gain", 1.0)

    def out(self, weight: str, bias: str, hidden: Tensor) -> Tensor:
        return torch.einsum("ck,...k->...c", self.exact(weight), hidden) + self.exact(bias)

    def channel_gates(self, x: Tensor) -> Tensor:
        means = torch.einsum("nchw->nc", x) / (x.shape[2] * x.shape[3])
        if self.kind == CONVOLUTION:
            half = self.width // 2
            windows = F.pad(means, (half, half)).unfold(1, self.width, 1)
            return self.gated(torch.einsum("nck,k->nc", windows, self.exact("w1")))
        logits = self.out("w2", "b2", self.hidden(means))
        if self.kind == MEANS_AND_MAXIMA:
            maxima = x.flatten(2).sort(dim=2).values[:, :, -1]
            logits = logits + self.out("w2", "b2", self.hidden(maxima))
        return self.gated(logits)

    def coordinate_gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.einsum("nchw->nhc", x) / x.shape[3]
        columns = torch.einsum("nchw->nwc", x) / x.shape[2]
        of_rows = self.gated(self.out("wh", "bh", self.hidden(rows)))
        return of_rows, self.gated(self.out("ww", "bw", self.hidden(columns)))


def formula(x: Tensor, channel: Stage | None, coord: Stage | None) -> tuple[Tensor | None, Tensor]:
    """The channel gates and the result of a block in float64."""
    gates, y = None, x.double()
    if channel is not None:
        gates = channel.channel_gates(y)
        y = torch.einsum("nchw,nc->nchw", y, gates)
    if coord is not None:
        y = torch.einsum("nchw,nhc,nwc->nchw", y, *coord.coordinate_gates(y))
    return gates, y


def run(
    m: Map,
    channel: Stage | None,
    coord: Stage | None = None,
    *,
    gates: bool = False,
    out: bool = True,
    threads: int | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """The channel gates and the result of a block, where wanted."""
    of_channels = Result(*m.x.shape[:2]) if gates else None
    result = m.result() if out else None
    stages = [None if stage is None else stage.packed() for stage in (channel, coord)]
    parameters = [t for stage in (channel, coord) if stage for t in stage.tensors.values()]
    geometry = m.geometry(threads)
    call("block", geometry, m.x, *stages, None, of_channels, result, parameters=parameters)
    return of_channels and of_channels.values, result and result.values


def stage_of(
    kind: int | None,
    channels: int,
    dtype: torch.dtype,
    *,
    width: int = 8,
    functions: tuple[int, int] = (1, SIGMOID),
    norm: int = 2,
    biases: bool = True,
    gains: int = 0,
    zero: bool = False,
    seed: int = 0,
) -> Stage:
    """A stage with random tensors.

    Args:
        kind: of the stage.
        channels: of the map.
        dtype: of the map.
        width: of the bottleneck or convolution.
        functions: the numbers of the activation and of the gate function.
        norm: 0 for none, 1 for one without weight and bias, 2 for a whole one.
        biases: whether the layers have some.
        gains: 0, 1 or one for every channel.
        zero: whether the logits are 0, and the gains 2.
        seed: of the values.
    """
    if kind == CONVOLUTION:
        tensors = {"w1": normal(width, seed=seed) / width**0.5}
    else:
        tensors = {"w1": normal(width, channels, seed=seed) / channels**0.5}
        for i, (weight, bias) in enumerate(
            [("wh", "bh"), ("ww", "bw")] if kind is COORD else [("w2", "b2")]
        ):
            tensors[weight] = normal(channels, width, seed=seed + 1 + i) / width**0.5
            if biases:
                tensors[bias] = normal(channels, seed=seed + 3 + i)
        if biases:
            tensors["b1"] = normal(width, seed=seed + 5)
        if norm:
            tensors["norm_mean"] = normal(width, seed=seed + 6)
            tensors["norm_var"] = normal(width, seed=seed + 7).abs() + 0.5
        if norm == 2:
            tensors["norm_weight"] = normal(width, seed=seed + 8)
            tensors["norm_bias"] = normal(width, seed=seed + 9)
    if gains:
        tensors["gain"] = normal(gains, seed=seed + 10).abs() + 0.5
    if zero:
        last = ["w1"] if kind == CONVOLUTION else ["w2", "b2", "wh", "bh", "ww", "bw"]
        tensors |= {name: torch.zeros_like(tensors[name]) for name in last if name in tensors}
        tensors["gain"] = torch.full((max(gains, 1),), 2.0)
    return Stage(kind, width, *functions, {k: v.to(dtype) for k, v in tensors.items()})


@st.composite
def stages(draw, m: Map, kinds: list[int | None]) -> Stage:
    kind, channels = draw(st.sampled_from(kinds)), m.x.shape[1]
    widths = st.sampled_from(
        [1, 3, 5, 9, 17] if kind == CONVOLUTION else [1, 2, 4, 7, 8, 13, 16, 36]
    )
    return stage_of(
        kind,
        channels,
        m.x.dtype,
        width=draw(widths),
        functions=(draw(st.integers(0, 6)), draw(st.integers(0, 6))),
        norm=draw(st.integers(0, 2)),
        biases=draw(st.booleans()),
        gains=draw(st.sampled_from([0, 1, channels])),
        seed=draw(st.integers(0, 999)),
    )


@st.composite
def blocks(draw) -> tuple[Map, Stage | None, Stage | None]:
    """A map, and a channel stage, a coordinate stage, or both."""
    m = draw(maps(["normal", "ties"]))
    which = draw(st.sampled_from([(True, False), (False, True), (True, True)]))
    channel = draw(stages(m, [MEANS, MEANS_AND_MAXIMA, CONVOLUTION])) if which[0] else None
    return m, channel, draw(stages(m, [COORD])) if which[1] else None


def agrees(found: Tensor, wanted: Tensor) -> None:
    within(found, wanted, 2**-17 * max(1.0, wanted.abs().max().item()))


@drawn(blocks(), st.sampled_from(["out", "gates", "both"]), few=30, many=500)
def test_blocks(block, what):
    m, channel, coord = block
    gates = channel is not None and what != "out"
    found = run(m, channel, coord, gates=gates, out=what != "gates" or not gates)
    wanted = formula(m.x, channel, coord)
    for ours, exact in zip(found, wanted, strict=True):
        if ours is not None:
            agrees(ours, exact)


@pytest.mark.parametrize("function", range(len(FUNCTIONS)))
def test_functions_are_those_of_torch(function):
    """As gates of a convolution with one weight, of maps with one position."""
    steps = torch.linspace(-100, 100, 20001)
    x = torch.cat([steps, torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan])])
    m = laid_out(x[None, :, None, None], torch.float32, False, 0, 1)
    identity = Stage(CONVOLUTION, 1, 0, function, {"w1": torch.ones(1)})
    found, _ = run(m, identity, gates=True, out=False)
    wanted = FUNCTIONS[function](x.double()[None])
    within(found, wanted, 2**-22 * wanted.abs().clamp(min=2**-20))
    # The same as activations: of a bottleneck of one channel, whose second weight is 1.
    columns = laid_out(x[:, None, None, None], torch.float32, False, 0, 1)
    ones = {"w1": torch.ones(1, 1), "w2": torch.ones(1, 1)}
    found, _ = run(columns, Stage(MEANS, 1, function, 0, ones), gates=True, out=False)
    within(found, wanted.T, 2**-22 * wanted.T.abs().clamp(min=2**-20))


COMBINATIONS = [
    (MEANS, False),
    (MEANS_AND_MAXIMA, False),
    (CONVOLUTION, False),
    (None, True),
    (MEANS, True),
    (MEANS_AND_MAXIMA, True),
    (CONVOLUTION, True),
]
every_block = pytest.mark.parametrize(("kind", "coord"), COMBINATIONS)
both_layouts = pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])


def pair(kind: int | None, coord: bool, m: Map, **options) -> list[Stage | None]:
    """The stages of a block of one of the combinations."""
    channels, dtype = m.x.shape[1], m.x.dtype
    width = 3 if kind == CONVOLUTION else 8
    return [
        stage_of(kind, channels, dtype, width=width, **options) if kind else None,
        stage_of(COORD, channels, dtype, seed=50, **options) if coord else None,
    ]


@every_block
@both_layouts
@both_dtypes
@pytest.mark.parametrize("gate", [SIGMOID, HARDSIGMOID])
def test_blocks_whose_logits_are_zero_change_no_bit(kind, coord, last, dtype, gate):
    for shape in [(2, 19, 7, 9), (1, 40, 16, 5), (3, 5, 1, 1)]:
        m = laid_out(normal(*shape, seed=0), dtype, last, 5, 2)
        for gains in (1, shape[1]):
            zero = pair(kind, coord, m, functions=(1, gate), gains=gains, zero=True)
            assert torch.equal(run(m, *zero)[1], m.x)


@every_block
@both_layouts
@both_dtypes
def test_the_number_of_threads_changes_no_bit(kind, coord, last, dtype):
    for shape in [(1, 77, 20, 23), (5, 33, 13, 16)]:
        m = laid_out(normal(*shape, seed=0), dtype, last, 0, 1)
        stages = pair(kind, coord, m)
        for out in (False, True):
            options = {"gates": kind is not None, "out": out or kind is None}
            first = run(m, *stages, **options)
            for threads in (1, 2, 3):
                again = run(m, *stages, threads=threads, **options)
                assert all(a is b or torch.equal(a, b) for a, b in zip(first, again, strict=True))


@every_block
@both_layouts
def test_nan_and_infinities_stay_in_their_image(kind, coord, last):
    for value in (math.nan, math.inf, -math.inf):
        x = normal(3, 18, 6, 7, seed=0)
        x[1, 2, 3, 4] = value
        m = laid_out(x, torch.float32, last, 9, 1)
        # Functions that take infinities as they are, so that formulas and kernels can be compared.
        stages = pair(kind, coord, m, functions=(1, SIGMOID))
        gates, y = run(m, *stages, gates=kind is not None)
        of_formula, exact = formula(m.x, *stages)
        within(y, exact, 1e-4)
        assert gates is None or within(gates, of_formula, 1e-4) is None
        assert y[[0, 2]].isfinite().all()


@every_block
@both_layouts
@both_dtypes
def test_calls_share_no_values(kind, coord, last, dtype):
    """A thread keeps memory between calls; that of a new thread has never been used."""
    small = laid_out(normal(2, 11, 5, 6, seed=0), dtype, last, 0, 1)
    large = laid_out(torch.full((2, 45, 17, 19), math.nan), dtype, last, 0, 1)
    found = []

    def calls():
        found.append(run(small, *pair(kind, coord, small))[1])
        run(large, *pair(kind, coord, large))
        found.append(run(small, *pair(kind, coord, small))[1])

    thread = threading.Thread(target=calls)
    thread.start()
    thread.join()
    first, second = found
    assert torch.equal(first, second)
