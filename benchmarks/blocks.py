"""Time every block and its peers at the SE sites of MobileNetV3: ``python -m benchmarks.blocks``.

Every site gets a random map of the size that it has in the network. What is timed is one pass over
all sites; with ``--per-site`` each of them by itself; with ``--sweep`` one site, as the image, the
batch or the channels grow.
"""

import argparse
import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from attnblocks import AttentionBlock
from benchmarks.candidates import (
    Place,
    at_sites,
    build_network,
    places,
    random_maps,
    seeded,
)
from benchmarks.counting import map_traffic, saved_bytes
from benchmarks.report import publish, tables
from benchmarks.results import ALL_SITES, COPY, TORCHVISION_SE, Result, Row, new_rows
from benchmarks.settings import (
    FORMATS,
    Extent,
    Settings,
    UsageError,
    add_options,
    check_output,
    machine,
    positive,
    read_settings,
)
from benchmarks.timing import Run, measure

NETWORKS = ("mobilenet_v3_small", "mobilenet_v3_large")
SITE = "features.5.block.2"
SWEEPS = {
    "image_size": (112, 160, 224, 320, 448, 640, 896),
    "batch": (1, 2, 4, 8, 16, 32, 64),
    "channels": (16, 32, 64, 128, 256, 512, 1024),
}


class Pass(nn.Module):
    """One block after the other, each on its own map; compiled as one graph."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Run the blocks."""
        return [block(x) for block, x in zip(self.blocks, maps, strict=True)]


def forward_run(blocks: Sequence[nn.Module], maps: Sequence[Tensor], compiled: bool) -> Run:
    """A forward pass of every block on its map, in eval mode, without a graph for backward."""
    whole = Pass(blocks).eval()
    if compiled:
        graph = torch.compile(whole, fullgraph=True, dynamic=False)
        return torch.no_grad()(lambda: graph(maps))
    pairs = list(zip(blocks, maps, strict=True))

    @torch.no_grad()
    def run() -> None:
        for block, x in pairs:
            block(x)

    return run


def step_run(
    blocks: Sequence[nn.Module],
    maps: Sequence[Tensor],
    gradients: Sequence[Tensor],
    compiled: bool,
) -> Run:
    """Forward and backward of every block, in train mode, to its map and parameters.

    The gradients are returned and not added up, which would read and write the map once more.
    """
    whole = Pass(blocks).train()
    leaves = [x.detach().requires_grad_() for x in maps]
    wanted = [[x, *block.parameters()] for block, x in zip(blocks, leaves, strict=True)]
    if compiled:
        graph = torch.compile(whole, fullgraph=True, dynamic=False)
        everything = list(itertools.chain.from_iterable(wanted))
        return lambda: torch.autograd.grad(graph(leaves), everything, gradients)
    steps = list(zip(blocks, leaves, wanted, gradients, strict=True))

    def run() -> None:
        for block, x, inputs, gradient in steps:
            torch.autograd.grad(block(x), inputs, gradient)

    return run


def new_run(
    blocks: Sequence[nn.Module],
    maps: Sequence[Tensor],
    gradients: Sequence[Tensor] | None,
    compiled: bool,
) -> Run:
    """A training step where there are gradients, else a forward pass."""
    if gradients is None:
        return forward_run(blocks, maps, compiled)
    return step_run(blocks, maps, gradients, compiled)


def count(
    blocks: Sequence[nn.Module],
    maps: Sequence[Tensor],
    gradients: Sequence[Tensor] | None,
    compiled: bool,
) -> dict[str, float]:
    """What is counted and not timed, over all sites."""
    figures: dict[str, float] = {
        "parameters": sum(p.numel() for block in blocks for p in block.parameters()),
        "map_bytes": sum(x.nbytes for x in maps),
    }
    # A fused kernel does not tell what it reads; and gradients of weights may be as large as a map.
    if gradients is None and not compiled:
        moved = 0
        for block, x in zip(blocks, maps, strict=True):
            moved += _maps(block, x) * x.nbytes
        figures["maps"] = moved / figures["map_bytes"]
    if gradients is not None:
        pairs = zip(blocks, maps, strict=True)
        figures["saved_bytes"] = sum(_saved_bytes(block, x) for block, x in pairs)
    return figures


@torch.no_grad()
def _maps(block: nn.Module, x: Tensor) -> int:
    """How often a forward pass reads or writes a tensor as large as the map.

    The kernels are no operators, which could be counted: they read the map for its statistics, CBAM
    once more for those of positions, and for the product, which they write.
    """
    if isinstance(block, AttentionBlock):
        whole, names = block.whole, block.gate_names
        if whole is not None and whole.run(block, x) is not None:
            return 4 if "positions" in names else 3
    return map_traffic(block, x, block.parameters()).maps


def _saved_bytes(block: nn.Module, x: Tensor) -> int:
    """What an eager block keeps for backward, its input too: nothing else may need that."""
    leaf = x.detach().requires_grad_()
    return saved_bytes(lambda: block(leaf), [*block.parameters(), *block.buffers()])


def groups_of_places(
    network: nn.Module, image_size: int, extent: Extent
) -> list[tuple[str, int | None, list[Place]]]:
    """Name, channels and places of what is timed at once, at one image size.

    Raises:
        UsageError: the network has no such site.
    """
    found = places(network, image_size)
    if extent.site is None:
        if not extent.per_site:
            return [(ALL_SITES, None, found)]
        return [(place.site.name, place.channels, [place]) for place in found]
    at = next((place for place in found if place.site.name == extent.site), None)
    if at is None:
        names = ", ".join(place.site.name for place in found)
        raise UsageError(f"argument --site: {extent.site!r} is none of {names}")
    sized = [at.with_channels(c) for c in extent.channels] or [at]
    return [(extent.site, place.channels, [place]) for place in sized]


def measure_blocks(
    settings: Settings, extent: Extent, report: Callable[[list[Row]], object]
) -> list[Row]:
    """Time all candidates in every group, and tell of each group when it is done."""
    network = build_network(settings.network)
    makers = at_sites()
    names = extent.select(list(makers), always=(TORCHVISION_SE, COPY))
    rows: list[Row] = []
    for memory_format, batch, size in itertools.product(
        extent.formats, extent.batches, extent.image_sizes
    ):
        for where, channels, at in groups_of_places(network, size, extent):
            maps, gradients = (
                random_maps(at, batch, FORMATS[memory_format], settings.place, seed=seed)
                for seed in (0, 1)
            )
            upstream = gradients if settings.backward else None
            figures, runs = {}, {}
            for name in names:
                blocks = [
                    seeded(makers[name])(place.site).to(**settings.place).train(settings.backward)
                    for place in at
                ]
                figures[name] = count(blocks, maps, upstream, settings.compile)
                runs[name] = new_run(blocks, maps, upstream, settings.compile)
            measured = measure(runs, settings)
            group = new_rows((memory_format, batch, size, where, channels), figures, measured)
            report(group)
            rows += group
    return rows


def read_extent(options: argparse.Namespace) -> Extent:
    """What the options ask to measure.

    Raises:
        UsageError: options that do not go together.
    """
    sweep = options.sweep
    if sweep is None and options.site is not None:
        raise UsageError(f"argument --site: goes with --sweep, got {options.site!r}")
    if sweep is not None and options.per_site:
        raise UsageError(f"argument --per-site: does not go with --sweep {sweep}")
    if sweep != "channels" and options.channels is not None:
        raise UsageError(f"argument --channels: goes with --sweep channels, got {options.channels}")
    grown = {} if sweep is None else {sweep: SWEEPS[sweep]}
    return Extent(
        batches=options.batch or grown.get("batch", (1, 32)),
        image_sizes=options.image_size or grown.get("image_size", (224,)),
        formats=options.memory_format or tuple(FORMATS),
        only=options.only,
        per_site=options.per_site,
        sweep=sweep,
        site=None if sweep is None else options.site or SITE,
        channels=options.channels or grown.get("channels", ()),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table for every group, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blocks", description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, default=NETWORKS[0])
    add_options(parser)
    parser.add_argument("--per-site", action="store_true", help="a table for each site")
    parser.add_argument("--sweep", choices=list(SWEEPS), help="what grows, at one site")
    parser.add_argument("--site", metavar="NAME", help=f"of the sweep; {SITE} if left out")
    parser.add_argument("--channels", type=positive, nargs="+", metavar="C", help="of the sweep")
    options = parser.parse_args(arguments)
    try:
        check_output(options.out, options.plots)
        settings, extent = read_settings(options), read_extent(options)
        about = machine(settings.device)

        def result(rows: list[Row]) -> Result:
            return Result("blocks", about, settings, rows, extent.sweep)

        rows = measure_blocks(settings, extent, lambda group: print(tables(result(group))))
    except UsageError as error:
        parser.error(str(error))
    publish(result(rows), options.out, options.plots)


if __name__ == "__main__":
    main()
