"""How the gates of a run have moved in its training: ``start.ckpt`` and ``gates.json``."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnblocks import GateReport, SiteGates, gate_report
from attnblocks.visualize import GateStatistics
from examples.ham10000.checkpoint import WholeCheckpointIO
from examples.ham10000.data.batches import center_crop
from examples.ham10000.data.load import Data
from examples.ham10000.evaluate import load_best
from examples.ham10000.files import write_json
from examples.ham10000.module import LesionClassifier

MOST_IMAGES = 256
"""Figures of gates are over at most that many images of a part, evenly spaced."""

OPTIONAL = ("between_classes", "moved")
"""Figures of a gate that may be unknown."""

START, GATES = "start.ckpt", "gates.json"
"""The files of a run: the weights before its first step, and the figures of its gates."""


def sample(data: Data, part: str) -> list[int]:
    """The images of a part that figures of gates are over: their places in the index."""
    positions = data.split[part]
    return positions[:: -(-len(positions) // MOST_IMAGES)]


def network_input(module: LesionClassifier, data: Data, positions: list[int]) -> Tensor:
    """What the network is given of images when it is evaluated."""
    pixels = center_crop(torch.from_numpy(data.pixels[positions]), module.image_size)
    return module.normalise(pixels.to(module.device))


def report_gates(
    module: LesionClassifier,
    data: Data,
    positions: list[int],
    batch_size: int,
    *,
    before: LesionClassifier | None = None,
    where: Tensor | None = None,
) -> GateReport:
    """The report of the gates of a network on some images, with their classes.

    Args:
        module: a network with blocks of the library.
        data: the images.
        positions: which of them.
        batch_size: images that go through the network at a time.
        before: the network as it was.
        where: lesion masks, bool (N, image_size, image_size).
    """
    labels = [data.images[i].label for i in positions]
    return gate_report(
        module.model,
        network_input(module, data, positions),
        None if before is None else before.model,
        where,
        labels=labels if len({*labels}) > 1 else None,
        batch_size=batch_size,
    )


def save_start(run: Path, model: nn.Module) -> None:
    """Write the weights of a network with which a run begins."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    WholeCheckpointIO().save_checkpoint({"state_dict": state}, run / START)


def record_gates(run: Path, best: LesionClassifier, data: Data, batch_size: int) -> None:
    """Write what the gates of a run were before its training, are now, and how far they moved.

    The figures are over images of the training part. Where there is no ``start.ckpt``, as in runs
    that an older version began, those of the start are null, and ``moved`` is.

    Args:
        run: its folder.
        best: its network with the weights that validated best.
        data: its images.
        batch_size: images that go through the network at a time.
    """
    positions = sample(data, "train")
    start = load_best(run, START) if (run / START).exists() else None
    reports = {
        "start": None if start is None else report_gates(start, data, positions, batch_size),
        "end": report_gates(best, data, positions, batch_size, before=start),
    }
    written = {name: None if of is None else asdict(of) for name, of in reports.items()}
    write_json(run / GATES, {"part": "train", **written})


@dataclass(frozen=True)
class RecordedGates:
    """The gates of a run at its start and at its end.

    Attributes:
        start: before the first step; None where that is not known.
        end: with the weights that validated best; ``moved`` is how far from the start.
    """

    start: GateReport | None
    end: GateReport


def read_gates(run: Path) -> RecordedGates | None:
    """What :func:`record_gates` wrote; None for a run of an older version, or without blocks.

    Raises:
        ValueError: the file is damaged.
    """
    file = run / GATES
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        start = content["start"]
        return RecordedGates(
            None if start is None else _read_report(start), _read_report(content["end"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def _read_report(content: dict[str, Any]) -> GateReport:
    sites = tuple(
        SiteGates(_text(site["name"]), tuple(_read_gate(gate) for gate in site["gates"]))
        for site in content["sites"]
    )
    images = content["images"]
    if type(images) is not int or images < 1:
        raise ValueError(f"images must be a whole number above 0, got {images!r}")
    if not sites or not all(site.gates for site in sites):
        raise ValueError("it has no sites, or a site without gates")
    return GateReport(sites, images)


def _read_gate(content: dict[str, Any]) -> GateStatistics:
    gate = GateStatistics(**content)
    for name, value in asdict(gate).items():
        if name in ("site", "gate"):
            _text(value)
        elif value is None and name in OPTIONAL:
            continue
        elif type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")
    return gate


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"names must be text, got {name!r}")
    return name
