"""A small test set in the layout of ISIC 2018 Task 3: images of several sizes, and their table."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

COLUMNS = ("image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
MISSING = "ISIC_0035068"

SIZES = ((128, 96), (96, 128), (150, 150), (201, 90))
PLACES = ("ISIC_0034524.jpg", "deep/er/ISIC_0034525.JPG", "deep/ISIC_0034526.png", "x/y.Jpeg")


def write_images(folder: Path, pictures: Mapping[str, Sequence[Path]]) -> dict[str, str]:
    """Pictures of each class, in turn as large and as deep as in the lists above.

    Returns:
        The class of every id, with one id that has no file.
    """
    classes: dict[str, str] = {}
    for dx, paths in pictures.items():
        for path in paths:
            number = len(classes)
            name = f"ISIC_{34524 + number:07d}"
            file = folder / PLACES[number % 4]
            file = file.with_name(name + file.suffix)
            file.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as picture:
                picture.resize(SIZES[number % 4]).save(file, quality=95)
            classes[name] = dx
    return classes | {MISSING: "nv"}


def write_truth(file: Path, classes: Iterable[tuple[str, str]], one="1.0", zero="0.0") -> None:
    """The table of the challenge, of pairs of id and class."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for name, dx in classes:
            writer.writerow((name, *(one if dx.upper() == c else zero for c in COLUMNS[1:])))


def write_metadata(file: Path, classes: Iterable[tuple[str, str]], lesions: int) -> None:
    """The table of the Dataverse, where so many images of a class in turn show one lesion."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"))
        for place, (name, dx) in enumerate(classes):
            writer.writerow((f"T_{dx}_{place // lesions}", name, dx, "histo", "", "male", "back"))
