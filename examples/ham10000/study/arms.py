"""What the studies compare, and the settings of all their runs, which were fixed before them.

The settings are those of the trials of rates (``docs/warm_start.md#rates``), which were compared on
validation parts inside the training folds, and the defaults of ``train`` for pre-trained weights
that were chosen there: a warm-up over an eighth of the epochs, at most one, gradients clipped to a
norm of 1.0, and ten times the rate for the layers of gates of rows, columns and positions. LDAM and
the joint loss have their defaults, which were not tuned.

The checkpoint with the least loss on the validation part is tested. The figure of the study is the
log loss, and the best mean recall of so few images of the rare classes can be that of an epoch
with a bad log loss. LDAM and the joint loss weight the classes in their last epochs only, and their
own loss on the validation part knows no weights: it chose epochs before these. They are made for
the rare classes, so there the checkpoint with the best mean recall is tested.
"""

from dataclasses import dataclass
from typing import Any

from examples.ham10000.rules import FASTER

FOLDS = 5

RARE_CLASSES = "val_mean_recall"
"""What chooses the checkpoint of losses that weight the rare classes."""


@dataclass(frozen=True)
class Arm:
    """One way to train the network of a study: options of ``train``, where they are not None.

    ``faster`` says whether all of an SE block has the rate that other blocks have at their gates.
    """

    name: str
    attention: str
    loss: str = "cross-entropy"
    init: str | None = None
    monitor: str | None = None
    faster: bool = False
    insert: tuple[str, ...] | None = None
    seeds: int = 1

    @property
    def slug(self) -> str:
        """The name as names of files have it."""
        return self.name.replace(", ", "-").replace(" ", "-")

    def options(self, lr: float) -> dict[str, Any]:
        """Its options of ``train``, where the learning rate is ``lr``."""
        insert = None if self.insert is None else list(self.insert)
        found: dict[str, Any] = {"attention": self.attention, "loss": self.loss}
        found |= {"init": self.init, "monitor": self.monitor, "insert": insert}
        found["gate_lr"] = FASTER * lr if self.faster else None
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Study:
    """Arms, and what is the same for all of them.

    ``against`` are the names of the arms that the others are compared with. The options of
    ``train`` in ``paper`` take the place of ``settings`` to train as the paper does. ``folds``
    says which of :data:`FOLDS` are tested.
    """

    name: str
    arms: tuple[Arm, ...]
    against: tuple[str, ...]
    settings: dict[str, Any]
    paper: dict[str, Any]
    folds: tuple[int, ...]


SETTINGS: dict[str, Any] = {
    "model": "timm/tf_mobilenetv3_small_075",
    "weights": "imagenet",
    "protocol": "lesion",
    "folds": FOLDS,
    "image_size": 112,
    "epochs": 8,
    "batch_size": 128,
    "lr": 5e-4,
    "weight_decay": 5e-2,
    "schedule": "cosine",
    "monitor": "val_loss",
    "precision": "32-true",
    "recompute_bn": "auto",
}
"""Of all runs."""

ATTENTION = Study(
    "attention",
    (
        Arm("own SE", "SE", seeds=2),
        Arm("SE at the same rates", "SE", faster=True),
        Arm("Constant", "Constant"),
        Arm("CaCo", "CaCo", init="fitted", seeds=2),
        Arm("SeCo", "SeCo", init="fitted"),
        Arm("CBAM", "CBAM", init="fitted"),
        Arm("CoordAtt", "CoordAtt", init="fitted"),
        Arm("Eca", "Eca", init="fitted"),
        Arm("CaCo fresh", "CaCo", init="fresh"),
        Arm("own SE, joint loss", "SE", "joint", monitor=RARE_CLASSES),
        Arm("CaCo, joint loss", "CaCo", "joint", init="fitted", monitor=RARE_CLASSES),
        Arm("own SE, LDAM", "SE", "ldam", monitor=RARE_CLASSES),
        Arm("CaCo, LDAM", "CaCo", "ldam", init="fitted", monitor=RARE_CLASSES),
    ),
    ("own SE", "SE at the same rates"),
    SETTINGS,
    {"model": "tv/mobilenet_v3_small", "image_size": 224, "epochs": 100},
    (0, 1, 2, 3, 4),
)
"""Other blocks in the place of SE."""

_DEPTHWISE = ("depthwise",)

INSERTION = Study(
    "insertion",
    (
        Arm("as it is", "none"),
        Arm("SE inserted", "SE", init="identity", faster=True, insert=_DEPTHWISE),
        Arm("CaCo inserted", "CaCo", init="identity", insert=_DEPTHWISE),
        Arm("CoordAtt inserted", "CoordAtt", init="identity", insert=_DEPTHWISE),
    ),
    ("as it is", "SE inserted"),
    {**SETTINGS, "model": "timm/tf_efficientnet_lite0"},
    {"image_size": 224, "epochs": 100},
    (0, 1, 2, 3, 4),
)
"""Blocks in a network without SE, behind the depthwise convolutions, where EfficientNet has SE."""

STUDIES = {study.name: study for study in (ATTENTION, INSERTION)}
