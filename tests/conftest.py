"""What tests of several folders share."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from attnblocks.ops import formulas, functional
from attnblocks.ops.native import library

# Where ultralytics is installed, importing it would write settings into the user's home; and it
# would look for updates, and install what it misses.
_ULTRALYTICS = TemporaryDirectory()
os.environ.update(YOLO_CONFIG_DIR=_ULTRALYTICS.name, YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """A process group in which this process is alone."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The form in which blocks run; native: wherever the kernels know the map."""

    def load_again() -> None:
        library.library.cache_clear()
        library._load.cache_clear()

    if request.param == "native" and library.library() is None:
        pytest.skip("no kernels here: see attnblocks.ops.forms()")
    if request.param != "native":
        monkeypatch.setenv("ATTNBLOCKS_NATIVE", "0")
        load_again()
    if request.param == "formulas":
        monkeypatch.setattr(functional, "form", lambda x: formulas)
    yield request.param
    monkeypatch.undo()
    load_again()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the file first that makes the run which others read: no worker has to wait for it."""
    items.sort(key=lambda item: item.path.name != "test_predict.py")
