"""The benchmarks measure what they say they measure: peers, counters and clocks."""

import collections
import statistics

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import SqueezeExcitation

from attnblocks import find_se, list_blocks, replace_se
from benchmarks.blocks import Pass, count, new_run
from benchmarks.candidates import at_sites, build_network, in_networks, places, random_maps, seeded
from benchmarks.counting import map_traffic, saved_by_training, saved_bytes
from benchmarks.models import flops_per_image, variants
from benchmarks.onnx_run import onnx_session
from benchmarks.operators import FORMATS, QUESTIONS, inputs
from benchmarks.published import published
from benchmarks.results import BLOCKS
from benchmarks.settings import Settings
from benchmarks.timing import (
    BURST,
    MOST_BURSTS,
    WARM_UP,
    captured,
    every_graph_kept,
    interleaved,
    l2_flush,
    measure,
    peak_bytes,
    quartiles,
    time_on_cpu,
    time_with_events,
)
from tests.helpers import random_map, randomized
from tests.reference import REFERENCE, weights

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


@pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_operators_that_are_compared_compute_the_same(question, memory_format):
    given = inputs(question, (8, 6, 5), 2, memory_format)
    first, *others = (answer(*given) for answer in QUESTIONS[question].values())
    for other in others:
        torch.testing.assert_close(other, first)


def site_of(channels: int):
    return find_se(SqueezeExcitation(channels, 8))[0]


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_published_forms_compute_the_formulas(name, train):
    block = randomized(published(name, site_of(48)).double()).train(train)
    x = random_map(2, 48, 7, 5, dtype=torch.float64)
    expected = REFERENCE[name](weights(block), x.numpy(), train)
    np.testing.assert_allclose(block(x).detach().numpy(), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "reads", "writes"),
    [
        ("SE", 2, 1),  # mean; product
        ("Eca", 2, 1),
        ("CBAM", 6, 2),  # mean, maximum, product; and again over the channels
        ("CoordAtt", 4, 2),  # rows, columns, two products
        ("SeCo", 6, 3),
        ("CaCo", 7, 3),
    ],
)
def test_passes_of_the_published_forms_over_the_map(name, reads, writes):
    block = published(name, site_of(16)).eval()
    with torch.no_grad():
        traffic = map_traffic(block, torch.rand(2, 16, 9, 9))
    assert (traffic.reads, traffic.writes, traffic.maps) == (reads, writes, reads + writes)


MAP = torch.rand(2, 3, 8, 8)
VECTOR = torch.rand(2, 3, 1, 1)
MATRIX = torch.rand(150, 3)  # larger than the map; what it computes is not


@pytest.mark.parametrize(
    ("run", "reads", "writes"),
    [
        (lambda x: x.relu(), 1, 1),
        (lambda x: x + x, 2, 1),
        (lambda x: x.mean((2, 3)), 1, 0),
        (lambda x: x.flatten(2).transpose(1, 2), 0, 0),
        (lambda x: VECTOR.expand_as(x) * x, 1, 1),
        (lambda x: x.clone().mul_(2), 2, 2),
        (lambda x: torch.mul(x, 2, out=torch.empty_like(x)), 1, 1),
        (lambda x: nn.functional.linear(x.mean((2, 3)), MATRIX), 1, 0),
    ],
)
def test_passes_over_the_map_counted_by_hand(run, reads, writes):
    traffic = map_traffic(run, MAP, [MATRIX])
    assert (traffic.reads, traffic.writes) == (reads, writes)


def test_a_weight_larger_than_the_map_counts_unless_it_is_named():
    def run(x):
        return nn.functional.linear(x.mean((2, 3)), MATRIX)

    assert map_traffic(run, MAP).maps == 2
    assert map_traffic(run, MAP, [MATRIX.T]).maps == 1


KEPT = {
    "the output of relu": (lambda x, y: x.relu(), 1),
    "both factors": (lambda x, y: x * y, 2),
    "a square keeps one": (lambda x, y: x * x, 1),
    "nothing of a sum": (lambda x, y: x + y, 0),
    "the same map twice": (lambda x, y: (x * 2.0).relu().relu(), 2),
    "shared by two operators": (lambda x, y: x * y + x * y.detach(), 2),
    "in place": (lambda x, y: (x + y).relu_(), 1),
    "the whole storage of a view": (lambda x, y: x[:1] * y[:1], 2),
    "nothing without a graph": (lambda x, y: x.detach() * y.detach(), 0),
}


@pytest.mark.parametrize("case", KEPT)
def test_bytes_kept_for_backward_counted_by_hand(case):
    run, maps = KEPT[case]
    x, y = (torch.rand(2, 3, 8, 8, requires_grad=True) for _ in range(2))
    assert saved_bytes(lambda: run(x, y)) == maps * x.nbytes


def test_what_is_there_anyway_is_not_kept_for_backward():
    x, y = (torch.rand(2, 3, 8, 8, requires_grad=True) for _ in range(2))
    assert saved_bytes(lambda: x * y, but=[x]) == y.nbytes
    assert saved_bytes(lambda: x * y, but=[x[0], y]) == 0
    layer = nn.Linear(8, 8, bias=False)  # keeps input and weight
    assert saved_by_training(nn.Sequential(layer, nn.ReLU()), x) == x.nbytes


def test_candidates_stand_at_the_sites_of_the_network():
    found = places(build_network("mobilenet_v3_small"), 224)
    assert [place.shape for place in found] == [
        (16, 56, 56),
        (96, 14, 14),
        *[(240, 14, 14)] * 2,
        (120, 14, 14),
        (144, 14, 14),
        (288, 7, 7),
        *[(576, 7, 7)] * 2,
    ]
    maps = random_maps(found, 2, torch.channels_last, {"dtype": torch.float32})
    for place, x in zip(found, maps, strict=True):
        assert x.shape == (2, *place.shape)
        assert x.is_contiguous(memory_format=torch.channels_last)
        blocks = {name: make(place.site).eval() for name, make in at_sites().items()}
        size = {n: sum(p.numel() for p in b.parameters()) for n, b in blocks.items()}
        assert size["SE"] == size["torchvision SE"] == size["timm se"]
        assert size["Eca"] == size["timm eca"]
        # timm's two are as wide as ours, but have no biases
        assert size["CBAM"] - size["timm cbam"] == blocks["CBAM"].rd_channels + place.channels
        width = blocks["CoordAtt"].rd_channels
        assert size["CoordAtt"] - size["timm coord"] == width + 2 * place.channels
        assert all(size[name] == size[f"published {name}"] for name in BLOCKS)
        assert size["identity"] == size["copy"] == 0
        assert all(block(x).shape == x.shape for block in blocks.values())
        assert blocks["identity"](x) is x
        assert blocks["copy"](x).data_ptr() != x.data_ptr()


def test_all_blocks_of_the_library_are_measured():
    assert sorted(BLOCKS) == sorted(list_blocks()) == sorted(REFERENCE)
    assert {*BLOCKS, *(f"published {name}" for name in BLOCKS)} < set(at_sites())


def test_a_site_of_other_channels_has_the_widths_of_the_network():
    found = places(build_network("mobilenet_v3_large"), 64)
    for place in found:
        other = found[0].with_channels(place.channels)
        assert other.shape == (place.channels, *found[0].shape[1:])
        assert other.site.rd_channels == place.site.rd_channels
        assert other.site.module.fc1.in_channels == other.channels == place.channels


def test_weights_come_out_of_the_seed_and_leave_the_random_state_alone():
    place = places(build_network("mobilenet_v3_small"), 64)[0]
    weights_drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        weights_drawn.append(seeded(at_sites()["CaCo"])(place.site).channel.fc1.weight)
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(*weights_drawn)


def test_variants_differ_at_the_sites_only():
    network = build_network("mobilenet_v3_small")
    models = variants(network, list(in_networks()))
    se = sum(p.numel() for site in find_se(network) for p in site.module.parameters())
    total = sum(p.numel() for p in network.parameters())
    sizes = {name: sum(p.numel() for p in m.parameters()) for name, m in models.items()}
    assert sizes["own SE"] == sizes["SE"] == sizes["published SE"] == total
    assert sizes["identity"] == total - se
    assert all(sizes[name] == sizes[f"published {name}"] for name in BLOCKS)
    assert all(models[name].training is False for name in models)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "mobilenet_v3_large"])
def test_flops_are_those_that_torchvision_publishes(name):
    weights_of_name = torchvision.models.get_model_weights(name).DEFAULT
    flops = flops_per_image(build_network(name), torch.rand(2, 3, 224, 224))
    assert flops / 2e9 == pytest.approx(weights_of_name.meta["_ops"], abs=5e-4)  # given in MACs


class Spy(nn.Module):
    """Multiplies by a weight, and notes what happens."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 3.0))
        self.seen: list[tuple[str, object]] = []
        self.weight.register_hook(lambda g: self.seen.append(("weight", g.item())))

    def forward(self, x):
        y = x * self.weight
        self.seen.append(("forward", y.requires_grad))
        if y.requires_grad:
            x.register_hook(lambda g: self.seen.append(("map", g.clone())))
        return y


def test_a_forward_run_keeps_no_graph():
    spy = Spy()
    new_run([spy, spy], [MAP, MAP], None, compiled=False)()
    assert spy.seen == [("forward", False)] * 2


def test_a_step_computes_the_gradients_of_map_and_parameters_and_adds_nothing_up():
    spy, gradient = Spy(), torch.full_like(MAP, 2.0)
    run = new_run([spy], [MAP], [gradient], compiled=False)
    for _ in range(2):
        run()
    seen = dict(spy.seen)
    assert len(spy.seen) >= 6
    assert seen["forward"] is True
    assert seen["weight"] == pytest.approx(2.0 * MAP.sum().item(), rel=1e-5)
    assert torch.equal(seen["map"], torch.full_like(MAP, 6.0))
    assert spy.weight.grad is None
    assert MAP.grad is None


def test_counted_figures_of_a_block():
    block, x = published("SE", site_of(16)), torch.rand(4, 16, 9, 9)
    forward = count([block, block], [x, x[:1]], None, compiled=False)
    assert forward["maps"] == 3
    assert forward["map_bytes"] == x.nbytes * 5 / 4
    assert forward["parameters"] == 2 * sum(p.numel() for p in block.parameters())
    step = count([block.train()], [x], [x], compiled=False)
    assert "maps" not in step
    assert x.nbytes < step["saved_bytes"] < 1.1 * x.nbytes  # the map, and vectors
    assert count([nn.ReLU()], [x], [x], compiled=False)["saved_bytes"] == x.nbytes


def test_a_pass_runs_every_block_on_its_map():
    blocks = [published(name, site_of(16)).eval() for name in ("SE", "Eca")]
    maps = [torch.rand(1, 16, size, size) for size in (4, 6)]
    torch.testing.assert_close(
        Pass(blocks)(maps), [block(x) for block, x in zip(blocks, maps, strict=True)]
    )


def test_rounds_time_every_run_once_in_changing_order():
    calls = []
    runs = {name: (lambda name=name: calls.append(name)) for name in "abcd"}
    ticks = iter(range(1000))

    def stopwatch(run):
        run()
        return float(next(ticks))

    seconds = interleaved(runs, stopwatch, rounds=6)
    rounds = [calls[start : start + 4] for start in range(0, 24, 4)]
    assert all(sorted(names) == list("abcd") for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1
    for name in "abcd":
        assert seconds[name] == [float(number) for number, n in enumerate(calls) if n == name]


def test_more_candidates_of_one_class_are_compiled_than_torch_would():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    with every_graph_kept():
        for channels in range(1, 13):
            block = Pass([nn.BatchNorm2d(channels).eval()])
            torch.compile(block, backend=backend, dynamic=False)([torch.rand(1, channels, 4, 4)])
    assert len(compiled) == 12


def test_quartiles():
    values = [5.0, 1.0, 4.0, 2.0, 9.0, 7.0]
    assert quartiles(values) == pytest.approx(tuple(np.quantile(values, [0.25, 0.5, 0.75])))
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)


class FakeDevice:
    """A device whose time passes in what it is told to do."""

    def __init__(self) -> None:
        self.now = 0.0
        self.counts: collections.Counter[str] = collections.Counter()

    def work(self, what: str, milliseconds: float) -> None:
        self.counts[what] += 1
        self.now += milliseconds * (1 + (self.counts[what] % 3))

    def event(self) -> "FakeEvent":
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.time, self.waits = float("nan"), 0

    def record(self) -> None:
        self.time, self.waits = self.device.now, self.device.counts["synchronize"]

    def elapsed_time(self, end_event: "FakeEvent") -> float:
        waits = self.device.counts["synchronize"]
        assert waits > max(self.waits, end_event.waits), "read before the device was waited for"
        return end_event.time - self.time


@pytest.mark.parametrize(("min_run_time", "bursts"), [(0.001, 1), (0.5, 3), (1e9, MOST_BURSTS)])
def test_events_time_the_run_and_not_the_flush(min_run_time, bursts):
    device = FakeDevice()
    seconds = time_with_events(
        lambda: device.work("run", 10.0),  # 10, 20 and 30 ms
        min_run_time,
        device.event,
        lambda: device.work("synchronize", 1000.0),
        lambda: device.work("flush", 500.0),
    )
    assert seconds == pytest.approx(0.020)
    assert device.counts["run"] == WARM_UP + bursts * BURST
    assert device.counts["flush"] == bursts * BURST


def test_the_cpu_is_timed():
    calls = []
    assert time_on_cpu(lambda: calls.append(1), 0.001) > 0
    assert len(calls) > 1
    settings = Settings("mobilenet_v3_small", rounds=3, min_run_time=0.001)
    measured = measure({"sum": MAP.sum, "mean": MAP.mean}, settings)
    assert {name: len(figures.seconds) for name, figures in measured.items()} == {
        "sum": 3,
        "mean": 3,
    }
    assert all(s > 0 for figures in measured.values() for s in figures.seconds)
    assert all(figures.figures == {} for figures in measured.values())


def test_onnx_sessions_compute_what_the_network_computes_at_every_size():
    network = randomized(replace_se(build_network("timm/test_efficientnet"), "CaCo"))
    session = onnx_session(network, 64)
    assert session.get_session_options().intra_op_num_threads == torch.get_num_threads()
    for batch, height, width in [(1, 64, 64), (3, 48, 80), (5, 96, 32)]:
        x = torch.rand(batch, 3, height, width)
        with torch.no_grad():
            expected = network(x)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(y, expected, atol=1e-4 * expected.abs().max().item())


@NEEDS_CUDA
def test_cuda_events_graphs_and_memory():
    x = torch.rand(1 << 20, device="cuda")
    y = torch.zeros_like(x)
    replay = captured(lambda: y.add_(x))
    y.zero_()
    replay()
    assert torch.equal(y, x)
    properties = torch.cuda.get_device_properties(0)
    assert l2_flush()().nbytes >= 2 * properties.L2_cache_size

    def new_event():
        return torch.cuda.Event(enable_timing=True)

    times = [
        time_with_events(replay, 0.001, new_event, torch.cuda.synchronize, flush)
        for flush in (None, l2_flush())
    ]
    assert statistics.fmean(times) > 0
    assert peak_bytes(lambda: x + 1) >= x.nbytes


@NEEDS_CUDA
@pytest.mark.parametrize("backward", [False, True])
def test_cuda_is_measured(backward):
    settings = Settings(
        "mobilenet_v3_small",
        device="cuda",
        dtype="bfloat16",
        backward=backward,
        cuda_graph=True,
        flush_l2=True,
        rounds=1,
        min_run_time=0.001,
    )
    x = torch.rand(2, 16, 8, 8, **settings.place)
    block = published("CaCo", site_of(16)).to(**settings.place).train(backward)
    run = new_run([block], [x], [x] if backward else None, compiled=False)
    measured = measure({"CaCo": run}, settings)["CaCo"]
    assert measured.seconds[0] > 0
    assert measured.peak_bytes > 0
