"""The runs of a study, fold by fold, so that those that are finished first can be compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from examples.ham10000.config import Config
from examples.ham10000.given import train_config
from examples.ham10000.rules import flag
from examples.ham10000.study.arms import Arm, Study

FREE = (
    *("same_lesion", "skip_bad", "workers", "model", "weights", "image_size", "epochs"),
    *("batch_size", "lr", "weight_decay", "schedule", "warmup", "clip_grad_norm"),
    *("precision", "recompute_bn"),
)
"""Options of ``train`` that may be given for all arms; the study says the others."""


class StudyRun(NamedTuple):
    """One arm of a study on one fold, which is tested, with one seed."""

    study: str
    arm: Arm
    fold: int
    config: Config

    @property
    def name(self) -> str:
        """To call it in messages."""
        return f"{self.arm.name}, fold {self.fold}, seed {self.config.seed}"

    @property
    def predictions(self) -> Path:
        """The file of what the arm predicts with this seed, on all folds."""
        name = f"{self.study}-{self.arm.slug}-seed{self.config.seed}.npz"
        return self.config.out.with_name(name)


def study_runs(
    study: Study,
    data: Path,
    out: Path,
    options: dict[str, Any],
    *,
    rows: Sequence[str] | None = None,
    seeds: int | None = None,
    as_paper: bool = False,
) -> list[StudyRun]:
    """All runs of a study in the order in which they are begun: by seed, fold and arm.

    ``options`` of ``train`` take the place of the study's settings in all of them; ``rows`` are the
    names of the arms to run, None for all; ``seeds`` None means those that each arm has.

    Raises:
        ValueError: an unknown arm, or an option that is the study's to say or out of range.
    """
    if fixed := [name for name in options if name not in FREE]:
        raise ValueError(f"{flag(fixed[0])} is said by the arms of --study")
    names = [arm.name for arm in study.arms]
    if unknown := [name for name in rows or () if name not in names]:
        raise ValueError(
            f"the study {study.name} has no arm {unknown[0]!r}; it has {'; '.join(names)}"
        )
    if seeds is not None and seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")
    settings = {**study.settings, **(study.paper if as_paper else {}), **options, "data": data}
    if settings["weights"] == "none":
        raise ValueError("--weights none: a study compares networks that are pre-trained")
    counts = {
        a: a.seeds if seeds is None else seeds for a in study.arms if a.name in (rows or names)
    }
    runs = []
    for seed in range(max(counts.values())):
        for fold in study.folds:
            for arm in (arm for arm, count in counts.items() if seed < count):
                run = out / f"{study.name}-{arm.slug}-fold{fold}-seed{seed}"
                given = {**settings, **arm.options(settings["lr"])}
                config = train_config({**given, "fold": fold, "seed": seed, "out": run})
                config.check()
                runs.append(StudyRun(study.name, arm, fold, config))
    return runs
