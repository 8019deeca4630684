"""The runs of a table: their options, their folders, and which of them are begun or finished."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from examples.ham10000.config import Config, read_description, read_options
from examples.ham10000.configure import LOSSES_WITH, train_config
from examples.ham10000.reproduce.rows import BACKBONE, Row
from examples.ham10000.training.attention import OWN_START, gates_with_rate


def finished(run: Path) -> bool:
    """Whether a run has been tested."""
    return (run / "test.json").exists()


def row_config(
    row: Row,
    seed: int,
    out: Path,
    data: Path,
    options: dict[str, Any],
    *,
    read_weights: bool = False,
) -> Config:
    """The options of the run of a row, in a folder that is named after them.

    How blocks start depends on what a file of weights holds. Runs that are begun say it, too, so
    that the file need not be there, nor fit the rows that are not asked for.

    Args:
        row: of a table.
        seed: of the run.
        out: where its folder is.
        data: HAM10000 folder.
        options: of ``train``, for all rows; what a row does not use is left out.
        read_weights: read the file where no run of the row is begun.

    Raises:
        ValueError: an option is out of range, or the file does not fit the row.
    """
    own = row.model == BACKBONE
    given = {k: v for k, v in options.items() if row.loss in LOSSES_WITH.get(k, (row.loss,))}
    given["model"] = options.get("model", BACKBONE) if own else row.model
    given["weights"] = "none"
    if row.pretrained:
        given["weights"] = options.get("weights", "imagenet") if own else "imagenet"
    if row.attention in OWN_START:
        given.pop("init", None)
    if not gates_with_rate(row.attention):
        given = {k: v for k, v in given.items() if k not in ("gate_lr", "gate_weight_decay")}
    given |= {"attention": row.attention, "loss": row.loss, "seed": seed, "data": data, "out": out}
    from_file = given["weights"] not in ("none", "imagenet")
    if from_file and "init" not in given and row.attention not in OWN_START:
        for init in ("loaded", "fitted"):
            config = _named({**given, "init": init}, row)
            if begun_seeds(config):
                return config
        if not read_weights:
            return config
    return _named(given, row)


def _named(given: dict[str, Any], row: Row) -> Config:
    config = train_config(given, as_paper=True)
    parts = [
        config.model.partition("/")[2],
        *(["pretrained"] if row.pretrained else []),
        config.attention,
        *([config.init] if config.init else []),
        config.loss,
        config.protocol,
        f"seed{config.seed}",
    ]
    config = replace(config, out=config.out / "-".join(parts))
    config.check()
    return config


def begun_seeds(config: Config) -> list[int]:
    """The seeds of all run folders that differ from that of ``config`` in nothing but the seed."""
    start = config.out.name.removesuffix(str(config.seed))
    ends = [run.name.removeprefix(start) for run in config.out.parent.glob(f"{start}*")]
    return sorted(int(end) for end in ends if end.isdecimal())


def check_same_options(config: Config) -> None:
    """Raise ValueError where a run folder has one with other options, or of an older version."""
    try:
        begun, known = read_options(config.out), read_description(config.out)["options"]
    except FileNotFoundError:  # not looked for first: another process may be taking it away
        return
    if "warmup" not in known:
        raise ValueError(
            f"{config.out} was begun by an older version, in which biases and norms decayed and "
            "lesions with two ids were not joined: name another --out"
        )
    for name, value in vars(config).items():
        # Where the data lie and who loads them makes no difference.
        if name not in ("data", "workers") and value != getattr(begun, name):
            raise ValueError(
                f"{config.out} was begun with {name} {getattr(begun, name)}, not {value}: "
                "name another --out"
            )
