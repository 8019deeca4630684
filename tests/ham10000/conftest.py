"""A small folder in the layout of HAM10000, made anew for each test that may damage it."""

import csv
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from examples.ham10000.cli import main
from examples.ham10000.data.index import CLASSES
from examples.ham10000.data.layouts import IMAGE_FOLDERS, METADATA
from tests.ham10000.runs import EPOCHS, MODEL
from tests.ham10000.undrawn import undrawn


@pytest.fixture
def folder(tmp_path) -> Path:
    """Seven classes of ten images, each of a lesion of its own; images of 20x15 pixels."""
    root = tmp_path / "data"
    generator = np.random.default_rng(0)
    for name in IMAGE_FOLDERS:
        (root / name).mkdir(parents=True)
    rows = [("lesion_id", "image_id", "dx", "age")]
    for label, dx in enumerate(CLASSES):
        for number in range(10):
            image_id = f"ISIC_{label}{number}"
            pixels = generator.integers(0, 256, (15, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / IMAGE_FOLDERS[number % 2] / f"{image_id}.jpg")
            rows.append((f"HAM_{label}{number}", image_id, dx, ""))
    with (root / METADATA).open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """The folder of a run on synthetic data that has learned something; it is only read.

    Of several workers, the first that needs it makes it for all.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    out = root / "shared_runs" / "run"
    with FileLock(root / "shared_runs.lock"):
        if not (out / "test.json").exists():  # which is written last
            out.parent.mkdir(exist_ok=True)
            train_for_reading(out)
    return out


def train_for_reading(out: Path) -> None:
    options = ["--image-size", "48", "--epochs", str(EPOCHS), "--model", MODEL]
    options += ["--recompute-bn", "yes", "--batch-size", "16"]
    assert main(["train", *options, "--out", str(out)]) == 0


@pytest.fixture(name="undrawn")
def _undrawn() -> Iterator[None]:
    """For tests that train and look at no picture; what is made for a session is drawn."""
    with undrawn():
        yield


@pytest.fixture
def heeds_ctrl_c():
    """In the background of a shell, a process ignores Ctrl-C, and so does what it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
