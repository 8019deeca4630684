"""Measure what 8-bit integers cost a network with attention: ``python -m benchmarks.int8``.

Prints a table, and with ``--search`` one of the tensors that lose most for each network and tool.
"""

import argparse
import importlib
import logging
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch.fx import GraphModule

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
from benchmarks.warm_start.setup import load_lesions
from examples.ham10000.files import write_json

TOOLS = ("x86", "xnnpack", "onnx_runtime", "openvino")
"""Modules of this package."""
GRAPHS = ("x86", "xnnpack")
"""Those whose networks are graphs of torch, which ``--search`` can take apart."""
SEARCHED = 32
"""Test images that the search by layer reads."""


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
    """Quantize, read, print."""
    parser = _parser()
    options = parser.parse_args()
    names = options.tool or (GRAPHS if options.search else TOOLS)
    if options.search and (other := set(names) - {*GRAPHS}):
        parser.error(f"argument --search: takes --tool {', '.join(GRAPHS)}, not {min(other)}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    tools = [_tool(name) for name in names]
    lesions = load_lesions(options.data, options.cache)
    images = load_images(lesions, options.weights, options.images)
    rows: list[Row] = []
    searches: dict[str, Any] = {}
    print("| network | tool | recipe | MACs in int8 | cosine | recall, float | recall, int8 |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for arm in NETWORKS:
        if options.only and arm.name not in options.only and arm.block not in options.only:
            continue
        model = float_features(arm, options.weights)
        for tool in tools:
            if options.search:
                found = search_layers(model, tool, images)
                searches[f"{arm.name}, {tool.NAME}"] = [asdict(row) for row in found]
                print(f"\n{arm.name}, {tool.NAME}\n", *table(found, 12), sep="\n", flush=True)
                continue
            for row in measure(arm.name, model, tool, images):
                rows.append(row)
                print(_line(row), flush=True)
    if options.out is not None:
        made = {"versions": _versions(tools), "rows": [asdict(row) for row in rows]}
        write_json(options.out, {**made, "search": searches})


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
    """The search by layer in the tool's first recipe; its network is a graph of torch."""
    shown = images.test[:SEARCHED]
    graph = cast(GraphModule, tool.quantize(model, images.calibration, fold=False))
    return search(graph, shown, features(model, shown))


def _line(row: Row) -> str:
    share = "" if row.share is None else f"{row.share:.0%}"
    figures = f"{row.cosine:.3f} | {row.float_recall:.3f} | {row.recall:.3f}"
    return f"| {row.network} | {row.tool} | {row.recipe} | {share} | {figures} |"


def _tool(name: str) -> Tool:
    """The module of a tool, with its packages installed.

    Raises:
        SystemExit: a package is missing; the message names it.
    """
    tool: ModuleType = importlib.import_module(f"benchmarks.int8.{name}")
    try:
        _versions([cast(Tool, tool)])
    except PackageNotFoundError as error:
        raise SystemExit(
            f"--tool {name} needs {error.name}: pip install '.[bench,runtimes]'"
        ) from error
    return cast(Tool, tool)


def _versions(tools: list[Tool]) -> dict[str, str]:
    packages = {"torch", "timm"}.union(*(tool.PACKAGES for tool in tools))
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="HAM10000 folder")
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights")
    names = sorted({name for arm in NETWORKS for name in (arm.name, arm.block)})
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
