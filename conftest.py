"""Fixtures of the test suite and of the examples in docstrings."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from attnblocks.blocks import registry
from attnblocks.swap import adapters

SHARED = Path(__file__).parents[1] / "shared"

# Each of several workers has one thread, and so have the processes that its tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

# The time of an example depends on what else the machine does.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _registries_stay_as_they_are(monkeypatch):
    """What a test or a docstring registers is gone after it."""
    monkeypatch.setattr(registry, "_BLOCKS", registry._BLOCKS.copy())
    monkeypatch.setattr(adapters, "_REGISTERED", adapters._REGISTERED.copy())


@pytest.fixture(scope="session")
def ham10000() -> Path:
    """The folder of the real HAM10000 images: $HAM10000, or the one beside the checkout."""
    folder = Path(os.environ.get("HAM10000", SHARED / "ham10000"))
    if not (folder / "HAM10000_metadata.csv").is_file():
        pytest.skip(f"no HAM10000 data at {folder}; set $HAM10000 to its folder")
    return folder


@pytest.fixture(scope="session")
def imagenet_weights() -> Path:
    """ImageNet weights of timm's tf_mobilenetv3_small_075: $IMAGENET_WEIGHTS, or beside it."""
    default = SHARED / "weights" / "tf_mobilenetv3_small_075_imagenet.safetensors"
    path = Path(os.environ.get("IMAGENET_WEIGHTS", default))
    if not path.is_file():
        pytest.skip(f"no weights at {path}; set $IMAGENET_WEIGHTS to the file")
    return path
