"""Synthetic pictures in the layout of HAM10000, for a first run without the data.

They are drawn, not photographed: each class has colours and structures that remind of its
dermoscopy, and a network can learn them. No number made with them says anything about skin.
"""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from examples.ham10000.data.index import SYNTHETIC_ID
from examples.ham10000.data.layouts import COLUMNS, IMAGE_FOLDERS, LESION_MASKS, METADATA
from examples.ham10000.files import whole_file

LESIONS = {"akiec": 28, "bcc": 32, "bkl": 36, "df": 24, "mel": 36, "nv": 90, "vasc": 24}
"""Lesions per class; every third lesion has two images."""

# Per class: colour of the lesion, of its structures, and how irregular its border is.
_LOOKS = {
    "akiec": ((0.80, 0.50, 0.45), (0.93, 0.80, 0.72), 0.18),
    "bcc": ((0.86, 0.66, 0.64), (0.42, 0.44, 0.56), 0.15),
    "bkl": ((0.58, 0.42, 0.28), (0.92, 0.85, 0.70), 0.10),
    "df": ((0.66, 0.48, 0.38), (0.95, 0.90, 0.86), 0.05),
    "mel": ((0.30, 0.20, 0.16), (0.36, 0.40, 0.52), 0.25),
    "nv": ((0.50, 0.33, 0.22), (0.40, 0.25, 0.16), 0.06),
    "vasc": ((0.68, 0.14, 0.22), (0.45, 0.06, 0.20), 0.10),
}
# Number and size of what is round: a few large ovoid nests, many small cysts, lacunae.
_SPOTS = {"bcc": (5, 0.20), "bkl": (30, 0.05), "vasc": (14, 0.16)}

Picture = NDArray[np.float64]
Y, X = np.mgrid[-0.75:0.75:96j, -1:1:128j]


def write_synthetic(folder: Path, seed: int = 0) -> None:
    """Draw the metadata, images and lesion masks of the set that belongs to the seed."""
    generator = np.random.default_rng(seed)
    for name in (*IMAGE_FOLDERS, LESION_MASKS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = [COLUMNS]
    for dx, count in LESIONS.items():
        for lesion in range(count):
            shape = generator.normal(size=(2, 5))
            for _ in range(2 if lesion % 3 == 0 else 1):
                number = len(rows) - 1
                image_id = f"{SYNTHETIC_ID}{number:04d}"
                pixels, inside = _draw(dx, shape, generator)
                path = folder / IMAGE_FOLDERS[number % 2] / f"{image_id}.jpg"
                PillowImage.fromarray(np.uint8(255 * pixels)).save(path, quality=92)
                mask = folder / LESION_MASKS / f"{image_id}_segmentation.png"
                PillowImage.fromarray(np.uint8(255 * inside)).save(mask)
                rows.append((f"{dx}_{lesion:03d}", image_id, dx))
    with whole_file(folder / METADATA) as file:
        csv.writer(file).writerows(rows)


def _draw(dx: str, shape: Picture, generator: np.random.Generator) -> tuple[Picture, Picture]:
    """One picture of a lesion, and where the lesion is, 0 or 1.

    Its outline is the lesion's, view and light are the picture's.
    """
    colour, accent, roughness = _LOOKS[dx]
    y, x = generator.uniform(-0.12, 0.12, 2)
    turn = generator.uniform(0, 2 * np.pi)
    radius = np.hypot(Y - y, X - x) / generator.uniform(0.40, 0.55)
    angle = np.arctan2(Y - y, X - x) + turn
    waves = np.arange(2, 7)[:, None, None] * angle
    outline = np.tensordot(shape[0], np.cos(waves), 1) + np.tensordot(shape[1], np.sin(waves), 1)
    outline = 1 + roughness * outline / np.sqrt(10)
    depth = 1 - radius / np.maximum(outline, 0.3)  # above 0 inside the lesion
    lesion = _soft(depth / 0.12)[..., None]
    skin = np.array([0.90, 0.72, 0.62]) + generator.normal(0, 0.03, 3)
    tissue = np.array(colour) * generator.uniform(0.75, 1.25) + generator.normal(0, 0.03, 3)
    marks = generator.uniform(0.2, 0.9) * _structures(dx, angle, radius, generator)[..., None]
    tissue = tissue * (1 - marks) + np.array(accent) * marks
    picture = skin * (1 - lesion) + tissue * lesion
    light = generator.uniform(0.85, 1.1) * (1 - 0.18 * (X**2 + Y**2))[..., None]
    noise = generator.normal(0, 0.02, picture.shape)
    return np.clip(picture * light + noise, 0, 1), np.float64(depth > 0)


def _structures(
    dx: str, angle: Picture, radius: Picture, generator: np.random.Generator
) -> Picture:
    """How much of the accent colour each pixel of the lesion has, 0 to 1."""
    if dx == "nv":  # a regular network
        return 0.5 + 0.5 * np.sin(14 * radius) * np.sin(9 * angle)
    if dx == "df":  # a white patch in the middle
        return _soft((0.40 - radius) / 0.08)
    if dx == "mel":  # one half in another colour
        return _soft(np.sin(angle + generator.uniform(-0.5, 0.5)) / 0.25)
    if dx == "akiec":  # scale
        return _soft(generator.normal(0, 1, X.shape) / 0.4) * 0.7
    count, size = _SPOTS[dx]
    spots = np.zeros(X.shape)
    for y, x in generator.uniform(-0.5, 0.5, (count, 2)):
        distance = np.hypot(Y - y, (X - x) / generator.uniform(0.8, 1.4))
        spots = np.maximum(spots, _soft((size / 2 - distance) / 0.02))
    return spots


def _soft(v: Picture) -> Picture:
    """A smooth step from 0 to 1 around 0."""
    return 0.5 + 0.5 * np.tanh(v)
