"""The images and the networks that are compared."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from attnblocks import replace_se
from benchmarks.lesions import (
    Image,
    Lesions,
    Network,
    build_network,
    center_crop,
    load_all,
    normalised,
    read_index,
    split,
)

MODEL = "timm/tf_mobilenetv3_small_075"
IMAGE_SIZE = 112
BATCH_SIZE = 128
INITS = ("fresh", "inherit", "fitted")


@dataclass(frozen=True)
class Arm:
    """One network of the comparison: a block, its squeeze width, and how it starts.

    ``init`` is ``fresh``, ``inherit`` or ``fitted``. With ``open`` in front of the last two, the
    rows and columns of SeCo and CaCo start at sigmoid(5) instead, as they did in version 0.1.0.
    """

    block: str
    width: str = "published"
    init: str = "fitted"

    @property
    def is_fitted(self) -> bool:
        """Whether the network is fitted to the one with its own SE."""
        return self.init.endswith("fitted")

    @property
    def name(self) -> str:
        """In tables and names of files."""
        return "own SE" if self == OWN else f"{self.block} {self.width} {self.init}"


OWN = Arm("SE", "own", "kept")
WIDTHS = [
    ("SeCo", "published"),
    ("CaCo", "published"),
    ("CaCo", "match"),
    ("CBAM", "published"),
    ("CBAM", "match"),
    ("CoordAtt", "published"),
    ("Eca", "published"),
]
COMPARED = [OWN, *(Arm(block, width, init) for block, width in WIDTHS for init in INITS)]
"""Those whose features are measured."""


def keep_from_test(images: Sequence[Image]) -> tuple[list[Image], list[int], list[int]]:
    """All images but those of the test part of seed 0, which stays unread.

    Returns:
        These images, and the positions of a training part and of a validation part of a fifth: no
        lesion is in both.
    """
    test = set(split(images, seed=0)["test"])
    kept = [image for i, image in enumerate(images) if i not in test]
    parts = split(kept, seed=0)
    return kept, parts["train"], sorted(parts["val"] + parts["test"])


def load_lesions(folder: Path, cache: Path) -> Lesions:
    """Read and decode the images that :func:`keep_from_test` keeps."""
    images, train, val = keep_from_test(read_index(folder))
    return Lesions(images, load_all(images, IMAGE_SIZE, cache), train, val)


def shown(network: Network, lesions: Lesions, positions: Sequence[int]) -> Tensor:
    """The centre crops of some images, as the network takes them; (N, 3, 112, 112)."""
    pixels = torch.from_numpy(lesions.pixels[list(positions)])
    return normalised(network, center_crop(pixels, IMAGE_SIZE))


def original(weights: Path, seed: int) -> Network:
    """The pre-trained network with its own SE; the seed draws its head."""
    L.seed_everything(seed, verbose=False)
    network = build_network(MODEL, weights)
    # One and a half times as fast on a CPU, and the same for all arms.
    network.model.to(memory_format=torch.channels_last)
    return network


def swapped(network: Network, arm: Arm) -> Network:
    """A copy with the block of an arm, fresh or from its SE."""
    model = copy.deepcopy(network.model)
    if arm != OWN:
        init = "fresh" if arm.init == "fresh" else "inherit"
        gains: dict[str, Any] = {"coord_gain": 1.0} if arm.init.startswith("open") else {}
        replace_se(model, arm.block, init=init, match_rd_channels=arm.width == "match", **gains)
    return replace(network, model=model)
