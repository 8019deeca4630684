"""The options of a run: their defaults, their limits, and the file that keeps them."""

import json
import math
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, get_type_hints

OWN_START = ("SE", "Constant", "none", "identity")
"""Attention that has no ``--init``, unless it is inserted."""
ATTENTION = ("CBAM", "CaCo", "CoordAtt", "Eca", "SE", "SeCo", "Constant", "none", "identity")
"""The blocks of attnblocks, named here so that options need no torch; and what is none of them."""
LOSSES = ("cross-entropy", "focal", "ldam", "joint")
COSINE_LOSSES = ("ldam", "joint")
"""Those that need a cosine classifier."""
PAPER_MODELS = {
    "ResNet18": "tv/resnet18",
    "ShuffleNetV2": "tv/shufflenet_v2_x2_0",
    "GhostNetV2": "timm/ghostnetv2_100",
    "EfficientNetB0": "tv/efficientnet_b0",
    "MobileNetV3-Small": "tv/mobilenet_v3_small",
}
"""The backbones of the paper, by its own names."""
PARTS = ("train", "val", "test")
PROTOCOLS = ("lesion", "paper")

NOTICE = "Research code. Not a medical device; not for diagnosis."

# The paper's settings, and those of the synthetic set: small enough for two minutes on two cores.
PAPER = {"image_size": 224, "epochs": 100, "batch_size": 128, "lr": 5e-4}
SYNTHETIC = {"image_size": 64, "epochs": 12, "batch_size": 32, "lr": 2e-3}

LARGEST_IMAGE = 4096
"""The largest ``image_size``; a network needs gigabytes for it."""

MOST_WORKERS = 256

INITS = ("fresh", "inherit", "fitted", "identity", "loaded")
"""How blocks start: as published; replaced ones from the SE, or fitted to it too; inserted ones as
the identity; or all from a file of weights that has them."""

SCHEDULES = ("cosine", "constant")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
CLASS_WEIGHTS = ("none", "balanced")
RECOMPUTE_BN = ("auto", "yes", "no")
MONITORS = {
    "val_mean_recall": "max",
    "val_accuracy": "max",
    "val_macro_f1": "max",
    "val_loss": "min",
}
"""Figures that can choose the checkpoint, and whether more or less of them is better."""

CHOICES = {
    "protocol": PROTOCOLS,
    "attention": ATTENTION,
    "loss": LOSSES,
    "class_weights": CLASS_WEIGHTS,
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "recompute_bn": RECOMPUTE_BN,
    "monitor": tuple(MONITORS),
}
"""What an option may be; also of a run, whose file may be a stranger's."""


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
    if attention == "Constant" and weights == "none":
        raise ValueError(
            "--attention Constant is the mean of what weights have learned: give --weights"
        )
    if init == "fitted" and weights == "none":
        raise ValueError("--init fitted keeps what weights have learned: give --weights")
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


GATES_WITH_RATE = {
    "CBAM": ("positions",),
    "CaCo": ("rows", "columns"),
    "CoordAtt": ("rows", "columns"),
    "SE": ("channel",),
    "SeCo": ("rows", "columns"),
}
"""Which gates have a learning rate of their own: those of rows, columns and positions; of ``SE``
those of channels, as a control."""


def gates_with_rate(attention: str) -> tuple[str, ...]:
    """Which gates have a learning rate of their own; empty where the network has none of them."""
    return GATES_WITH_RATE.get(attention, ())


@dataclass(frozen=True)
class Config:
    """The options of ``train``, as its help describes them.

    ``data`` None stands for the synthetic set, ``split_file`` None for ``protocol`` and ``seed``,
    ``init`` None for a network without new blocks, ``clip_grad_norm`` None for no clipping,
    ``folds`` and ``fold`` None for a plain split, ``insert`` None for swapped blocks; its patterns
    have spaces between. ``gate_lr`` and ``gate_weight_decay`` None stand for ``lr`` and
    ``weight_decay``. What has a default here is not in the files of older runs.
    """

    data: Path | None
    out: Path
    protocol: str
    split_file: Path | None
    skip_bad: bool
    model: str
    attention: str
    init: str | None
    weights: str
    image_size: int
    loss: str
    class_weights: str
    focal_weight: float
    ldam_weight: float
    drw_start: float
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    schedule: str
    clip_grad_norm: float | None
    precision: str
    recompute_bn: str
    monitor: str
    seed: int
    workers: int
    same_lesion: Path | None = None
    folds: int | None = None
    fold: int | None = None
    insert: str | None = None
    gate_lr: float | None = None
    gate_weight_decay: float | None = None
    warmup: float = 0.0

    @property
    def same_lesion_copy(self) -> Path | None:
        """The table ``same_lesion`` in the run folder, which is the one that counts."""
        return None if self.same_lesion is None else self.out / "same_lesion.csv"

    @property
    def split_name(self) -> str:
        """What to call the split in titles."""
        if self.split_file is not None:
            return self.split_file.name
        if self.folds is None:
            return f"{self.protocol} split"
        fold = f"{self.folds} folds" if self.fold is None else f"fold {self.fold} of {self.folds}"
        return f"{self.protocol} split, {fold}"

    @property
    def network_name(self) -> str:
        """What to call the network in titles."""
        start = "" if self.init is None else f" ({self.init})"
        place = "" if self.insert is None else f" behind {self.insert}"
        return f"{self.model}, attention {self.attention}{place}{start}"

    def check(self) -> None:
        """Raise ValueError for a number out of range or options that contradict each other."""
        for name in ("image_size", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{_flag(name)} must be at least 1, got {getattr(self, name)}")
        if self.image_size > LARGEST_IMAGE:
            raise ValueError(f"--image-size must be at most {LARGEST_IMAGE}, got {self.image_size}")
        for name in ("lr", "gate_lr", "clip_grad_norm"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{_flag(name)} must be above 0 and finite, got {value}")
        for name in ("weight_decay", "gate_weight_decay", "warmup", "focal_weight", "ldam_weight"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{_flag(name)} must be finite and not below 0: {value}")
        if self.warmup >= self.epochs:
            raise ValueError(f"--warmup must be below the {self.epochs} epochs, got {self.warmup}")
        check_workers(self.workers)
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, got {self.seed}")
        if self.seed >= 2**32:
            raise ValueError(f"--seed must be below 2**32, got {self.seed}")
        if not 0 <= self.drw_start <= 1:
            raise ValueError(f"--drw-start is a share of the epochs, 0 to 1, got {self.drw_start}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{_flag(name)} must be one of {', '.join(known)}; got {getattr(self, name)!r}"
                )
        check_folds(self.folds, self.fold, self.protocol)
        if self.folds is not None and self.split_file is not None:
            raise ValueError("--folds and --split-file both say what is tested: leave out one")
        if self.init not in (None, *INITS):
            raise ValueError(f"--init must be one of {', '.join(INITS)}; got {self.init!r}")
        check_start(self.init, self.attention, self.insert, self.weights)
        if not gates_with_rate(self.attention):
            for name in ("gate_lr", "gate_weight_decay"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"{_flag(name)} is for gates of rows, columns or positions, or for SE; "
                        f"--attention {self.attention} has none of them"
                    )
        if self.focal_weight == self.ldam_weight == 0:
            raise ValueError("--focal-weight and --ldam-weight are both 0: one must be above 0")
        if self.data is not None:
            check_outside(self.out, self.data)


def check_outside(out: Path, data: Path) -> None:
    """Raise ValueError for results in the data folder, where they would be taken for data."""
    if data.resolve() in out.resolve().parents:
        raise ValueError(f"--out {out} is inside --data: keep the data folder as it is")


def check_workers(workers: int) -> None:
    """Raise ValueError for a number of processes that no machine should start."""
    if not 0 <= workers <= MOST_WORKERS:
        raise ValueError(f"--workers must not be negative, nor above {MOST_WORKERS}, got {workers}")


def options_for_json(config: Config) -> dict[str, Any]:
    """The options as JSON has them."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}


def read_description(run: Path) -> dict[str, Any]:
    """What ``config.json`` and ``description.json`` of a run say, the latter if there is one.

    Raises FileNotFoundError where there is no run, and ValueError for a damaged file.
    """
    if not (run / "config.json").is_file():
        raise FileNotFoundError(f"no run in {run}: there is no {run / 'config.json'}")
    description: dict[str, Any] = {}
    for file in filter(Path.is_file, (run / "description.json", run / "config.json")):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is damaged: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{file} is damaged: it holds no JSON object")
        description |= content
    options = description.get("options")
    if isinstance(options, dict) and options.get("init") == "warm":
        options["init"] = "inherit"  # its name in version 0.1.0
    return description


def read_options(run: Path) -> Config:
    """The options that a run was started with; errors as of :func:`read_description`."""
    description = read_description(run)
    try:
        options = {**description["options"], "out": run}
        options.setdefault("same_lesion", None)
        for name in ("data", "split_file", "same_lesion"):
            if not isinstance(options[name], str | None):
                raise TypeError(f"{name} is {options[name]!r}")
            options[name] = None if options[name] is None else Path(options[name])
        config = Config(**_of_their_kinds(options))
        config.check()
    except (KeyError, TypeError, OverflowError) as error:
        raise ValueError(
            f"the options in {run / 'config.json'} are of another version: {error}"
        ) from error
    return config


def _of_their_kinds(options: dict[str, Any]) -> dict[str, Any]:
    """The options, once each is of the kind that the command line makes of it."""
    options = dict(options)
    for name, kind in get_type_hints(Config).items():
        value = options.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and isinstance(0.0, kind):
            options[name] = value = float(value)  # JSON does not tell 1 and 1.0 apart
        wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        if name in options and wrong:
            raise TypeError(f"{name} is {value!r:.50}")
    return options


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


DEFAULTS: dict[str, Any] = {
    "data": None,
    "protocol": "lesion",
    "split_file": None,
    "same_lesion": None,
    "folds": None,
    "fold": None,
    "skip_bad": False,
    "model": "tv/mobilenet_v3_small",
    "attention": "CaCo",
    "insert": None,
    "init": None,
    "weights": "none",
    "loss": "cross-entropy",
    "class_weights": "none",
    "focal_weight": 1.0,
    "ldam_weight": 1.0,
    "drw_start": 0.8,
    "weight_decay": 5e-2,
    "gate_lr": None,
    "gate_weight_decay": None,
    "warmup": 0.0,
    "schedule": "cosine",
    "clip_grad_norm": None,
    "precision": "32-true",
    "recompute_bn": "auto",
    "monitor": "val_mean_recall",
    "seed": 0,
    "workers": 0,
}
"""Of ``train``; those of :data:`PAPER` and :data:`SYNTHETIC` come on top."""

GATE_LR_FACTOR = {"inherit": 10, "fitted": 10, "identity": 10}
"""The default of ``gate_lr`` over ``lr`` with pre-trained weights, by the start of the blocks; 1
for all other starts, without weights, and for ``SE``, inserted too: it is the rate of the network's
own as well."""

WARMUP_SHARE, MOST_WARMUP, CLIP_GRAD_NORM = 0.125, 1.0, 1.0
"""The defaults with pre-trained weights: ``warmup`` as a share of the epochs, the most of it, and
``clip_grad_norm``. Without both a network can lose, at these rates, what its weights know."""

LOSSES_WITH = {
    "class_weights": ("cross-entropy", "focal", "joint"),
    "focal_weight": ("joint",),
    "ldam_weight": ("joint",),
    "drw_start": COSINE_LOSSES,
}
"""The losses that use an option; for the others it is an error."""


def train_config(given: dict[str, Any], *, as_paper: bool = False) -> Config:
    """The configuration that the options of ``train`` make.

    Args:
        given: the options.
        as_paper: train with pre-trained weights as without, as ``reproduce`` does.

    Raises:
        ValueError: an option stands beside ``--resume``, or beside a loss that does not use it; or
            the file of weights does not fit.
        FileNotFoundError: there is no run to resume, or no file of weights.
    """
    given = {name: value for name, value in given.items() if name != "command"}
    if "resume" in given:
        return _resumed(**given)
    options = {**DEFAULTS, **(PAPER if "data" in given else SYNTHETIC), **given}
    tuned = options["weights"] != "none" and not as_paper
    if tuned:
        warmup = min(WARMUP_SHARE * options["epochs"], MOST_WARMUP)
        options = {**options, "warmup": warmup, "clip_grad_norm": CLIP_GRAD_NORM, **given}
    for name, losses in LOSSES_WITH.items():
        if name in given and options["loss"] not in losses:
            flag, known = name.replace("_", "-"), ", ".join(losses)
            raise ValueError(f"--{flag} is for --loss {known}, not for {options['loss']}")
    # The run may be resumed from another folder.
    for name in ("data", "split_file", "same_lesion"):
        options[name] = None if options[name] is None else options[name].absolute()
    if options["weights"] not in ("none", "imagenet"):
        options["weights"] = str(Path(options["weights"]).absolute())
    options["model"] = PAPER_MODELS.get(options["model"], options["model"])
    if options["insert"] is not None:
        options["insert"] = " ".join(options["insert"])
    if options["init"] is None:
        options["init"] = _default_init(options)
    if gates_with_rate(options["attention"]):
        if options["gate_lr"] is None:
            faster = tuned and options["attention"] != "SE"
            factor = GATE_LR_FACTOR.get(options["init"], 1) if faster else 1
            options["gate_lr"] = options["lr"] * factor
        if options["gate_weight_decay"] is None:
            options["gate_weight_decay"] = options["weight_decay"]
    if "out" not in options:
        time = datetime.now().strftime("%Y-%m-%d-%H%M%S")
        name = "{model}-{attention}-{loss}-seed{seed}".format(**options).replace("/", "-")
        fold = "" if options["fold"] is None else f"-fold{options['fold']}"
        options["out"] = Path("runs", f"{time}-{name}{fold}")
    return Config(**options)


def _default_init(options: dict[str, Any]) -> str | None:
    """How new blocks start: as near to the weights as they get. None where there are none."""
    weights, attention, insert = options["weights"], options["attention"], options["insert"]
    if insert is None and attention in OWN_START:
        return None
    near = "fitted" if insert is None else "identity"
    if weights == "none":
        return "fresh" if insert is None else near
    if weights == "imagenet" or not Path(weights).is_file():  # which is an error later
        return near
    from examples.ham10000.data.index import CLASSES
    from examples.ham10000.model import build_network

    network = build_network(
        options["model"],
        len(CLASSES),
        weights,
        attention,
        insert=insert,
        image_size=options["image_size"],
    )
    return "loaded" if network.loaded else near


def _resumed(resume: Path, data: Path | None = None, **others: Any) -> Config:
    """The options of a run; its images may have been moved, which their digests will show."""
    if others:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise ValueError(f"--resume takes the options of {resume}: leave out {flags}")
    config = read_options(resume)
    if data is None:
        return config
    if config.data is None:
        raise ValueError(f"{resume} has drawn its own SYNTHETIC pictures: leave out --data")
    moved = replace(config, data=data.absolute())
    moved.check()
    return moved
