"""Clocks and rounds: what is timed, and in which order."""

import collections
import statistics

import numpy as np
import pytest
import torch

from benchmarks.blocks import new_run
from benchmarks.published import published
from benchmarks.settings import Settings
from benchmarks.timing import (
    BURST,
    MOST_BURSTS,
    WARM_UP,
    captured,
    interleaved,
    l2_flush,
    measure,
    peak_bytes,
    quartiles,
    time_on_cpu,
    time_with_events,
)
from tests.benchmarks.made import MAP, site_of

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


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
