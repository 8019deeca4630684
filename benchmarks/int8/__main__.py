"""Measure what 8-bit integers cost a network with attention: ``python -m benchmarks.int8``.

Prints a table, and with ``--search`` one of the tensors that lose most for each network and tool.
"""

import argparse
import importlib
import itertools
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.fx import GraphModule

from attnblocks import __version__
from benchmarks.files import write_json
from benchmarks.int8.pt2e import int8_share
from benchmarks.int8.search import search, table
from benchmarks.int8.setup import (
    NETWORKS,
    Images,
    Probe,
    cosine,
    features,
    float_features,
    load_images,
)
from benchmarks.int8.tool import Tool
from benchmarks.runtimes.runtime import missing, versions
from benchmarks.settings import UsageError, check_output, machine
from benchmarks.warm_start.setup import load_lesions

TOOLS = ("x86", "xnnpack", "onnx_runtime", "openvino")
"""Modules of this package."""
GRAPHS = ("x86", "xnnpack")
"""Those whose networks are graphs of torch, which ``--search`` can take apart."""
SEARCHED = 64
"""Images that the search by layer reads."""
SHOWN = 12
"""Tensors that it prints."""


@dataclass(frozen=True)
class Row:
    """A network quantized by a tool; ``share`` is that of the multiply-adds that are in int8."""

    network: str
    tool: str
    recipe: str
    share: float | None
    cosine: float
    float_recall: float
    recall: float


def main() -> None:
    """Quantize, read, print; the file of the result is written anew after every line."""
    parser = _parser()
    options = parser.parse_args()
    chosen = list(dict.fromkeys(options.tool or (GRAPHS if options.search else TOOLS)))
    if options.search and (other := set(chosen) - {*GRAPHS}):
        parser.error(f"argument --search: takes --tool {', '.join(GRAPHS)}, not {min(other)}")
    try:
        check_output(options.out, None)
    except UsageError as error:
        parser.error(str(error))
    if not options.weights.is_file():
        parser.error(f"argument --weights: there is no file {str(options.weights)!r}")
    tools = [_tool(parser, name) for name in chosen]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    lesions = load_lesions(options.data, options.cache)
    images = load_images(lesions, options.weights, options.images)
    made: dict[str, Any] = {
        "attnblocks": __version__,
        "machine": machine("cpu"),
        "versions": {tool.NAME: versions(tool.PACKAGES) for tool in tools},
        "images": options.images,
        "rows": [],
        "search": {},
    }

    def keep() -> None:
        if options.out is not None:
            write_json(options.out, made)

    networks = [arm for arm in NETWORKS if not options.only or arm.name in options.only]
    if not options.search:
        print("| network | tool | recipe | MACs in int8 | cosine | recall, float | recall, int8 |")
        print("|---|---|---|---|---|---|---|", flush=True)
    for arm, tool in itertools.product(networks, tools):
        model = float_features(arm, options.weights)
        if options.search:
            found = search_layers(model, tool, images)
            made["search"][f"{arm.name}, {tool.NAME}"] = [asdict(row) for row in found]
            print(f"\n{arm.name}, {tool.NAME}\n", *table(found, SHOWN), sep="\n", flush=True)
            keep()
            continue
        for row in measure(arm.name, model, tool, images):
            made["rows"].append(asdict(row))
            print(_line(row), flush=True)
            keep()


def measure(name: str, model: torch.nn.Module, tool: Tool, images: Images) -> Iterator[Row]:
    """A row for each recipe of a tool, as soon as it is measured."""
    probe = Probe(features(model, images.probed), images.probed_labels)
    wanted = features(model, images.test)
    float_recall = probe.recall(wanted, images.test_labels)
    for recipe, arguments in tool.RECIPES.items():
        run = tool.quantize(model, images.calibration, **arguments)
        found = features(run, images.test)
        share = int8_share(run) if isinstance(run, GraphModule) else getattr(run, "share", None)
        recall = probe.recall(found, images.test_labels)
        yield Row(name, tool.NAME, recipe, share, cosine(found, wanted), float_recall, recall)


def search_layers(model: torch.nn.Module, tool: Tool, images: Images) -> list[Any]:
    """The search by layer in the tool's first recipe, on images of the calibration.

    Those that the recipes are read on choose none.
    """
    shown = images.calibration[:SEARCHED]
    graph = cast(GraphModule, tool.quantize(model, images.calibration, fold=False))
    return search(graph, shown, features(model, shown))


def _line(row: Row) -> str:
    share = "" if row.share is None else f"{row.share:.0%}"
    figures = f"{row.cosine:.3f} | {row.float_recall:.3f} | {row.recall:.3f}"
    return f"| {row.network} | {row.tool} | {row.recipe} | {share} | {figures} |"


def _tool(parser: argparse.ArgumentParser, name: str) -> Tool:
    """The module of a tool; a usage error where one of its packages is missing."""
    tool = cast(Tool, importlib.import_module(f"benchmarks.int8.{name}"))
    if absent := missing(tool.PACKAGES):
        parser.error(f"--tool {name} needs {', '.join(absent)}: pip install '.[bench,runtimes]'")
    return tool


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="HAM10000 folder")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights")
    names = [arm.name for arm in NETWORKS]
    parser.add_argument("--only", nargs="+", choices=names, help="networks; default: all")
    parser.add_argument("--tool", nargs="+", choices=TOOLS, help="default: all")
    parser.add_argument("--images", type=int, default=256, help="for calibration; default: 256")
    parser.add_argument("--search", action="store_true", help="search by layer instead")
    parser.add_argument("--out", type=Path, help="JSON file of the result")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("runs/ham10000-cache"),
        help="folder of decoded images; default: runs/ham10000-cache",
    )
    return parser


if __name__ == "__main__":
    main()
