"""Where the blocks of a network look: gates on images, and how much of them is on the lesion."""

import warnings
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from attnblocks import GateReport
from attnblocks.visualize import attention_maps, show_attention
from examples.ham10000.data.batches import canvas_size, center_crop
from examples.ham10000.data.folders import look
from examples.ham10000.data.index import CLASSES, Image
from examples.ham10000.data.masks import is_of_lesion, load_mask, masked_id
from examples.ham10000.evaluate import Evaluation
from examples.ham10000.gates import network_input, read_gates, report_gates, sample
from examples.ham10000.report.page import snapshot


def read_attention(evaluation: Evaluation) -> dict[str, Any]:
    """What the blocks of the library in a network do to the images of a part, for the page.

    ``moved`` is how far each gate, by site and name, moved in training, over ``moved_over`` images;
    it is empty where the run has not recorded it.
    """
    recorded = read_gates(evaluation.config.out)
    before = [] if recorded is None else recorded.end.gates
    return {
        "gates": gates_of_part(evaluation),
        "moved": {(gate.site, gate.gate): gate.moved for gate in before},
        "moved_over": None if recorded is None else recorded.end.images,
        "overlays": _overlays(evaluation),
    }


def gates_of_part(evaluation: Evaluation) -> GateReport:
    """What the blocks do to a sample of the images, with the lesion masks in the data folder."""
    data, module = evaluation.data, evaluation.module
    positions = sample(data, evaluation.part)
    images = [data.images[i] for i in positions]
    having, masks = read_masks(evaluation.folder, images, module.image_size)
    where = torch.zeros(len(positions), *masks.shape[1:], dtype=torch.bool)
    where[having] = masks
    marked, batch_size = where if where.any() else None, evaluation.config.batch_size
    return report_gates(module, data, positions, batch_size, where=marked)


def read_masks(folder: Path, images: list[Image], image_size: int) -> tuple[list[int], Tensor]:
    """The lesion masks of images, wherever they are below a folder, as the network sees the images.

    These are the places of the images that have one, and the masks: bool (M, size, size). A
    warning says which are left out, and whether masks are of other images alone.
    """
    files: dict[str, list[Path]] = {}
    for path in look(folder).masks:
        if is_of_lesion(path.relative_to(folder)):
            files.setdefault(masked_id(path), []).append(path)
    found: dict[int, tuple[Path, Tensor]] = {}
    problems = []
    for place, image in enumerate(images):
        for path in files.get(image.image_id, []):
            try:
                mask = load_mask(path, canvas_size(image_size))
            except ValueError as error:
                problems.append(str(error))
                continue
            used, first = found.setdefault(place, (path, mask))
            if not mask.equal(first):
                problems.append(f"{path} differs from {used}, which is used")
    if problems:
        several = len(problems) > 1
        which = f"{len(problems)} lesion masks are" if several else "a lesion mask is"
        warnings.warn(f"{which} left out: {problems[0]}{', ...' if several else ''}", stacklevel=2)
    elif files and images and not found:
        first_file = next(iter(files.values()))[0].name
        warnings.warn(
            f"{len(files)} lesion masks, such as {first_file}: none has the id of an image, such "
            f"as {images[0].image_id}",
            stacklevel=2,
        )
    if not found:
        return [], torch.zeros(0, image_size, image_size, dtype=torch.bool)
    return list(found), center_crop(torch.stack([m for _, m in found.values()]), image_size)


def _overlays(evaluation: Evaluation) -> list[tuple[str, Markup]]:
    """The first image of each class, at the first, the middle and the last site that looks."""
    data, module = evaluation.data, evaluation.module
    first = {data.images[i].label: i for i in reversed(data.split[evaluation.part])}
    positions = [first[label] for label in range(len(CLASSES))]
    maps = attention_maps(module.model, network_input(module, data, positions))
    looking = {name: site for name, site in maps.items() if site.is_spatial}
    names = list(looking)
    pixels = center_crop(torch.from_numpy(data.pixels[positions]), module.image_size)
    overlays = []
    for name in dict.fromkeys(names[i] for i in (0, len(names) // 2, -1) if names):
        for place, position in enumerate(positions):
            image = data.images[position]
            title = f"{CLASSES[image.label].upper()}, {image.image_id}, {name}"
            figure = show_attention(pixels[place], looking[name], place)
            overlays.append((title, snapshot(figure, f"attention, {title}")))
    return overlays
