"""The trials that are done, and whether one lost its start."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ABOVE_OWN = 0.1
RISE = 0.1


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
        return self._figure("val_loss")

    @property
    def training(self) -> list[float]:
        """The mean training loss of each epoch, likewise."""
        return self._figure("train_loss")

    def _figure(self, name: str) -> list[float]:
        found = [epoch[name] for epoch in self.epochs]
        found += [math.inf] * (self.of_epochs - len(found))
        return [value if math.isfinite(value) else math.inf for value in found]


def read_trials(out: Path) -> list[Trial]:
    """All trials that are done in a folder."""
    trials = []
    for file in sorted(out.glob("fold * seed */*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        names = set(Trial.__dataclass_fields__) - {"run"}
        run = (found["fold"], found["seed"])
        trials.append(Trial(run=run, **{name: found[name] for name in names}))
    return trials


def lost_start(trial: Trial, own: Trial) -> int | None:
    """The epoch, from 1, after which a trial had lost its start; None if it never did.

    That is: an epoch whose mean training loss is more than 0.1 above that of the epoch before, or
    is not finite; or the last, if its validation loss is more than 0.1 above that of the network's
    own SE, same fold, same seed. Validation losses in between do not count: batch norms lag behind
    weights that still move fast, for own SE too.
    """
    last = math.inf
    for number, loss in enumerate(trial.training, 1):
        if not loss <= last + RISE or math.isinf(loss):
            return number
        last = loss
    return trial.of_epochs if trial.losses[-1] > own.losses[-1] + ABOVE_OWN else None
