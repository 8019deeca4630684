"""Every function of api.h but whole blocks, called through ctypes, against float64."""

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from attnblocks.ops.native.library import library
from tests.ops.kernel_calls import DTYPES, Map, Result, agree, call, drawn, laid_out, maps, normal

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels here: see ops.forms()")

# Which gates the functions take together: channel, coords, positions.
GATES = [(1, 1, 0), (0, 1, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1), (0, 0, 0)]
some = st.tuples(st.booleans(), st.booleans(), st.booleans())
gates = st.sampled_from(GATES)


def shapes(x: Tensor) -> tuple[tuple[int, ...], ...]:
    """Those of what stands beside a map: channel, coords, positions."""
    n, c, h, w = x.shape
    return (n, c), (n, h + w, c), (n, h, w)


def values(x: Tensor, which, seed: int) -> list[Tensor | None]:
    """Random arrays for the channels, coords and positions of a map, where wanted."""
    sizes = zip(shapes(x), which, strict=True)
    return [normal(*s, seed=seed + i) if want else None for i, (s, want) in enumerate(sizes)]


def results(x: Tensor, which) -> list[Result | None]:
    sizes = zip(shapes(x), which, strict=True)
    return [Result(*s) if want else None for s, want in sizes]


# The formulas, as sums of products in the dtype of their arguments.


def coordinate_means(x: Tensor) -> Tensor:
    rows, columns = torch.einsum("nchw->nhc", x), torch.einsum("nchw->nwc", x)
    return torch.cat([rows / x.shape[3], columns / x.shape[2]], dim=1)


def channel_means(x: Tensor) -> Tensor:
    return torch.einsum("nchw->nc", x) / (x.shape[2] * x.shape[3])


def factors(x: Tensor, channel, coords, positions) -> list[Tensor]:
    """All gates of a product, ones for those that are not there: channel, rows, columns, ..."""
    of_channel, of_lines, of_positions = (x.new_ones(s) for s in shapes(x))
    lines = of_lines if coords is None else coords
    return [
        of_channel if channel is None else channel,
        lines[:, : x.shape[2]],
        lines[:, x.shape[2] :],
        of_positions if positions is None else positions,
    ]


def product(x: Tensor, *given: Tensor | None) -> Tensor:
    return torch.einsum("nchw,nc,nhc,nwc,nhw->nchw", x, *factors(x, *given))


def d_channel(x: Tensor, grad: Tensor, *given: Tensor | None) -> Tensor:
    _, rows, columns, positions = factors(x, *given)
    return torch.einsum("nchw,nchw,nhc,nwc,nhw->nc", x, grad, rows, columns, positions)


def d_coords(x: Tensor, grad: Tensor, *given: Tensor | None) -> Tensor:
    channel, rows, columns, _ = factors(x, *given)
    d_rows = torch.einsum("nchw,nchw,nc,nwc->nhc", x, grad, channel, columns)
    return torch.cat([d_rows, torch.einsum("nchw,nchw,nc,nhc->nwc", x, grad, channel, rows)], dim=1)


def d_positions(x: Tensor, grad: Tensor, *given: Tensor | None) -> Tensor:
    return torch.einsum("nchw,nchw,nc->nhw", x, grad, factors(x, *given)[0])


def shared(x: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """What comes to every value of a gradient of 1 of the maximum, which torch shares on ties."""
    leaf = x.detach().double().requires_grad_()
    return torch.autograd.grad(leaf.amax(dims).sum(), leaf)[0]


def through_means(x: Tensor, of_coords: Tensor | None, of_means: Tensor | None) -> Tensor:
    """What comes to every position through the means of its row, column and channel."""
    _, _, h, w = x.shape
    rows, columns = (torch.zeros(x.shape, dtype=torch.float64) for _ in range(2))
    if of_coords is not None:
        rows += of_coords[:, :h].transpose(1, 2)[..., None] / w
        columns += of_coords[:, h:].transpose(1, 2)[:, :, None] / h
    return rows + columns + (0 if of_means is None else of_means[..., None, None] / (h * w))


@drawn(maps(), some)
def test_statistics(m: Map, which):
    n, c, h, w = m.x.shape
    sizes = zip([(n, h + w, c), (n, c), (n, c)], which, strict=True)
    coords, means, maxima = (Result(*s) if want else None for s, want in sizes)
    call("statistics", m.geometry(), m.x, coords, means, maxima)
    if coords:
        agree(coords.values, coordinate_means, m.x)
    if means:
        agree(means.values, channel_means, m.x)
    if maxima:
        torch.testing.assert_close(
            maxima.values, m.x.float().amax((2, 3)), rtol=0, atol=0, equal_nan=True
        )


@drawn(maps(), gates)
def test_product(m: Map, which):
    given, out = values(m.x, which, seed=1), m.result()
    call("product", m.geometry(), m.x, *given, out)
    agree(out.values, product, m.x, *given)


@drawn(maps(), gates, some)
def test_gate_gradients(m: Map, which, wanted):
    given, grad = values(m.x, which, seed=1), m.like(normal(*m.x.shape, seed=9))
    # Those of coords and of positions are made where there are such gates.
    wanted = wanted[0], wanted[1] and which[1], wanted[2] and which[2]
    found = results(m.x, wanted)
    call("gate_gradients", m.geometry(), m.x, grad, *given, *found)
    for result, formula in zip(found, (d_channel, d_coords, d_positions), strict=True):
        if result:
            agree(result.values, formula, m.x, grad, *given)


@drawn(maps(), st.booleans(), gates.filter(lambda which: not which[2]), some)
def test_map_gradient(m: Map, passed, which, through):
    x = m.x
    grad = m.like(normal(*x.shape, seed=9)) if passed else None
    channel, coords, _ = values(x, which, seed=1) if passed else (None, None, None)
    of_means, of_coords, _ = values(x, (through[0], through[1], False), seed=4)
    maxima, of_maxima = None, None
    if through[2]:
        maxima, of_maxima = x.float().amax((2, 3)), normal(*x.shape[:2], seed=8)
    out = m.result()
    arrays = grad, channel, coords, None, of_coords, of_means, maxima, of_maxima
    call("map_gradient", m.geometry(), x, *arrays, out)

    shares = shared(x, (2, 3))

    def formula(grad, channel, coords, of_coords, of_means, of_maxima):
        total = through_means(shares, of_coords, of_means)
        if grad is not None:
            total = total + product(grad, channel, coords, None)
        if of_maxima is not None:
            total = total + torch.einsum("nchw,nc->nchw", shares, of_maxima)
        return total

    agree(out.values, formula, grad, channel, coords, of_coords, of_means, of_maxima)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_map_is_not_read_where_no_maximum_needs_it(dtype, last):
    m = laid_out(normal(2, 11, 5, 6, seed=0), dtype, last, 0, 1)
    of_coords, of_means, out = normal(2, 11, 11, seed=1), normal(2, 11, seed=2), m.result()
    call("map_gradient", m.geometry(), *[None] * 5, of_coords, of_means, None, None, out)
    agree(
        out.values,
        lambda *given: through_means(m.x, *given),
        of_coords,
        of_means,
    )


def gated(x: Tensor, channel: Tensor | None) -> Tensor:
    return x if channel is None else torch.einsum("nchw,nc->nchw", x, channel.to(x.dtype))


def position_statistics(x: Tensor, channel: Tensor | None) -> Tensor:
    y = gated(x, channel)
    return torch.stack([y.amax(1), torch.einsum("nchw->nhw", y) / y.shape[1]], dim=1)


@drawn(maps(), st.booleans())
def test_position_statistics(m: Map, of_channels):
    n, _, h, w = m.x.shape
    channel, out = values(m.x, (of_channels, False, False), seed=1)[0], Result(n, 2, h, w)
    call("position_statistics", m.geometry(), m.x, channel, out)
    agree(out.values, position_statistics, m.x, channel)
    if not of_channels:
        maxima = m.x.float().amax(1)
        torch.testing.assert_close(out.values[:, 0], maxima, rtol=0, atol=0, equal_nan=True)


@drawn(maps(), some)
def test_position_gradient(m: Map, which):
    n, c, h, w = m.x.shape
    # With powers of two as gates, what ties in float32 ties in float64.
    channel = (
        2.0 ** normal(n, c, seed=1).round() * normal(n, c, seed=2).sign() if which[0] else None
    )
    found, grad = Result(n, 2, h, w), normal(n, 2, h, w, seed=3)
    call("position_statistics", m.geometry(), m.x, channel, found)
    d_x, d_gates = m.result() if which[1] else None, Result(n, c) if which[2] else None
    call("position_gradient", m.geometry(), m.x, channel, found.values.clone(), grad, d_x, d_gates)

    shares = shared(gated(m.x.double(), channel), 1)

    def d_gated(grad):
        return torch.einsum("nchw,nhw->nchw", shares, grad[:, 0]) + grad[:, 1:] / c

    if d_x:
        agree(d_x.values, lambda grad, channel: gated(d_gated(grad), channel), grad, channel)
    if d_gates:
        agree(
            d_gates.values,
            lambda grad, x: torch.einsum("nchw,nchw->nc", d_gated(grad), x),
            grad,
            m.x,
        )


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_maxima_of_special_values_are_those_of_torch(value, dtype, last):
    x = normal(3, 45, 9, 11, seed=0)
    x[0, 3, 2, 5] = x[1, 44, 8, 10] = x[1, 0, 0, 0] = x[2, 40] = x[2, :, 7, 7] = value
    x[2, 20, 1, 1:3] = torch.tensor([float("inf"), -float("inf")])  # whose sum is no number
    m = laid_out(x, dtype, last, 0, 1)
    for coords in (None, Result(3, 20, 45)):
        maxima = Result(3, 45)
        call("statistics", m.geometry(), m.x, coords, None, maxima)
        torch.testing.assert_close(maxima.values, m.x.float().amax((2, 3)), equal_nan=True)
    positions = Result(3, 2, 9, 11)
    call("position_statistics", m.geometry(), m.x, None, positions)
    torch.testing.assert_close(positions.values[:, 0], m.x.float().amax(1), equal_nan=True)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_that_fill_vectors_are_no_ties(dtype, last):
    m = laid_out(normal(2, 11, 5, 7, seed=0).round().clamp(max=0), dtype, last, 0, 1)
    maxima, of_maxima, out = m.x.float().amax((2, 3)), normal(2, 11, seed=1), m.result()
    assert (maxima == 0).all()
    call("map_gradient", m.geometry(), m.x, *[None] * 6, maxima, of_maxima, out)
    shares = shared(m.x, (2, 3))
    agree(out.values, lambda grad: torch.einsum("nchw,nc->nchw", shares, grad), of_maxima)


def everything(m: Map) -> list[Tensor]:
    """What every function makes of a map, all results at once."""
    x, geometry = m.x, m.geometry()
    n, c, h, w = x.shape
    coords, means, maxima = Result(n, h + w, c), Result(n, c), Result(n, c)
    call("statistics", geometry, x, coords, means, maxima)
    made, grad = [coords, means, maxima], m.like(normal(*x.shape, seed=9))
    for which in GATES:
        given, out, found = values(x, which, seed=1), m.result(), results(x, (1, *which[1:]))
        call("product", geometry, x, *given, out)
        call("gate_gradients", geometry, x, grad, *given, *found)
        made += [out, *filter(None, found)]
    channel, of_coords, _ = values(x, (True, True, False), seed=1)
    of_means, of_maxima = normal(n, c, seed=4), normal(n, c, seed=5)
    out = m.result()
    through = of_coords, of_means, maxima.values.clone(), of_maxima
    call("map_gradient", geometry, x, grad, channel, of_coords, None, *through, out)
    positions, d_x, d_gates = Result(n, 2, h, w), m.result(), Result(n, c)
    call("position_statistics", geometry, x, channel, positions)
    found, of_found = positions.values.clone(), normal(n, 2, h, w, seed=6)
    call("position_gradient", geometry, x, channel, found, of_found, d_x, d_gates)
    return [result.values for result in (*made, out, positions, d_x, d_gates)]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 77, 20, 23), (2, 130, 13, 7), (5, 33, 7, 24)])
def test_the_number_of_threads_changes_no_bit(shape, dtype, last):
    x = normal(*shape, seed=0)
    first = everything(laid_out(x, dtype, last, 0, 1))
    for threads in (1, 2, 3):
        again = everything(laid_out(x, dtype, last, 0, threads))
        assert all(map(torch.equal, first, again))
