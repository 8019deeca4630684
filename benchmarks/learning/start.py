"""Networks at the start of a trial; a fitted one is fitted once and kept in a file."""

from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from attnblocks import load_model, save_model
from benchmarks.warm_start.features import fit
from benchmarks.warm_start.setup import MODEL, Arm, Lesions, original, swapped
from examples.ham10000.data.index import CLASSES
from examples.ham10000.files import write_json
from examples.ham10000.training.models import Network


class BeingFittedError(Exception):
    """Another process fits this network just now."""


def network(start: Arm, weights: Path, seed: int, lesions: Lesions, folder: Path) -> Network:
    """The network of a fold before it is trained.

    Args:
        start: the block, its squeeze width and how it starts.
        weights: of ImageNet.
        seed: of the head and of the fit.
        lesions: the images of the fold.
        folder: of the fold, which keeps what is fitted.

    Raises:
        BeingFittedError: it has to be fitted, and another process is at it.
    """
    if start.init != "fitted":
        return swapped(original(weights, seed), start)
    file = folder / f"{start.name}.safetensors"
    try:
        with FileLock(file.with_suffix(".fit.lock"), timeout=0):
            own = original(weights, seed)
            new = swapped(own, start)
            if not file.exists():
                print(f"{file.parent.name}: fitting {start.name}", flush=True)
                write_json(file.with_suffix(".fit"), fit(new, own, lesions, seed))
                save_model(new.model, file, base=MODEL, base_kwargs={"num_classes": len(CLASSES)})
    except Timeout as error:
        raise BeingFittedError(file.name) from error
    return replace(new, model=load_model(file))
