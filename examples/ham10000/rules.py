"""Which options of a run go together, and how errors call them."""

from pathlib import Path

from pydantic import ValidationError

OWN_START = ("SE", "Constant", "none", "identity")
"""Attention that has no ``--init``, unless it is inserted."""
FASTER = 10
"""The default of ``gate_lr`` over ``lr`` where blocks start from pre-trained weights."""
COSINE_LOSSES = ("ldam", "joint")
"""Those that need a cosine classifier."""
LOSSES_WITH = {
    "class_weights": ("cross-entropy", "focal", "joint"),
    "focal_weight": ("joint",),
    "ldam_weight": ("joint",),
    "drw_start": COSINE_LOSSES,
}
"""The losses that use an option; for the others it is an error."""


def flag(name: str) -> str:
    """An option as the command line has it."""
    return f"--{name.replace('_', '-')}"


def said(error: ValidationError) -> str:
    """What is wrong with the first of the options that pydantic refuses."""
    first = error.errors()[0]
    text = first["msg"].replace("Input should", "must")
    text = text.replace("greater than or equal to", "at least").replace("greater than", "above")
    text = text.replace("less than or equal to", "at most").replace("less than", "below")
    names = [flag(str(name)) for name in first["loc"][:1]]
    return " ".join([*names, f"{text}, got {first['input']!r:.50}"])


def gates_with_rate(attention: str) -> tuple[str, ...]:
    """Which gates have a learning rate of their own; empty where the network has none of them.

    They are those of rows, columns and positions; of ``SE`` those of channels, as a control.
    """
    if attention in ("CaCo", "CoordAtt", "SeCo"):
        return ("rows", "columns")
    return {"CBAM": ("positions",), "SE": ("channel",)}.get(attention, ())


def check_start(init: str | None, attention: str, insert: str | None, weights: str) -> None:
    """Raise ValueError for a start that the blocks cannot have; the arguments are the options."""
    if insert is not None:
        if not insert.split():
            raise ValueError("--insert names no module: give patterns of names")
        if init in ("inherit", "fitted"):
            raise ValueError(f"--init {init} is for swapped blocks, not for those of --insert")
    elif init == "identity":
        raise ValueError("--init identity is for blocks of --insert, not for swapped ones")
    elif init is not None and attention in OWN_START:
        raise ValueError(f"--init is for swapped blocks, not for --attention {attention}")
    learned = "weights have learned: give --weights"
    if attention == "Constant" and weights == "none":
        raise ValueError(f"--attention Constant is the mean of what {learned}")
    if init == "fitted" and weights == "none":
        raise ValueError(f"--init fitted keeps what {learned}")
    if init == "loaded" and weights in ("none", "imagenet"):
        raise ValueError("--init loaded takes blocks from a file: give --weights FILE")


def check_folds(folds: int | None, fold: int | None, protocol: str) -> None:
    """Raise ValueError unless the options go together: a fold of so many, by lesion, or neither."""
    if folds is None and fold is None:
        return
    if folds is None:
        raise ValueError(f"--fold {fold} needs --folds, the number of all folds")
    if folds < 2:
        raise ValueError(f"--folds must be at least 2, got {folds}")
    if fold is None:
        raise ValueError(f"--folds {folds} needs --fold, the one that is tested: 0 to {folds - 1}")
    if not 0 <= fold < folds:
        raise ValueError(f"--fold must be 0 to {folds - 1} with --folds {folds}, got {fold}")
    if protocol != "lesion":
        raise ValueError(f"--folds is for --protocol lesion, not for {protocol}: it would leak")


def check_outside(out: Path, data: Path) -> None:
    """Raise ValueError for results in the data folder, where they would be taken for data."""
    if data.resolve() in out.resolve().parents:
        raise ValueError(f"--out {out} is inside --data: keep the data folder as it is")
