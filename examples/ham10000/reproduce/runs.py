"""The runs of a table: their options, their folders, and which of them are begun or finished."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from examples.ham10000.config import Config, read_options
from examples.ham10000.configure import LOSSES_WITH, train_config
from examples.ham10000.reproduce.rows import BACKBONE, Row


def finished(run: Path) -> bool:
    """Whether a run has been tested."""
    return (run / "test.json").exists()


def row_config(row: Row, seed: int, out: Path, data: Path, options: dict[str, Any]) -> Config:
    """The options of the run of a row, in a folder that is named after them.

    Args:
        row: of a table.
        seed: of the run.
        out: where its folder is.
        data: HAM10000 folder.
        options: of ``train``, for all rows; what a row does not use is left out.

    Raises:
        ValueError: an option is out of range.
    """
    own = row.model == BACKBONE
    given = {k: v for k, v in options.items() if row.loss in LOSSES_WITH.get(k, (row.loss,))}
    given["model"] = options.get("model", BACKBONE) if own else row.model
    given["weights"] = "none"
    if row.pretrained:
        given["weights"] = options.get("weights", "imagenet") if own else "imagenet"
    if row.attention in ("SE", "none"):
        given.pop("init", None)
    given |= {"attention": row.attention, "loss": row.loss, "seed": seed, "data": data, "out": out}
    config = train_config(given)
    parts = [
        config.model.partition("/")[2],
        *(["pretrained"] if row.pretrained else []),
        config.attention,
        *([config.init] if config.init else []),
        config.loss,
        config.protocol,
        f"seed{seed}",
    ]
    config = replace(config, out=out / "-".join(parts))
    config.check()
    return config


def begun_seeds(config: Config) -> list[int]:
    """The seeds of all run folders that differ from that of ``config`` in nothing but the seed."""
    start = config.out.name.removesuffix(str(config.seed))
    ends = [run.name.removeprefix(start) for run in config.out.parent.glob(f"{start}*")]
    return sorted(int(end) for end in ends if end.isdecimal())


def check_same_options(config: Config) -> None:
    """Raise ValueError where the folder of a run has one with other options."""
    try:
        begun = read_options(config.out)
    except FileNotFoundError:  # not looked for first: another process may be taking it away
        return
    for name, value in vars(config).items():
        # Where the data lie and who loads them makes no difference.
        if name not in ("data", "workers") and value != getattr(begun, name):
            raise ValueError(
                f"{config.out} was begun with {name} {getattr(begun, name)}, not {value}: "
                "name another --out"
            )
