"""The options of a run: each is said once, for the command line and for the file that keeps it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from examples.ham10000.rules import (
    check_folds,
    check_outside,
    check_start,
    flag,
    gates_with_rate,
    said,
)

NOTICE = "Research code. Not a medical device; not for diagnosis."

Part = Literal["train", "val", "test"]
Protocol = Literal["lesion", "paper"]
Attention = Literal["CBAM", "CaCo", "CoordAtt", "Eca", "SE", "SeCo", "Constant", "none", "identity"]
Init = Literal["fresh", "inherit", "fitted", "identity", "loaded"]
Loss = Literal["cross-entropy", "focal", "ldam", "joint"]
Schedule = Literal["cosine", "constant"]
Monitor = Literal["val_mean_recall", "val_accuracy", "val_macro_f1", "val_loss"]
PARTS, PROTOCOLS, LOSSES, SCHEDULES = map(get_args, (Part, Protocol, Loss, Schedule))
ATTENTION: tuple[str, ...] = get_args(Attention)
"""The blocks of attnblocks, named here so that options need no torch; and what is none of them."""
PAPER_MODELS = {
    "ResNet18": "tv/resnet18",
    "ShuffleNetV2": "tv/shufflenet_v2_x2_0",
    "GhostNetV2": "timm/ghostnetv2_100",
    "EfficientNetB0": "tv/efficientnet_b0",
    "MobileNetV3-Small": "tv/mobilenet_v3_small",
}
"""The backbones of the paper, by its own names."""
MONITORS = {name: "min" if name == "val_loss" else "max" for name in get_args(Monitor)}
"""Figures that can choose the checkpoint, and whether more or less of them is better."""


_RULES = ConfigDict(allow_inf_nan=False, extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, kw_only=True, config=_RULES)
class Config:
    """The options of ``train``, each in its range; ``check`` looks whether they go together.

    The text below an option is its help, and its ``title`` what the help calls the value.

    ``data`` None stands for the synthetic set, ``split_file`` None for ``protocol`` and ``seed``,
    ``init`` None for a network without new blocks; the patterns of ``insert`` have spaces between.
    ``gate_lr`` and ``gate_weight_decay`` None stand for ``lr`` and ``weight_decay``.
    """

    data: Path | None = Field(None, title="DIR")
    """HAM10000 folder; without it, SYNTHETIC pictures are drawn"""
    out: Path = Field(..., title="DIR")
    """new folder for the run, which keeps decoded images beside it; default: runs/TIME-..."""
    protocol: Protocol = "lesion"
    """lesion: no lesion in two parts; paper: by image, which leaks"""
    split_file: Path | None = Field(None, title="FILE.csv")
    """CSV as the split command writes it"""
    folds: int | None = Field(None, title="N")
    """test one of N folds by lesion, which are the same for every seed, in place of a tenth"""
    fold: int | None = Field(None, title="K")
    """the fold that is tested, 0 to N - 1"""
    same_lesion: Path | None = Field(None, title="FILE.csv")
    """more pairs of images that show one lesion: columns image_id_1,image_id_2"""
    skip_bad: bool = False
    """leave out missing and unreadable images instead of stopping"""
    workers: int = Field(0, ge=0, le=256)
    """processes that load data"""

    model: str = Field("tv/mobilenet_v3_small", title="NAME")
    """tv/NAME, timm/NAME, or of the paper: ResNet18, ShuffleNetV2, GhostNetV2, EfficientNetB0,
    MobileNetV3-Small"""
    attention: Attention = "CaCo"
    """the block at every SE site; SE: the network's own; Constant: its mean gate for each channel;
    none: as it is; identity: no SE"""
    insert: str | None = Field(None, title="PATTERN")
    """put the block behind these modules, not in the place of SE blocks: patterns of names, such as
    'layer?.*.bn2', or residual, stages, depthwise"""
    init: Init | None = None
    """how a block starts; fresh: as published; inherit: from the SE it replaces; fitted: to it, on
    2,048 training images without labels; identity: one of --insert, changing nothing; loaded: as in
    the file of weights; default: loaded where the file has the block, identity with --insert,
    fitted with other weights, else fresh"""
    weights: str = Field("none", title="WEIGHTS")
    """none, imagenet, or a file of PyTorch, torchvision, timm, Lightning, save_model or a run
    (best.ckpt); its classifier is left out"""
    image_size: int = Field(224, ge=1, le=4096)
    """in pixels"""
    recompute_bn: Literal["auto", "yes", "no"] = "auto"
    """batch norm statistics from training images before each validation; auto: where the network's
    own average lags (momentum below 0.1)"""

    loss: Loss = "cross-entropy"
    """ldam and joint come with a cosine classifier"""
    class_weights: Literal["none", "balanced"] = "none"
    """of cross entropy and focal loss; balanced: inverse to the images of a class"""
    focal_weight: float = Field(1.0, ge=0)
    """of the focal term of the joint loss"""
    ldam_weight: float = Field(1.0, ge=0)
    """of the LDAM term of the joint loss"""
    drw_start: float = Field(0.8, ge=0, le=1)
    """share of the epochs before LDAM's class weights are switched on (1: never)"""

    epochs: int = Field(100, ge=1)
    """how often all training images are seen"""
    batch_size: int = Field(128, ge=1)
    """images of a step, over all processes"""
    lr: float = Field(5e-4, gt=0)
    """learning rate of AdamW"""
    weight_decay: float = Field(5e-2, ge=0)
    """of AdamW, on all but biases and norms"""
    gate_lr: float | None = Field(None, gt=0)
    """learning rate of the layers that make gates of rows, columns and positions; with --attention
    SE, of the SE blocks; default: with --weights --lr times 10 (inherit, fitted, identity); else
    --lr"""
    gate_weight_decay: float | None = Field(None, ge=0)
    """of these layers; default: that of --weight-decay"""
    warmup: float = Field(0.0, ge=0, title="EPOCHS")
    """epochs in which all learning rates rise, step by step; 0: none; default: with --weights 0.125
    of the epochs, at most 1; else 0"""
    schedule: Schedule = "cosine"
    """of the learning rates"""
    clip_grad_norm: float | None = Field(None, gt=0, title="NORM")
    """largest norm of the gradient, or none; default: with --weights 1; else none"""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """of the training"""
    monitor: Monitor = "val_mean_recall"
    """figure that chooses the checkpoint"""
    seed: int = Field(0, ge=0, lt=2**32)
    """of split, initial weights, order, augmentation and dropout"""

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
        """Raise ValueError for options that contradict each other."""
        if self.warmup >= self.epochs:
            raise ValueError(f"--warmup must be below the {self.epochs} epochs, got {self.warmup}")
        check_folds(self.folds, self.fold, self.protocol)
        if self.folds is not None and self.split_file is not None:
            raise ValueError("--folds and --split-file both say what is tested: leave out one")
        check_start(self.init, self.attention, self.insert, self.weights)
        for name in ("gate_lr", "gate_weight_decay"):
            if getattr(self, name) is not None and not gates_with_rate(self.attention):
                raise ValueError(
                    f"{flag(name)} is for gates of rows, columns or positions, or for SE; "
                    f"--attention {self.attention} has none of them"
                )
        if self.focal_weight == self.ldam_weight == 0:
            raise ValueError("--focal-weight and --ldam-weight are both 0: one must be above 0")
        if self.data is not None:
            check_outside(self.out, self.data)


FIELDS: dict[str, FieldInfo] = vars(Config)["__pydantic_fields__"]
DEFAULTS = {name: field.default for name, field in FIELDS.items() if name != "out"}
"""Of ``train``; the settings of :data:`PAPER` or :data:`SYNTHETIC` come on top."""
SYNTHETIC = {"image_size": 64, "epochs": 12, "batch_size": 32, "lr": 2e-3}
"""Small enough for two minutes on two cores."""
PAPER = {name: DEFAULTS.pop(name) for name in SYNTHETIC}


NEWER = ("same_lesion", "folds", "fold", "insert", "gate_lr", "gate_weight_decay", "warmup")
"""Options that the files of older runs do not have."""


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
    options = read_description(run).get("options")
    try:
        if not isinstance(options, dict):
            raise ValueError("there are none")
        if missing := FIELDS.keys() - options.keys() - set(NEWER):
            raise ValueError(f"{flag(min(missing))} is not there")
        if unknown := options.keys() - FIELDS.keys():
            raise ValueError(f"{flag(min(unknown))} is no option of this version")
        text = json.dumps({**options, "out": str(run)})
        config = TypeAdapter(Config).validate_json(text, strict=True)
        config.check()
    except ValueError as error:
        problem = said(error) if isinstance(error, ValidationError) else error
        raise ValueError(
            f"the options in {run / 'config.json'} are damaged, or of another version: {problem}"
        ) from error
    return config
