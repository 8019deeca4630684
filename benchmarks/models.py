"""Time whole networks with every block at their SE sites: ``python -m benchmarks.models``.

The network with its own SE, with every block of ours, with every published form, and with Identity
in their place. What a block adds to the last is its share.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from attnblocks import replace_se
from benchmarks.candidates import build_network, in_networks, seeded
from benchmarks.counting import saved_by_training
from benchmarks.report import publish, tables
from benchmarks.results import IDENTITY, NETWORK, OWN_SE, Result, Row, new_rows
from benchmarks.runtimes import onnx_runtime
from benchmarks.runtimes.runtime import SIZES, missing
from benchmarks.settings import (
    FORMATS,
    SEED,
    Extent,
    Settings,
    UsageError,
    add_options,
    check_output,
    machine,
    read_settings,
)
from benchmarks.timing import Run, measure


def variants(network: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """A copy of the network for each name, with that at all of its SE sites."""
    makers = in_networks()
    return {name: replace_se(network, seeded(makers[name]), inplace=False) for name in names}


def images(batch: int, size: int, memory_format: torch.memory_format, settings: Settings) -> Tensor:
    """Random images."""
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(batch, 3, size, size, generator=generator)
    return x.to(**settings.place).contiguous(memory_format=memory_format)


def new_run(model: nn.Module, x: Tensor, settings: Settings) -> Run:
    """A forward pass without a graph for backward, or a training step without an optimizer.

    The gradients are those of the sum of the output, to all parameters; they are returned and not
    added up.
    """
    model.train(settings.backward)
    forward = torch.compile(model, dynamic=False) if settings.compile else model
    if not settings.backward:
        return torch.no_grad()(lambda: forward(x))
    trained = [p for p in model.parameters() if p.requires_grad]
    return lambda: torch.autograd.grad(forward(x).sum(), trained, allow_unused=True)


def flops_per_image(model: nn.Module, x: Tensor) -> int:
    """Operations of convolutions and matrix products in a forward pass; a multiply-add is two."""
    training = model.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(x[:1])
    model.train(training)
    return cast(int, counter.get_total_flops())


def count(model: nn.Module, x: Tensor, settings: Settings) -> dict[str, float]:
    """What is counted and not timed, of the eager network."""
    figures: dict[str, float] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": flops_per_image(model, x),
    }
    if settings.backward and settings.device == "cpu":
        figures["saved_bytes"] = saved_by_training(model.train(), x)
    return figures


def measure_models(
    settings: Settings, extent: Extent, report: Callable[[list[Row]], object]
) -> list[Row]:
    """Time all variants in every group, and tell of each group when it is done."""
    network = build_network(settings.network)
    names = extent.select(list(in_networks()), always=(OWN_SE, IDENTITY))
    models = {name: m.to(**settings.place) for name, m in variants(network, names).items()}
    runs: dict[str, Run]
    if settings.onnx:
        example = images(2, extent.image_sizes[0], torch.contiguous_format, settings)
        sessions = {
            name: onnx_runtime.onnx_session(model, example, frozenset(SIZES))
            for name, model in models.items()
        }
    rows: list[Row] = []
    for memory_format, batch, size in itertools.product(
        extent.formats, extent.batches, extent.image_sizes
    ):
        x = images(batch, size, FORMATS[memory_format], settings)
        for model in models.values():
            model.to(memory_format=FORMATS[memory_format])
        figures = {name: count(model, x, settings) for name, model in models.items()}
        if settings.onnx:
            runs = {name: onnx_runtime.new_run(sessions[name], x) for name in names}
        else:
            runs = {name: new_run(model, x, settings) for name, model in models.items()}
        measured = measure(runs, settings)
        group = new_rows((memory_format, batch, size, NETWORK, None), figures, measured)
        report(group)
        rows += group
    return rows


def read_extent(options: argparse.Namespace) -> Extent:
    """What the options ask to measure.

    Raises:
        UsageError: options that do not go together, or ONNX Runtime is missing.
    """
    if options.onnx and (wanted := missing(onnx_runtime.PACKAGES)):
        raise UsageError(f"argument --onnx: {', '.join(wanted)} not installed here")
    if options.onnx and options.memory_format not in (None, ["contiguous"]):
        raise UsageError(
            f"argument --onnx: takes contiguous images, but --memory-format is "
            f"{' '.join(options.memory_format)}"
        )
    formats = ("contiguous",) if options.onnx else tuple(FORMATS)
    return Extent(
        batches=options.batch or (1, 32),
        image_sizes=options.image_size or (224,),
        formats=options.memory_format or formats,
        only=options.only,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table for every group, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models", description=__doc__)
    parser.add_argument(
        "--network",
        default="mobilenet_v3_small",
        help="a network with SE: a name of torchvision or timm, or timm/NAME",
    )
    add_options(parser)
    parser.add_argument("--onnx", action="store_true", help="run exported networks in ONNX Runtime")
    options = parser.parse_args(arguments)
    try:
        check_output(options.out, options.plots)
        settings, extent = read_settings(options), read_extent(options)
        about = machine(settings.device)

        def result(rows: list[Row]) -> Result:
            return Result("models", about, settings, rows)

        rows = measure_models(settings, extent, lambda group: print(tables(result(group))))
    except UsageError as error:
        parser.error(str(error))
    publish(result(rows), options.out, options.plots)


if __name__ == "__main__":
    main()
