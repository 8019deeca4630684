"""The trials that are done, and whether one lost its start."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ABOVE_OWN = 0.1
RISE = 0.15


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        arm: its name.
        run: fold and seed.
        of_epochs: how many epochs it was to have.
        epochs: the figures after each.
        error: why it broke off; None where it did not.
        before: what the blocks do at the start, by site.
        after: at the end; None where it broke off.
        lesion_area: mean share of the images that lesions cover; None without masks.
        seconds: that it took.
        device: on which.
    """

    arm: str
    run: tuple[int, int]
    of_epochs: int
    epochs: list[dict[str, float]]
    error: str | None
    before: dict[str, dict[str, Any]]
    after: dict[str, dict[str, Any]] | None
    lesion_area: float | None
    seconds: float
    device: str

    @property
    def losses(self) -> list[float]:
        """The validation log loss after each epoch; infinite where it was not finite any more."""
        losses = [epoch["val_loss"] for epoch in self.epochs]
        losses += [math.inf] * (self.of_epochs - len(losses))
        return [loss if math.isfinite(loss) else math.inf for loss in losses]


def read_trials(out: Path) -> list[Trial]:
    """All trials that are done in a folder."""
    trials = []
    for file in sorted(out.glob("fold * seed */*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        names = set(Trial.__dataclass_fields__) - {"run"}
        run = (found["fold"], found["seed"])
        trials.append(Trial(run=run, **{name: found[name] for name in names}))
    return trials


def lost_start(losses: Sequence[float], own: Sequence[float]) -> int | None:
    """The first epoch, from 1, after which a trial had lost its start; None if it never did.

    That is: its log loss was more than 0.1 above that of the network's own SE after the same epoch,
    or more than 0.15 above its own of the epoch before, or not finite.

    Args:
        losses: after each epoch.
        own: those of the network's own SE, same fold, same seed.
    """
    last = math.inf
    for number, (loss, base) in enumerate(zip(losses, own, strict=True), 1):
        if not loss <= min(base + ABOVE_OWN, last + RISE) or math.isinf(loss):
            return number
        last = loss
    return None
