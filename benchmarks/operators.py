"""The operators that a block could be made of, beside the functions of the library.

Run ``python -m benchmarks.operators``: a line per map and question with the microseconds of every
answer, on the CPU; ``--onnx`` asks ONNX Runtime.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnblocks import functional
from benchmarks.runtimes.onnx_runtime import onnx_session_of
from benchmarks.settings import SEED
from benchmarks.timing import Run, interleaved, time_on_cpu

MAPS = [(16, 56, 56), (72, 28, 28), (240, 14, 14), (576, 7, 7), (960, 7, 7)]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
WIDTH = 16  # of the layers

Answers = Mapping[str, Callable[..., Any]]

QUESTIONS: dict[str, Answers] = {
    "means of rows": {
        "mean": lambda x: x.mean(3, keepdim=True),
        "avg_pool2d": lambda x: F.avg_pool2d(x, (1, x.shape[3])),
        "adaptive": lambda x: F.adaptive_avg_pool2d(x, (None, 1)),
        "matmul": lambda x: x @ x.new_full((x.shape[3], 1), 1 / x.shape[3]),
    },
    "means of columns": {
        "mean": lambda x: x.mean(2, keepdim=True),
        "avg_pool2d": lambda x: F.avg_pool2d(x, (x.shape[2], 1)),
        "adaptive": lambda x: F.adaptive_avg_pool2d(x, (1, None)),
    },
    "means of channels": {
        "mean": lambda x: x.mean((2, 3), keepdim=True),
        "adaptive": lambda x: F.adaptive_avg_pool2d(x, 1),
        "library": functional.channel_means,
    },
    "maxima of channels": {
        "amax": lambda x: x.amax((2, 3), keepdim=True),
        "max_pool2d": lambda x: F.max_pool2d(x, x.shape[2:]),
        "adaptive": lambda x: F.adaptive_max_pool2d(x, 1),
        "library": functional.channel_maxima,
    },
    "statistics of CaCo": {
        "operators": lambda x: (
            torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).mT], dim=2),
            x.mean((2, 3), keepdim=True),
            x.amax((2, 3), keepdim=True),
        ),
        "library": lambda x: functional.statistics(
            x, "coordinate_means", "channel_means", "channel_maxima"
        ),
    },
    "gates of rows and columns": {
        "two maps": lambda x, h, w: x * h * w,
        "in place": lambda x, h, w: (x * h).mul_(w),
        "gates first": lambda x, h, w: x * (h * w),
        "library": lambda x, h, w: functional.apply_gates(x, [h, w]),
    },
    "layer on rows and columns": {
        "conv2d": lambda v, weight, bias: F.conv2d(v, weight, bias),
        "linear": lambda v, weight, bias: F.linear(
            v.permute(0, 2, 3, 1), weight.flatten(1), bias
        ).permute(0, 3, 1, 2),
        "baddbmm": lambda v, weight, bias: torch.baddbmm(
            bias[:, None], weight.flatten(1).expand(len(v), -1, -1), v.squeeze(3)
        ).unsqueeze(3),
    },
}

ONNX_QUESTIONS: dict[str, Answers] = {
    "the map alone": {"relu": lambda x: x.relu(), "square": lambda x: x * x},
    "means of rows": {
        "mean": lambda x: x.mean(3),
        "matmul": lambda x: x @ torch.full((x.shape[3], 1), 1 / x.shape[3]),
    },
    "means of columns": {
        "mean": lambda x: x.mean(2),
        "matmul": lambda x: torch.full((1, x.shape[2]), 1 / x.shape[2]) @ x,
    },
    "statistics of channels": {
        "mean": lambda x: x.mean((2, 3), keepdim=True),
        "amax": lambda x: x.amax((2, 3), keepdim=True),
    },
    "gates of rows and columns": {
        "rows alone": lambda x, h, w: x * h,
        "columns alone": lambda x, h, w: x * w,
        "two maps": lambda x, h, w: x * h * w,
        "gates first": lambda x, h, w: x * (h * w),
        "outer product": lambda x, h, w: x * (h @ w),
        "channels alone": lambda x, h, w: x * h[:, :, :1],
    },
}


class _Operator(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, h: Tensor, w: Tensor) -> Tensor:
        """Call it with as many of the three as it takes."""
        return self.function(*(x, h, w)[: self.function.__code__.co_argcount])


def inputs(
    question: str, shape: tuple[int, int, int], batch: int, memory_format: torch.memory_format
) -> list[Tensor]:
    """What the answers to a question take: a map and gates, or vectors and a layer."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(SEED)

    def random(*size: int) -> Tensor:
        values = torch.rand(size, generator=generator)
        return values.contiguous(memory_format=memory_format) if len(size) == 4 else values

    if question.startswith("layer"):
        v = random(batch, channels, height + width, 1)
        return [v, random(WIDTH, channels, 1, 1), random(WIDTH)]
    x = random(batch, *shape)
    if not question.startswith("gates"):
        return [x]
    return [x, random(batch, channels, height, 1), random(batch, channels, 1, width)]


def _eager_run(function: Callable[..., Tensor], given: Sequence[Tensor]) -> Run:
    return lambda: function(*given)


def _onnx_run(function: Callable[..., Tensor], given: Sequence[Tensor]) -> Run:
    needed = tuple(given) + (given[0],) * (3 - len(given))
    session = onnx_session_of(_Operator(function), needed)
    names = [value.name for value in session.get_inputs()]
    feed: dict[str, Any] = {name: x.numpy() for name, x in zip(names, needed, strict=False)}
    return lambda: session.run(None, feed)


@torch.no_grad()
def measure(
    question: str, answers: Answers, given: Sequence[Tensor], onnx: bool, rounds: int
) -> dict[str, float]:
    """Median microseconds of every answer."""
    new_run = _onnx_run if onnx else _eager_run
    runs = {name: new_run(function, given) for name, function in answers.items()}
    seconds = interleaved(runs, lambda run: time_on_cpu(run, 0.02), rounds)
    return {name: 1e6 * statistics.median(values) for name, values in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line per question and map."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operators", description=__doc__)
    parser.add_argument("--batch", type=int, help="images; default 32, with --onnx 1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--onnx", action="store_true", help="in ONNX Runtime, contiguous")
    options = parser.parse_args(arguments)
    batch = options.batch or (1 if options.onnx else 32)
    formats = ["contiguous"] if options.onnx else list(FORMATS)
    for question, answers in (ONNX_QUESTIONS if options.onnx else QUESTIONS).items():
        for name in formats:
            for shape in MAPS:
                given = inputs(question, shape, batch, FORMATS[name])
                found = measure(question, answers, given, options.onnx, options.rounds)
                cells = ", ".join(f"{key} {value:.0f}" for key, value in found.items())
                size = " x ".join(map(str, (batch, *shape)))
                print(f"{question}, {name}, {size}, µs: {cells}", flush=True)


if __name__ == "__main__":
    main()
