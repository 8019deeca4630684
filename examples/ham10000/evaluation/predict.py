"""Probabilities for image files, in the format of an ISIC 2018 Task 3 submission."""

import csv
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from examples.ham10000.data.augment import canvas_size, center_crop
from examples.ham10000.data.images import load_image
from examples.ham10000.data.layouts import (
    ISIC_CLASSES,
    SUFFIXES,
    has_control_characters,
    holds_masks,
)
from examples.ham10000.evaluation.evaluate import isic_rows, load_best
from examples.ham10000.files import whole_file
from examples.ham10000.progress import bar


@dataclass(frozen=True)
class Outcome:
    """How many images were predicted, and what was wrong with the others."""

    predicted: int
    problems: list[str]


@torch.inference_mode()
def predict(run: Path, inputs: Sequence[Path], out: Path, *, batch_size: int = 64) -> Outcome:
    """Predict images with the best checkpoint of a run; those that cannot be read are left out.

    Args:
        run: the folder of the run.
        inputs: images of any size, and folders that are searched for them.
        out: the CSV file to write, with the columns ``image,MEL,NV,BCC,AKIEC,BKL,DF,VASC``.
        batch_size: images that are decoded and predicted at a time.

    Raises:
        FileNotFoundError: an input does not exist, or a folder has no images.
        FileExistsError: ``out`` exists.
        ValueError: two images have one name, or the run cannot be loaded.
    """
    if out.exists():
        raise FileExistsError(f"--out {out} exists: name a new file")
    paths = find_images(inputs)
    module = load_best(run).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    size = canvas_size(module.image_size)
    problems: list[str] = []

    def load(path: Path) -> Tensor | ValueError:
        try:
            return load_image(path, size)
        except ValueError as error:
            return error

    with (
        whole_file(out) as stream,
        ThreadPoolExecutor() as pool,
        bar("predicting", len(paths)) as steps,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("image", *ISIC_CLASSES))
        for start in range(0, len(paths), batch_size):
            chunk = paths[start : start + batch_size]
            loaded = list(zip(chunk, pool.map(load, chunk), strict=True))
            problems += [str(found) for _, found in loaded if isinstance(found, ValueError)]
            pixels = [found for _, found in loaded if isinstance(found, Tensor)]
            names = [path.stem for path, found in loaded if isinstance(found, Tensor)]
            if pixels:
                batch = center_crop(torch.stack(pixels), module.image_size).to(module.device)
                probabilities = module(batch).softmax(1)
                if not probabilities.isfinite().all():
                    raise ValueError(f"the network of {run} overflows: its weights are damaged")
                writer.writerows(isic_rows(names, probabilities))
            steps.update(len(chunk))
    return Outcome(len(paths) - len(problems), problems)


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """The image files among the inputs and below their folders, each folder sorted.

    Raises:
        FileNotFoundError: an input does not exist, or a folder has no images.
        ValueError: two images have one name, or one has a name that no table can hold.
    """
    paths: list[Path] = []
    for given in inputs:
        if not given.exists():
            raise FileNotFoundError(f"no such image or folder: {given}")
        found = [given]
        if given.is_dir():
            found = _images_below(given)
            if not found:
                raise FileNotFoundError(f"no images ({', '.join(SUFFIXES)}) in {given}")
        paths += found
    paths = list(dict.fromkeys(paths))
    names: dict[str, Path] = {}
    for path in paths:
        try:
            path.stem.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{str(path)!r} has a name that is not UTF-8: rename it") from error
        if has_control_characters(path.stem):
            raise ValueError(f"{str(path)!r} has control characters in its name: rename it")
        if names.setdefault(path.stem, path) is not path:
            raise ValueError(
                f"{names[path.stem]} and {path} have one name, which names the row: predict them "
                "in two runs"
            )
    return paths


def _images_below(folder: Path) -> list[Path]:
    """All image files below a folder, sorted; links are followed, each folder is seen once.

    Folders of lesion masks are left out: a mask is no picture of a lesion.
    """
    found: list[Path] = []
    seen: set[str] = set()

    def fail(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        if os.path.realpath(place) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        folders[:] = [name for name in folders if not holds_masks(name)]
        found += [Path(place, name) for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES)
