"""Checkpoint files that are either whole or as they were."""

import re
from argparse import Namespace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from examples.ham10000.files import moved_into_place

_SCALAR = np.float64(0).__reduce__()[0]
HARMLESS: list[Any] = [
    Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?iqfd"),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
]
"""What training loops write beside their weights, and PyTorch would refuse: options and figures."""


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU. Nothing in it is executed: it may be a stranger's.

    OSError if the file cannot be read; ValueError if it is damaged, or holds other things than
    tensors and plain values, of which one is named.
    """
    try:
        with torch.serialization.safe_globals(HARMLESS):
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file has many kinds
        # Not in torch's words, which say how to run the code in the file nevertheless.
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = "it is damaged, or holds more than weights"
        if refused:
            why = f"it holds more than weights: {refused[1]}, which could run code"
        raise ValueError(f"{file} cannot be loaded ({type(error).__name__}): {why}") from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f"{file} cannot be loaded: it is no checkpoint")
    return checkpoint


class WholeCheckpointIO(TorchCheckpointIO):
    """Write beside the old file, then take its place.

    Lightning writes to the system's temporary folder. Where that is another file system, moving the
    file is a copy over the old checkpoint, and a kill or a full disk half-way destroys both.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write the file; OSError if it cannot be, and the old one is as it was."""
        path = Path(path)
        with moved_into_place(path) as partial, partial.open("wb") as stream:
            try:
                torch.save(checkpoint, stream)
            except RuntimeError as error:  # what torch makes of a write that fails
                raise OSError(
                    f"cannot write the checkpoint {path}: is the disk full? {error}"
                ) from error
