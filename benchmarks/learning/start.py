"""Networks at the start of a trial; a fitted one is fitted once and kept in a file."""

from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from attnblocks import load_model, save_model
from benchmarks.files import write_json
from benchmarks.lesions import CLASSES, Lesions, Network
from benchmarks.warm_start.features import fit
from benchmarks.warm_start.setup import MODEL, Arm, original, swapped


def is_being_fitted(start: Arm, folder: Path) -> bool:
    """Whether a network has to be fitted first, and another process is at it."""
    file = _fitted_file(start, folder)
    if not start.is_fitted or file.exists():
        return False
    try:
        with FileLock(_lock_of(file), timeout=0):
            return False
    except Timeout:
        return True


def network(start: Arm, weights: Path, seed: int, lesions: Lesions, folder: Path) -> Network:
    """The network of a fold before it is trained.

    Args:
        start: the block, its squeeze width and how it starts.
        weights: of ImageNet.
        seed: of the head and of the fit.
        lesions: the images of the fold.
        folder: of the fold, which keeps what is fitted.
    """
    own = original(weights, seed)
    new = swapped(own, start)
    if not start.is_fitted:
        return new
    file = _fitted_file(start, folder)
    with FileLock(_lock_of(file)):
        if not file.exists():
            print(f"{folder.name}: fitting {start.name}", flush=True)
            write_json(file.with_suffix(".fit"), fit(new, own, lesions, seed))
            save_model(new.model, file, base=MODEL, base_kwargs={"num_classes": len(CLASSES)})
    return replace(new, model=load_model(file))


def _fitted_file(start: Arm, folder: Path) -> Path:
    return folder / f"{start.name}.safetensors"


def _lock_of(file: Path) -> Path:
    return file.with_suffix(".fit.lock")
