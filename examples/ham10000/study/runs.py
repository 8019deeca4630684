"""The runs of a study, fold by fold, so that those that are finished first can be compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.ham10000.config import Config
from examples.ham10000.given import train_config
from examples.ham10000.study.arms import Arm, Study

FREE = (
    "same_lesion",
    "skip_bad",
    "workers",
    "model",
    "weights",
    "image_size",
    "epochs",
    "batch_size",
    "lr",
    "weight_decay",
    "schedule",
    "warmup",
    "clip_grad_norm",
    "precision",
    "recompute_bn",
)
"""Options of ``train`` that may be given for all arms; the study says the others."""


@dataclass(frozen=True)
class StudyRun:
    """One arm on one fold with one seed.

    Attributes:
        study: its name.
        arm: of the study.
        fold: the one that is tested.
        config: all options.
    """

    study: str
    arm: Arm
    fold: int
    config: Config

    @property
    def name(self) -> str:
        """To call it in messages."""
        return f"{self.arm.name}, fold {self.fold}, seed {self.config.seed}"


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

    Args:
        study: one of ``STUDIES``.
        data: HAM10000 folder.
        out: the folder of the runs.
        options: of ``train``, for all arms, in the place of the study's settings.
        rows: names of the arms to run; None for all.
        seeds: of every arm; None for those that each arm has.
        as_paper: train as the paper does.

    Raises:
        ValueError: an unknown arm, or an option that is the study's to say or out of range.
    """
    if fixed := [name for name in options if name not in FREE]:
        raise ValueError(f"--{fixed[0].replace('_', '-')} is said by the arms of --study")
    names = [arm.name for arm in study.arms]
    if unknown := [name for name in rows or () if name not in names]:
        raise ValueError(
            f"the study {study.name} has no arm {unknown[0]!r}; it has {'; '.join(names)}"
        )
    if seeds is not None and seeds < 1:
        raise ValueError(f"--seeds must be at least 1, got {seeds}")
    settings = {**study.settings, **(study.paper if as_paper else {}), **options}
    if settings["weights"] == "none":
        raise ValueError("--weights none: a study compares networks that are pre-trained")
    arms = [arm for arm in study.arms if rows is None or arm.name in rows]
    counts = {arm: arm.seeds if seeds is None else seeds for arm in arms}
    return [
        StudyRun(
            study.name, arm, fold, _config(study, arm, settings, data, out, fold=fold, seed=seed)
        )
        for seed in range(max(counts.values()))
        for fold in study.folds
        for arm in arms
        if seed < counts[arm]
    ]


def _config(
    study: Study,
    arm: Arm,
    settings: dict[str, Any],
    data: Path,
    out: Path,
    *,
    fold: int,
    seed: int,
) -> Config:
    run = out / f"{study.name}-{arm.slug}-fold{fold}-seed{seed}"
    given = {**settings, **arm.options(settings["lr"])}
    config = train_config({**given, "fold": fold, "seed": seed, "data": data, "out": run})
    config.check()
    return config
