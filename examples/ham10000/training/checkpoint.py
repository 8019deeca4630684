"""Checkpoint files that are either whole or as they were."""

import os
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import TorchCheckpointIO


class WholeCheckpointIO(TorchCheckpointIO):
    """Write beside the old file, then take its place.

    Lightning writes to the system's temporary folder. Where that is another file system, moving the
    file is a copy over the old checkpoint, and a kill or a full disk half-way destroys both.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Save under a temporary name in the same folder and move it into place.

        Raises:
            OSError: the file cannot be written; the old one is as it was.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("wb") as stream:
                _save(checkpoint, stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _save(checkpoint: dict[str, Any], stream: BinaryIO) -> None:
    try:
        torch.save(checkpoint, stream)
    except RuntimeError as error:  # what torch makes of a write that fails
        raise OSError(
            f"cannot write the checkpoint {stream.name}: is the disk full? {error}"
        ) from error
