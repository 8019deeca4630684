"""Seconds to index and split a large data folder: ``python -m benchmarks.index --images 100000``.

The metadata are SYNTHETIC and the image files empty: nothing of them is decoded.
"""

import argparse
import csv
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.settings import SEED, positive
from examples.ham10000.data.index import CLASSES, read_index
from examples.ham10000.data.layouts import COLUMNS, IMAGE_FOLDERS, METADATA
from examples.ham10000.data.splits import PROTOCOLS


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the folder, and print how long it takes to index it and to split it both ways."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__)
    parser.add_argument("--images", type=positive, default=100_000)
    count = parser.parse_args(arguments).images
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_metadata(folder, count)
        began = time.perf_counter()
        images = read_index(folder)
        print(f"{len(images)} SYNTHETIC rows indexed in {time.perf_counter() - began:.1f} s")
        for protocol, split in PROTOCOLS.items():
            began = time.perf_counter()
            split(images, SEED)
            print(f"split, {protocol}: {time.perf_counter() - began:.1f} s")


def write_metadata(folder: Path, count: int) -> None:
    """A folder in the layout of HAM10000: four images of three lesions, classes drawn evenly."""
    draw = random.Random(SEED)
    for images in IMAGE_FOLDERS:
        (folder / images).mkdir()
    diagnoses = [draw.choice(CLASSES) for _ in range(count)]
    with (folder / METADATA).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for number in range(count):
            lesion = number * 3 // 4
            writer.writerow((f"HAM_{lesion}", f"ISIC_{number}", diagnoses[lesion]))
            (folder / IMAGE_FOLDERS[number % 2] / f"ISIC_{number}.jpg").touch()


if __name__ == "__main__":
    main()
