"""How the gates of a run have moved in its training: ``start.ckpt`` and ``gates.json``."""

from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from attnblocks import GateReport, gate_report
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


_RULES = ConfigDict(allow_inf_nan=False, extra="forbid", strict=True)


@dataclass(frozen=True, config=_RULES)
class RecordedGates:
    """The gates before the first step, if that is known, and with the weights that validated best.

    ``moved`` of ``end`` is how far from the start; the images are of ``part``.
    """

    start: GateReport | None
    end: GateReport
    part: str = "train"


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
        recorded = TypeAdapter(RecordedGates).validate_json(file.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{file} is damaged: {where} {first['msg']}") from error
    for report in filter(None, (recorded.start, recorded.end)):
        if report.images < 1 or not all([report.sites, *(site.gates for site in report.sites)]):
            raise ValueError(f"{file} is damaged: it is of no images, no sites, or has no gates")
    return recorded
