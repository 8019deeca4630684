"""Time what is compared in turn: in rounds, in one process, every time in another order.

A machine that slows down for a while then slows down all of them, and none has always the same
one before it. On the CPU :class:`torch.utils.benchmark.Timer` takes the time, on CUDA events do.
"""

import random
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch._dynamo
from torch.utils.benchmark import Timer

from benchmarks.settings import SEED, Settings

Run = Callable[[], object]
Stopwatch = Callable[[Run], float]

WARM_UP = 3
BURST = 10  # runs between two waits for the GPU
MOST_BURSTS = 100


@dataclass(frozen=True)
class Measured:
    """Seconds of a run in every round, and bytes at its peak; None where nothing counts them."""

    seconds: list[float]
    peak_bytes: int | None

    @property
    def figures(self) -> dict[str, float]:
        """The figures that are no times."""
        return {} if self.peak_bytes is None else {"peak_bytes": self.peak_bytes}


class Event(Protocol):
    """What is used of :class:`torch.cuda.Event`."""

    def record(self) -> None:
        """Note the time when the device gets there."""

    def elapsed_time(self, end_event: "Event") -> float:
        """Milliseconds until another one."""


def interleaved(
    runs: Mapping[str, Run], stopwatch: Stopwatch, rounds: int
) -> dict[str, list[float]]:
    """Seconds of every run in every round, by name."""
    order = random.Random(SEED)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name in order.sample(list(runs), len(runs)):
            seconds[name].append(stopwatch(runs[name]))
    return seconds


@contextmanager
def every_graph_kept() -> Iterator[None]:
    """Compile anew for every candidate: after eight of one class, torch would run them eagerly."""
    torch.compiler.reset()
    with torch._dynamo.config.patch(
        recompile_limit=1000, accumulated_recompile_limit=1000, fail_on_recompile_limit_hit=True
    ):
        yield


def measure(runs: Mapping[str, Run], settings: Settings) -> dict[str, Measured]:
    """Time the runs in turn, and find the memory that each takes on a GPU."""
    with every_graph_kept():
        for run in runs.values():
            run()  # compiles
        peaks: dict[str, int | None] = dict.fromkeys(runs)
        if settings.device == "cuda":
            peaks = {name: peak_bytes(run) for name, run in runs.items()}
        if settings.cuda_graph:
            runs = {name: captured(run) for name, run in runs.items()}
        seconds = interleaved(runs, new_stopwatch(settings), settings.rounds)
    return {name: Measured(seconds[name], peaks[name]) for name in runs}


def new_stopwatch(settings: Settings) -> Stopwatch:
    """What takes the time on the device of the settings."""
    if settings.device == "cpu":
        return lambda run: time_on_cpu(run, settings.min_run_time)

    def new_event() -> Event:
        return cast(Event, torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]

    flush = l2_flush() if settings.flush_l2 else None
    return lambda run: time_with_events(
        run, settings.min_run_time, new_event, torch.cuda.synchronize, flush
    )


def time_on_cpu(run: Run, min_run_time: float) -> float:
    """Median seconds of a run."""
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=min_run_time).median


def time_with_events(
    run: Run,
    min_run_time: float,
    new_event: Callable[[], Event],
    synchronize: Callable[[], None],
    flush: Callable[[], object] | None = None,
) -> float:
    """Median seconds of a run between two events of the device.

    Runs are queued in bursts, so that the device need not wait for the host between them; where
    the host is slower than the device all the same, that is part of the time.

    Args:
        run: what to time.
        min_run_time: stop when the runs have taken that many seconds.
        new_event: makes an event.
        synchronize: waits until the device has done everything.
        flush: is called before each run, outside of its time.
    """
    for _ in range(WARM_UP):
        run()
    taken: list[float] = []
    for _ in range(MOST_BURSTS):
        events = []
        synchronize()
        for _ in range(BURST):
            if flush is not None:
                flush()
            start, end = new_event(), new_event()
            start.record()
            run()
            end.record()
            events.append((start, end))
        synchronize()
        taken += [start.elapsed_time(end) / 1e3 for start, end in events]
        if sum(taken) >= min_run_time:
            break
    return statistics.median(taken)


def l2_flush() -> Callable[[], object]:
    """A function that overwrites twice as many bytes as the L2 cache of the GPU holds."""
    size = 2 * torch.cuda.get_device_properties(0).L2_cache_size
    return torch.empty(size, dtype=torch.uint8, device="cuda").zero_


def captured(run: Run) -> Run:
    """A replay of the run from a CUDA graph. It is warmed up on a stream of its own first."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def peak_bytes(run: Run) -> int:
    """Bytes that the CUDA allocator hands out during a run, at most, above those before it."""
    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile; of a single value three times itself."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    first, middle, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, middle, third
