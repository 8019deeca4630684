"""Probabilities for image files, in the format of an ISIC 2018 Task 3 submission."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from examples.ham10000.data.batches import canvas_size, center_crop
from examples.ham10000.data.folders import count_by_folder, files_below, sort_files
from examples.ham10000.data.images import load_image
from examples.ham10000.data.layouts import ISIC_CLASSES
from examples.ham10000.data.masks import has_two_greys
from examples.ham10000.data.tables import has_control_characters
from examples.ham10000.evaluate import isic_rows, load_best
from examples.ham10000.files import write_csv
from examples.ham10000.processes import bar


class Outcome(NamedTuple):
    """How many images were predicted, what was wrong with others, and which files have no row."""

    predicted: int
    problems: list[str]
    no_row: list[str]


def predict(run: Path, inputs: Sequence[Path], out: Path, *, batch_size: int = 64) -> Outcome:
    """Predict images, and those below folders, with the best checkpoint of a run: a CSV file.

    Images that cannot be read are left out, and so are those that nothing but their pixels makes
    masks. An input that is not there is a FileNotFoundError, an ``out`` that is a FileExistsError;
    two images of one name, and a run that cannot be loaded, are a ValueError.
    """
    if out.exists():
        raise FileExistsError(f"--out {out} exists: name a new file")
    paths, no_row = find_images(inputs)
    module = load_best(run).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    problems: list[str] = []

    def load(path: Path) -> Tensor | ValueError:
        try:
            pixels = load_image(path, canvas_size(module.image_size))
        except ValueError as error:
            return error
        if has_two_greys(pixels):
            return ValueError(f"{path} looks like a mask: its pixels are of one grey or two")
        return pixels

    def rows() -> Iterator[list[object]]:
        files = list(paths)
        with ThreadPoolExecutor() as pool, bar("predicting", len(files)) as steps:
            for start in range(0, len(files), batch_size):
                chunk = files[start : start + batch_size]
                found = dict(zip(chunk, pool.map(load, chunk), strict=True))
                problems.extend(str(of) for of in found.values() if isinstance(of, ValueError))
                images = {path: of for path, of in found.items() if isinstance(of, Tensor)}
                if images:
                    pixels = center_crop(torch.stack([*images.values()]), module.image_size)
                    with torch.inference_mode():
                        probabilities = module(pixels.to(module.device)).softmax(1)
                    if not probabilities.isfinite().all():
                        raise ValueError(f"the network of {run} overflows: its weights are damaged")
                    yield from isic_rows([paths[path] for path in images], probabilities)
                steps.update(len(chunk))

    write_csv(out, ("image", *ISIC_CLASSES), rows())
    return Outcome(len(paths) - len(problems), problems, no_row)


def find_images(inputs: Sequence[Path]) -> tuple[dict[Path, str], list[str]]:
    """The photos among the inputs and below their folders, each folder sorted, with their ids.

    And in words which other files there are. FileNotFoundError where an input does not exist or
    there are no photos; ValueError for two of one name, or a name that no table can hold.
    """
    given: dict[Path, str] = {}
    for path in inputs:
        if path.is_dir():
            given |= files_below(path)
        elif path.is_file():
            given[path] = f"{path.parent.name}/{path.name}"
        else:
            raise FileNotFoundError(f"no such image or folder: {path}")
    asked = set(inputs)
    contents = sort_files(given, asked)
    for path in contents.others:
        if path in asked:  # whoever names a file takes it for an image
            contents.photos.setdefault(path.name, []).append(path)
    if not contents.photos:
        raise FileNotFoundError(f"no images in {' or '.join(map(str, inputs))}: it has {contents}")
    for name, paths in contents.photos.items():
        strange = "has control characters in its name" if has_control_characters(name) else ""
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # how Python reads other bytes
            strange = "has a name that is not UTF-8"
        if strange:
            raise ValueError(f"{str(paths[0])!r} {strange}: rename it")
        if len(paths) > 1:
            raise ValueError(
                f"{paths[0]} and {paths[1]} have one name, which names the row: predict them in "
                "two runs"
            )
    kinds = {
        "masks or superpixels": contents.masks,
        "copies of other images": contents.copies,
        "raw files of other images": contents.raw,
        "other files": [path for path in contents.others if path not in asked],
    }
    no_row = [count_by_folder(files, kind) for kind, files in kinds.items() if files]
    return {paths[0]: name for name, paths in contents.photos.items()}, no_row
