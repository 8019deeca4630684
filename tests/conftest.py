"""What tests of several folders share."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the file first that makes the run which others read: no worker has to wait for it."""
    items.sort(key=lambda item: item.path.name != "test_predict.py")
