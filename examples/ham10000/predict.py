"""Probabilities for image files, in the format of an ISIC 2018 Task 3 submission."""

import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from examples.ham10000.data.batches import canvas_size, center_crop
from examples.ham10000.data.folders import count_by_folder, files_below, sort_files
from examples.ham10000.data.images import load_image
from examples.ham10000.data.layouts import ISIC_CLASSES
from examples.ham10000.data.masks import has_two_greys
from examples.ham10000.data.tables import has_control_characters
from examples.ham10000.evaluate import isic_rows, load_best
from examples.ham10000.files import whole_file
from examples.ham10000.processes import bar


@dataclass(frozen=True)
class Outcome:
    """How many images were predicted, what was wrong with others, and which files have no row."""

    predicted: int
    problems: list[str]
    no_row: list[str]


@torch.inference_mode()
def predict(run: Path, inputs: Sequence[Path], out: Path, *, batch_size: int = 64) -> Outcome:
    """Predict images with the best checkpoint of a run; those that cannot be read are left out.

    So are those that nothing but their pixels makes masks.

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
    paths, no_row = find_images(inputs)
    module = load_best(run).eval().to("cuda" if torch.cuda.is_available() else "cpu")
    size = canvas_size(module.image_size)
    problems: list[str] = []

    def load(path: Path) -> Tensor | ValueError:
        try:
            pixels = load_image(path, size)
        except ValueError as error:
            return error
        if has_two_greys(pixels):
            return ValueError(f"{path} looks like a mask: its pixels are of one grey or two")
        return pixels

    with (
        whole_file(out) as stream,
        ThreadPoolExecutor() as pool,
        bar("predicting", len(paths)) as steps,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("image", *ISIC_CLASSES))
        for start in range(0, len(paths), batch_size):
            chunk = [*islice(paths, start, start + batch_size)]
            loaded = list(zip(chunk, pool.map(load, chunk), strict=True))
            problems += [str(found) for _, found in loaded if isinstance(found, ValueError)]
            pixels = [found for _, found in loaded if isinstance(found, Tensor)]
            names = [paths[path] for path, found in loaded if isinstance(found, Tensor)]
            if pixels:
                batch = center_crop(torch.stack(pixels), module.image_size).to(module.device)
                probabilities = module(batch).softmax(1)
                if not probabilities.isfinite().all():
                    raise ValueError(f"the network of {run} overflows: its weights are damaged")
                writer.writerows(isic_rows(names, probabilities))
            steps.update(len(chunk))
    return Outcome(len(paths) - len(problems), problems, no_row)


def find_images(inputs: Sequence[Path]) -> tuple[dict[Path, str], list[str]]:
    """The photos among the inputs and below their folders, each folder sorted.

    Returns:
        The photos with their ids, and in words which other files there are.

    Raises:
        FileNotFoundError: an input does not exist, or there are no photos.
        ValueError: two images have one name, or one has a name that no table can hold.
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
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{str(paths[0])!r} has a name that is not UTF-8: rename it"
            ) from error
        if has_control_characters(name):
            raise ValueError(f"{str(paths[0])!r} has control characters in its name: rename it")
        if len(paths) > 1:
            raise ValueError(
                f"{paths[0]} and {paths[1]} have one name, which names the row: predict them in "
                "two runs"
            )
    photos = {paths[0]: name for name, paths in contents.photos.items()}
    no_row = [
        count_by_folder(paths, kind)
        for kind, paths in (
            ("masks or superpixels", contents.masks),
            ("copies of other images", contents.copies),
            ("raw files of other images", contents.raw),
            ("other files", [path for path in contents.others if path not in asked]),
        )
        if paths
    ]
    return photos, no_row
