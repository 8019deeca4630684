"""Where the blocks of a network look: gates on images, and how much of them is on the lesion."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from markupsafe import Markup
from torch import Tensor

from attnblocks import GateReport
from attnblocks.visualize import attention_maps, show_attention
from examples.ham10000.data.batches import canvas_size, center_crop
from examples.ham10000.data.folders import look
from examples.ham10000.data.index import CLASSES, Image
from examples.ham10000.data.load import Data
from examples.ham10000.data.masks import is_of_lesion, load_mask, masked_id
from examples.ham10000.gates import (
    RecordedGates,
    network_input,
    read_gates,
    report_gates,
    sample,
)
from examples.ham10000.module import LesionClassifier
from examples.ham10000.report.page import snapshot


@dataclass(frozen=True)
class Attention:
    """What the blocks of a network do to the images of a part.

    Attributes:
        gates: of every block; the region of interest is the lesion.
        recorded: the gates at the start and at the end of the training, over training images; None
            where the run has not recorded them.
        overlays: pictures of the first image of each class at some of the sites, with titles.
    """

    gates: GateReport
    recorded: RecordedGates | None
    overlays: list[tuple[str, Markup]]

    @property
    def moved(self) -> dict[tuple[str, str], float | None]:
        """How far each gate moved in training, by site and gate."""
        gates = [] if self.recorded is None else self.recorded.end.gates
        return {(gate.site, gate.gate): gate.moved for gate in gates}


def read_attention(
    module: LesionClassifier, data: Data, part: str, folder: Path, run: Path, batch_size: int
) -> Attention:
    """Run the network on images of a part and read what its blocks do.

    Args:
        module: a network with blocks of the library.
        data: the images.
        part: train, val or test.
        folder: the data folder, which may have lesion masks.
        run: the folder of the run, which may have recorded how its gates moved.
        batch_size: images that go through the network at a time.
    """
    gates = gates_of_part(module, data, part, folder, batch_size)
    return Attention(gates, read_gates(run), _overlays(module, data, part))


def gates_of_part(
    module: LesionClassifier, data: Data, part: str, folder: Path, batch_size: int
) -> GateReport:
    """What the blocks do to images of a part; the arguments as of :func:`read_attention`."""
    positions = sample(data, part)
    having, masks = read_masks(folder, [data.images[i] for i in positions], module.image_size)
    where = torch.zeros(len(positions), *masks.shape[1:], dtype=torch.bool)
    where[having] = masks
    return report_gates(module, data, positions, batch_size, where=where if where.any() else None)


def read_masks(folder: Path, images: list[Image], image_size: int) -> tuple[list[int], Tensor]:
    """The lesion masks of images, wherever they are below a folder, as the network sees the images.

    Masks that are empty, no masks or cannot be read are left out, and of several of one image the
    first is taken; a warning says so, and whether masks are of other images alone.

    Returns:
        The places of the images that have a mask, and the masks: bool (M, image_size, image_size).
    """
    files: dict[str, list[Path]] = {}
    for path in look(folder).masks:
        if is_of_lesion(path.relative_to(folder)):
            files.setdefault(masked_id(path), []).append(path)
    having, masks, problems = [], [], []
    for place, image in enumerate(images):
        read: dict[Path, Tensor] = {}
        for path in files.get(image.image_id, []):
            try:
                read[path] = load_mask(path, canvas_size(image_size))
            except ValueError as error:
                problems.append(str(error))
        for path, mask in read.items():
            if place not in having:
                having.append(place)
                masks.append(mask)
            elif not mask.equal(masks[-1]):
                problems.append(f"{path} differs from {next(iter(read))}, which is used")
    if problems:
        one = len(problems) == 1
        which = "a lesion mask is" if one else f"{len(problems)} lesion masks are"
        warnings.warn(f"{which} left out: {problems[0]}{'' if one else ', ...'}", stacklevel=2)
    elif files and images and not masks:
        first = next(iter(files.values()))[0].name
        warnings.warn(
            f"{len(files)} lesion masks, such as {first}: none has the id of an image, such as "
            f"{images[0].image_id}",
            stacklevel=2,
        )
    if not masks:
        return [], torch.zeros(0, image_size, image_size, dtype=torch.bool)
    return having, center_crop(torch.stack(masks), image_size)


def _overlays(module: LesionClassifier, data: Data, part: str) -> list[tuple[str, Markup]]:
    """The first image of each class, at the first, the middle and the last site that looks."""
    first = {data.images[i].label: i for i in reversed(data.split[part])}
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
