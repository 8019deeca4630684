"""HAM10000 for the benchmarks: its images, splits by lesion, and a network for them."""

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image as Picture
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from benchmarks.files import moved_into_place

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
FOLDS = 5

PAIRS = Path(__file__).parents[1] / "examples" / "ham10000" / "data" / "same_lesion.csv"
"""Images of one lesion that have two lesion ids in the metadata."""


@dataclass(frozen=True)
class Image:
    """A row of the metadata; ``lesion`` is the smallest of the ids that its lesion has."""

    image_id: str
    lesion_id: str
    lesion: str
    label: int
    path: Path


@dataclass(frozen=True)
class Lesions:
    """Images, their pixels, uint8 (N, 3, S, S), and the positions of two parts of them."""

    images: Sequence[Image]
    pixels: NDArray[np.uint8]
    train: list[int]
    val: list[int]


@dataclass(frozen=True)
class Network:
    """A classifier, how its input is normalised, and the name of its last layer."""

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    head: str


def read_index(folder: Path) -> list[Image]:
    """The images of a folder, in the order of its metadata.

    Raises:
        FileNotFoundError: there are no metadata, or no file of an image.
        ValueError: an unknown diagnosis.
    """
    with (folder / "HAM10000_metadata.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    lesions = {row["image_id"]: row["lesion_id"] for row in rows}
    with PAIRS.open(newline="", encoding="utf-8") as stream:
        for first, second in list(csv.reader(stream))[1:]:
            if first in lesions and second in lesions:
                low, high = sorted((lesions[first], lesions[second]))
                lesions = {name: low if of == high else of for name, of in lesions.items()}
    files = {path.stem: path for path in sorted(folder.rglob("*.jpg"))}
    if absent := [row["image_id"] for row in rows if row["image_id"] not in files]:
        raise FileNotFoundError(f"no file {absent[0]}.jpg below {folder}")
    if wrong := [row["dx"] for row in rows if row["dx"] not in CLASSES]:
        raise ValueError(f"unknown diagnosis {wrong[0]!r} in the metadata of {folder}")
    return [
        Image(name, row["lesion_id"], lesions[name], CLASSES.index(row["dx"]), files[name])
        for row in rows
        for name in [row["image_id"]]
    ]


def split(images: Sequence[Image], seed: int, fold: int | None = None) -> dict[str, list[int]]:
    """Positions of the training, validation and test part; no lesion is in two of them.

    The lesions of a class are taken in random order; each goes to the test part while it fits into
    a tenth of the images of the class, then to validation likewise, the rest to training. With a
    fold, this is the test part, which does not depend on the seed.
    """
    generator = np.random.default_rng(seed)
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    if fold is not None:
        parts["test"] = [i for i, of in enumerate(deal(images)) if of == fold]
    given = set(parts["test"])
    for label in range(len(CLASSES)):
        positions = [i for i, image in enumerate(images) if image.label == label]
        tenth = len(positions) // 10
        room = {"test": 0 if given else tenth, "val": tenth, "train": len(positions)}
        by_id: dict[str, list[int]] = defaultdict(list)
        for i in positions:
            if i not in given:
                by_id[images[i].lesion_id].append(i)
        lesions: dict[str, list[int]] = defaultdict(list)
        ids = sorted(by_id)
        for place in generator.permutation(len(ids)):
            for i in by_id[ids[place]]:
                lesions[images[i].lesion].append(i)
        for shown in lesions.values():
            part = next(name for name, left in room.items() if left >= len(shown))
            room[part] -= len(shown)
            parts[part] += shown
    return {part: sorted(positions) for part, positions in parts.items()}


def deal(images: Sequence[Image]) -> list[int]:
    """The fold of every image: those of a lesion in one, all classes shared out evenly.

    The lesions of a class are dealt by size, the largest first, each to the fold that has the
    fewest images of the class so far; then to the one with the fewest images.
    """
    fold_of: dict[str, int] = {}
    filled: Counter[int] = Counter()
    generator = np.random.default_rng(0)
    for label in range(len(CLASSES)):
        sizes = Counter(image.lesion for image in images if image.label == label)
        of_class: Counter[int] = Counter()
        names = sorted(sizes)
        order = [names[i] for i in generator.permutation(len(names))]
        for name in sorted(order, key=sizes.__getitem__, reverse=True):
            fold = min(range(FOLDS), key=lambda n: (of_class[n], filled[n]))
            fold_of[name] = fold
            of_class[fold] += sizes[name]
            filled[fold] += sizes[name]
    return [fold_of[image.lesion] for image in images]


def canvas_size(image_size: int) -> int:
    """Side of the stored square: that of ImageNet evaluation, 256 for crops of 224."""
    return round(image_size * 8 / 7)


def center_crop(pixels: Tensor, size: int) -> Tensor:
    """What a network sees of stored squares when it is evaluated."""
    cropped: Tensor = F.center_crop(pixels, [size, size])
    return cropped


def load_pixels(path: Path, size: int, mode: str = "RGB") -> Tensor:
    """The centre square of an image, its shorter side resized; uint8, (C, size, size)."""
    with Picture.open(path) as file:
        pixels = F.pil_to_tensor(file.convert(mode))
    return center_crop(F.resize(pixels, [size], antialias=True), size)


def load_all(images: Sequence[Image], image_size: int, cache: Path) -> NDArray[np.uint8]:
    """Decode images once and keep them; a memory map, uint8 (N, 3, S, S), of canvas size."""
    size, digest = canvas_size(image_size), hashlib.sha256()
    for image in images:
        digest.update(image.path.read_bytes())
    file = cache / f"benchmarks-{digest.hexdigest()[:24]}-{size}.npy"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        if not file.exists():
            shape = (len(images), 3, size, size)
            with moved_into_place(file) as partial, ThreadPoolExecutor() as pool:
                stored = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
                decoded = pool.map(lambda image: load_pixels(image.path, size), images)
                for place, pixels in enumerate(decoded):
                    stored[place] = pixels
                stored.flush()
    found: NDArray[np.uint8] = np.load(file, mmap_mode="r")
    return found


def normalised(network: Network, pixels: Tensor) -> Tensor:
    """What a network takes for uint8 pixels (N, 3, S, S), channels-last."""
    mean, std = torch.tensor((network.mean, network.std), device=pixels.device)[:, :, None, None]
    inputs: Tensor = (pixels / 255 - mean) / std
    return inputs.contiguous(memory_format=torch.channels_last)


def build_network(name: str, weights: Path) -> Network:
    """A network of timm, its head new, the rest from a file; ValueError where that misfits."""
    model: Any = timm.create_model(name.removeprefix("timm/"), num_classes=len(CLASSES))
    config = model.pretrained_cfg
    head = config["classifier"]
    state = timm.models.load_state_dict(str(weights), device="cpu")
    state = {key: value for key, value in state.items() if not key.startswith(f"{head}.")}
    found = model.load_state_dict(state, strict=False)
    passed = (f"{head}.", "num_batches_tracked")  # files of TensorFlow count no batches
    missing = [key for key in found.missing_keys if not any(part in key for part in passed)]
    if wrong := [*missing, *found.unexpected_keys]:
        raise ValueError(f"the weights of {weights} do not fit {name}: {', '.join(wrong[:3])}")
    return Network(model, tuple(config["mean"]), tuple(config["std"]), head)
