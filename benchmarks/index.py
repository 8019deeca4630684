"""Seconds that the example takes to split a large folder: ``python -m benchmarks.index``.

The metadata are SYNTHETIC and the image files empty: nothing of them is decoded. The command
``python -m examples.ham10000 split`` is timed whole, from its start to its end.
"""

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lesions import CLASSES
from benchmarks.settings import SEED, positive

FOLDERS = ("HAM10000_images_part_1", "HAM10000_images_part_2")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the folder, and print how long it takes to index it and to split it both ways."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.index", description=__doc__)
    parser.add_argument("--images", type=positive, default=100_000)
    count = parser.parse_args(arguments).images
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_metadata(folder, count)
        for protocol in ("lesion", "paper"):
            options = ["--data", name, "--protocol", protocol, "--out", f"{name}/{protocol}.csv"]
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "examples.ham10000", "split", *options],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            seconds = time.perf_counter() - began
            print(f"{count} SYNTHETIC rows indexed and split, {protocol}: {seconds:.1f} s")


def write_metadata(folder: Path, count: int) -> None:
    """A folder in the layout of HAM10000: four images of three lesions, classes drawn evenly."""
    draw = random.Random(SEED)
    for images in FOLDERS:
        (folder / images).mkdir()
    diagnoses = [draw.choice(CLASSES) for _ in range(count)]
    table = folder / "HAM10000_metadata.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("lesion_id", "image_id", "dx"))
        for number in range(count):
            lesion = number * 3 // 4
            writer.writerow((f"HAM_{lesion}", f"ISIC_{number}", diagnoses[lesion]))
            (folder / FOLDERS[number % 2] / f"ISIC_{number}.jpg").touch()


if __name__ == "__main__":
    main()
