"""How the gates of a run have moved in its training: ``start.ckpt`` and ``gates.json``."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

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
START, GATES = "start.ckpt", "gates.json"
"""The files of a run: the weights before its first step, and the figures of its gates."""


class RecordedGates(NamedTuple):
    """The gates before the first step, if that is known, and with the weights that validated best.

    ``moved`` of ``end`` is how far from the start.
    """

    start: GateReport | None
    end: GateReport


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

    ``before`` is the network as it was, ``where`` the lesion masks, bool (N, size, size).
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
    """Write what the gates were before the training, are with the best weights, and have moved.

    The figures are over images of the training part. Where there is no ``start.ckpt``, as in runs
    that an older version began, those of the start are null, and ``moved`` is.
    """
    positions = sample(data, "train")
    start = load_best(run, START) if (run / START).exists() else None
    before = None if start is None else asdict(report_gates(start, data, positions, batch_size))
    now = asdict(report_gates(best, data, positions, batch_size, before=start))
    write_json(run / GATES, {"part": "train", "start": before, "end": now})


def read_gates(run: Path) -> RecordedGates | None:
    """What :func:`record_gates` wrote; None for a run of an older version, or without blocks.

    ValueError where the file is damaged.
    """
    file = run / GATES
    if not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        start, end = content["start"], content["end"]
        return RecordedGates(None if start is None else _read_report(start), _read_report(end))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def _read_report(content: dict[str, Any]) -> GateReport:
    sites = tuple(
        SiteGates(site["name"], tuple(GateStatistics(**gate) for gate in site["gates"]))
        for site in content["sites"]
    )
    report = GateReport(sites, content["images"])
    if not sites or not all(site.gates for site in sites):
        raise ValueError("it has no sites, or a site without gates")
    if type(report.images) is not int or report.images < 1:
        raise ValueError(f"images must be a whole number above 0, got {report.images!r}")
    fields = [("site", site.name) for site in sites]
    for name, value in fields + [field for gate in report.gates for field in vars(gate).items()]:
        if name in ("site", "gate"):
            if not isinstance(value, str):
                raise ValueError(f"names must be text, got {value!r}")
        elif value is None and name in ("between_classes", "moved"):
            continue  # it is not known
        elif type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")
    return report
