"""The functions by compiled kernels against the formulas in float64, and autograd's gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnblocks.ops import formulas, functional
from attnblocks.ops.native import functions, kernels
from attnblocks.ops.native.library import library
from benchmarks.counting import saved_bytes
from tests.helpers import FORMATS, both_formats, random_map

pytestmark = pytest.mark.skipif(library() is None, reason="no kernels here: see ops.forms()")

WIDTHS = [*range(1, 10), 14, 15, 17, 33]
GATES = {
    "channel": lambda n, c, h, w: (n, c, 1, 1),
    "rows": lambda n, c, h, w: (n, c, h, 1),
    "columns": lambda n, c, h, w: (n, c, 1, w),
    "positions": lambda n, c, h, w: (n, 1, h, w),
}
PRODUCTS = [
    ["channel"],
    ["rows", "columns"],
    ["channel", "rows", "columns"],
    ["channel", "positions"],
    ["positions"],
    ["rows"],
    ["columns", "channel"],
]


@st.composite
def maps(draw) -> torch.Tensor:
    """A map of a drawn size, dtype and layout; some are parts of larger ones."""
    n, c, h = draw(st.integers(1, 3)), draw(st.integers(1, 40)), draw(st.integers(1, 18))
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16]))
    kind = draw(st.sampled_from(["contiguous", "channels_last", "images", "channels"]))
    shape = (2 * n if kind == "images" else n, c + (kind == "channels"), h)
    x = random_map(*shape, draw(st.sampled_from(WIDTHS)), seed=draw(st.integers(0, 999)))
    x = x.to(dtype)
    if kind == "channels":
        return x[:, 1:]
    if kind == "images":
        return x.contiguous(memory_format=draw(st.sampled_from([*FORMATS.values()])))[::2]
    return x.contiguous(memory_format=FORMATS[kind])


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def close(found, wanted, dtype) -> None:
    """Equal to the float64 values but for rounding: once to bfloat16, or that of float32 sums."""
    assert found.dtype == dtype
    scale = max(1.0, wanted.abs().max().item())
    tolerance = 2**-8 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance * scale)


def agree(run, exact, inputs) -> None:
    """Values, gradients and second derivatives of ``run`` are those of ``exact`` in float64."""
    dtype = inputs[0].dtype

    def derivatives(function, wide):
        values = [x.detach().to(wide).requires_grad_() for x in inputs]
        results = function(*values)
        shapes = [y.shape for y in results]
        upstream = [
            random_map(*shape, seed=7).to(dtype).to(wide).requires_grad_() for shape in shapes
        ]
        first = torch.autograd.grad(results, values, upstream, retain_graph=True)
        again = torch.autograd.grad(results, values, upstream, create_graph=True)
        weighed = sum((g * random_map(*g.shape, seed=8).to(dtype).to(wide)).sum() for g in again)
        second = torch.autograd.grad(weighed, [*values, *upstream], materialize_grads=True)
        # Of bfloat16, the plain operators of second derivatives round every product.
        return (
            [*results, *first] if dtype == torch.bfloat16 else [*results, *first, *again, *second]
        )

    found, wanted = derivatives(run, dtype), derivatives(exact, torch.float64)
    for value, exact_value in zip(found, wanted, strict=True):
        assert value.shape == exact_value.shape
        close(value, exact_value, dtype)


def by_numpy(x, name):
    """A statistic, as sums over counts and the last of sorted values."""
    values = x.detach().double().numpy()
    n, c, h, w = values.shape
    if name == "coordinate_means":
        lines = [np.einsum("nchw->nch", values) / w, np.einsum("nchw->ncw", values) / h]
        found = np.concatenate(lines, axis=2)[..., None]
    elif name == "channel_means":
        found = np.einsum("nchw->nc", values)[..., None, None] / (h * w)
    else:
        found = np.sort(values.reshape(n, c, -1), axis=2)[:, :, -1, None, None]
    return torch.from_numpy(found)


@pytest.mark.usefixtures("threads")
@settings(max_examples=25, deadline=None)
@given(maps(), st.lists(st.sampled_from(functional.STATISTICS), min_size=1, unique=True))
def test_statistics(x, names):
    assert functional.form(x) is functions
    for name, value in zip(names, functional.statistics(x, *names), strict=True):
        close(value, by_numpy(x, name), x.dtype)
    agree(lambda x: functional.statistics(x, *names), lambda x: formulas.statistics(x, names), [x])


def gates_for(x, roles) -> list[torch.Tensor]:
    return [random_map(*GATES[r](*x.shape), seed=i).to(x.dtype) for i, r in enumerate(roles)]


@pytest.mark.usefixtures("threads")
@settings(max_examples=25, deadline=None)
@given(maps(), st.sampled_from(PRODUCTS))
def test_products(x, roles):
    gates = gates_for(x, roles)
    values = [value.detach().double().numpy() for value in (x, *gates)]
    letters = {"channel": "ncij", "rows": "nchj", "columns": "nciw", "positions": "nihw"}
    terms = [
        "nchw",
        *(
            letters[role].replace("i", a).replace("j", b)
            for role, (a, b) in zip(roles, ("ab", "de", "fg"), strict=False)
        ),
    ]
    y = functional.apply_gates(x, gates)
    close(y, torch.from_numpy(np.einsum(f"{','.join(terms)}->nchw", *values)), x.dtype)
    assert y.stride() == torch.empty_like(x).stride()
    agree(
        lambda x, *gates: [functional.apply_gates(x, [*gates])],
        lambda x, *gates: [formulas.apply_gates(x, gates)],
        [x, *gates],
    )


@pytest.mark.usefixtures("threads")
@settings(max_examples=25, deadline=None)
@given(maps())
def test_position_statistics(x):
    (gate,) = gates_for(x, ["channel"])
    if x.dtype == torch.bfloat16:  # with products that bfloat16 has, which tie in the same places
        gate = gate.sign()
    agree(
        lambda *inputs: [functional.position_statistics(*inputs)],
        lambda *inputs: [formulas.position_statistics(*inputs)],
        [x, gate],
    )
    agree(
        lambda x: [functional.position_statistics(x)],
        lambda x: [formulas.position_statistics(x, None)],
        [x],
    )


def product_gradients(x, gates, upstream):
    inputs = [value.detach().requires_grad_() for value in (x, *gates)]
    return torch.autograd.grad(functional.apply_gates(inputs[0], inputs[1:]), inputs, upstream)


@both_formats
def test_incoming_gradients_of_any_layout(memory_format):
    x = random_map(2, 8, 5, 7).contiguous(memory_format=memory_format)
    gates = gates_for(x, ["channel", "rows", "columns"])
    large = random_map(2, 16, 7, 10, seed=3)
    for upstream in (
        large[:, :8, :5, :7],
        large[:, ::2, :, :5].transpose(2, 3),
        random_map(1, 8, 1, 1).expand_as(x),
        random_map(2, 8, 5, 7).contiguous(memory_format=torch.channels_last),
        torch._efficientzerotensor(x.shape),
    ):
        plain = torch.zeros(x.shape).copy_(upstream)
        wanted = product_gradients(x.double(), [g.double() for g in gates], plain.double())
        for value, exact in zip(product_gradients(x, gates, upstream), wanted, strict=True):
            close(value, exact, torch.float32)


def test_gates_in_any_layout():
    x = random_map(3, 4, 5, 6)
    channel = random_map(6, 4, 1, 1)[::2]
    rows = random_map(3, 5, 4, 1).transpose(1, 2)
    columns = random_map(3, 1, 1, 1).expand(3, 4, 1, 6)
    agree(
        lambda x, *gates: [functional.apply_gates(x, [*gates])],
        lambda x, *gates: [formulas.apply_gates(x, gates)],
        [x, channel, rows, columns],
    )
    y = functional.apply_gates(x, [channel, rows, columns])
    torch.testing.assert_close(y, x * channel * rows * columns)


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 4, 1, 1)],
        [(3, 1, 1, 1)],
        [(3, 4, 5, 6)],
        [(3, 4, 1, 1), (3, 4, 1, 1)],
        [(3, 4, 5, 1), (3, 1, 5, 6)],
    ],
)
def test_gates_that_no_kernel_knows(shapes):
    x, gates = random_map(3, 4, 5, 6), [random_map(*shape, seed=1) for shape in shapes]
    agree(
        lambda x, *gates: [functional.apply_gates(x, [*gates])],
        lambda x, *gates: [formulas.apply_gates(x, gates)],
        [x, *gates],
    )


@both_formats
def test_only_what_is_needed_has_a_gradient(memory_format, monkeypatch):
    x = random_map(2, 8, 5, 7).contiguous(memory_format=memory_format)
    gates = gates_for(x, ["channel", "rows", "columns"])
    wanted = product_gradients(x, gates, x)
    called = []
    for name in ("map_gradient", "gate_gradients"):
        kernel = getattr(kernels, name)
        monkeypatch.setattr(
            kernels,
            name,
            lambda *args, k=kernel, name=name, **kw: called.append(name) or k(*args, **kw),
        )
    values = [x, *gates]
    for i, leaf in enumerate(values):
        called.clear()
        inputs = [v.requires_grad_() if v is leaf else v.detach() for v in values]
        (grad,) = torch.autograd.grad(
            functional.apply_gates(inputs[0], inputs[1:]), leaf, x.detach()
        )
        torch.testing.assert_close(grad, wanted[i])
        assert called == ["gate_gradients" if i else "map_gradient"]


@both_formats
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ties_share_the_gradient_of_maxima(memory_format, dtype):
    x = torch.randint(0, 3, (2, 9, 5, 7), generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x.contiguous(memory_format=memory_format)
    gate = torch.ones(2, 9, 1, 1, dtype=dtype)
    agree(
        lambda x: functional.statistics(x, "channel_means", "channel_maxima"),
        lambda x: formulas.statistics(x, ("channel_means", "channel_maxima")),
        [x],
    )
    agree(
        lambda *inputs: [functional.position_statistics(*inputs)],
        lambda *inputs: [formulas.position_statistics(*inputs)],
        [x, gate],
    )


@both_formats
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_infinities_and_nan_come_out_as_those_of_torch(value, memory_format):
    x = random_map(2, 11, 9, 9).contiguous(memory_format=memory_format)
    x[0, 3, 2, 5] = x[1, 10, 8, 8] = x[1, 0, 0, 0] = value
    if value == -float("inf"):
        x[1, 4] = value  # whose maximum it is
    gates = gates_for(x, ["channel", "rows", "columns"])
    gates[0][0, 0] = value

    def results(statistics, positions, product):
        with torch.no_grad():
            values = [*statistics(x), positions(x, gates[0]), product(x, gates)]
        leaf = x.detach().requires_grad_()
        for run in (lambda: statistics(leaf), lambda: [positions(leaf, gates[0])]):
            values += torch.autograd.grad(sum(y.sum() for y in run()), leaf)
        return values

    names = functional.STATISTICS
    found = results(
        lambda x: functional.statistics(x, *names),
        functional.position_statistics,
        functional.apply_gates,
    )
    wanted = results(
        lambda x: formulas.statistics(x, names), formulas.position_statistics, formulas.apply_gates
    )
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-5, atol=1e-5)


@both_formats
def test_large_maps_lose_no_digits(memory_format):
    x = (1000 + random_map(1, 3, 512, 512)).contiguous(memory_format=memory_format)
    (means,) = functions.statistics(x, ["channel_means"])
    wanted = x.double().mean((2, 3), keepdim=True)
    assert (means / wanted - 1).abs().max() < 1e-6
    gate = torch.ones(1, 3, 1, 1, requires_grad=True)
    functions.apply_gates(x, [gate]).sum().backward()
    assert (gate.grad / x.double().sum((2, 3), keepdim=True) - 1).abs().max() < 1e-6


def test_equal_bits_with_equal_threads_and_equal_layouts():
    x = random_map(3, 20, 9, 11)
    for memory_format in FORMATS.values():
        y = x.contiguous(memory_format=memory_format)
        first, second = (functional.statistics(y, *functional.STATISTICS) for _ in range(2))
        assert all(map(torch.equal, first, second))


def test_backward_keeps_the_map_and_small_tensors():
    x = random_map(2, 16, 12, 14).requires_grad_()
    gates = [gate.requires_grad_() for gate in gates_for(x, ["channel", "rows", "columns"])]

    def kept(run, but=(x, *gates)):
        return saved_bytes(run, but)

    assert kept(lambda: functional.apply_gates(x, gates)) == 0
    assert kept(lambda: functional.statistics(x, "coordinate_means", "channel_means"), ()) == 0
    assert kept(lambda: functional.statistics(x, *functional.STATISTICS)) == 4 * 2 * 16
    assert kept(lambda: functional.position_statistics(x, gates[0])) == 0


def test_results_can_be_changed_in_place():
    x = random_map(2, 4, 5, 6).requires_grad_()
    for value in functional.statistics(x, *functional.STATISTICS):
        assert value.mul_(2).grad_fn is not None
    assert functional.apply_gates(x, gates_for(x, ["channel"])).mul_(2).grad_fn is not None
