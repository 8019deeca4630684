"""Where the blocks of a network look: gates on images, and how much of them is on the lesion."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from markupsafe import Markup
from torch import Tensor

from attnblocks.visualize import (
    GateStatistics,
    SiteAttention,
    attention_maps,
    show_attention,
    site_statistics,
)
from examples.ham10000.data.augment import canvas_size, center_crop
from examples.ham10000.data.folders import look
from examples.ham10000.data.index import CLASSES, Image
from examples.ham10000.data.load import Data
from examples.ham10000.data.masks import is_of_lesion, load_mask, masked_id
from examples.ham10000.reporting.page import snapshot
from examples.ham10000.training.lit import LesionClassifier

MOST_IMAGES = 256
"""Statistics are over at most that many images of a part, evenly spaced."""


@dataclass(frozen=True)
class Site:
    """What the block at one site does to the images of a part.

    Attributes:
        name: of the block.
        gates: how open each of its gates is.
        on_lesion: mean share of its attention that lies on the lesion; None for a block that
            gates channels alone, and where there are no lesion masks.
    """

    name: str
    gates: list[GateStatistics]
    on_lesion: float | None


@dataclass(frozen=True)
class Attention:
    """What the blocks of a network do to the images of a part.

    Attributes:
        sites: one for each block, in the order in which they run.
        images: how many the statistics are over.
        masks: how many of them have a lesion mask.
        lesion_area: mean share of the image that the lesion covers: what ``on_lesion`` would be
            for attention that is the same everywhere; None without masks.
        overlays: pictures of the first image of each class at some of the sites, with titles.
    """

    sites: list[Site]
    images: int
    masks: int
    lesion_area: float | None
    overlays: list[tuple[str, Markup]]


def read_attention(
    module: LesionClassifier, data: Data, part: str, folder: Path, batch_size: int
) -> Attention:
    """Run the network on images of a part and read what its blocks do.

    Args:
        module: a network with blocks of the library.
        data: the images.
        part: train, val or test.
        folder: the data folder, which may have lesion masks.
        batch_size: images that go through the network at a time.
    """
    positions = data.split[part]
    sample = positions[:: -(-len(positions) // MOST_IMAGES)]
    chunks: dict[str, list[SiteAttention]] = {}
    shares: dict[str, list[Tensor]] = {}
    having, masks = read_masks(folder, [data.images[i] for i in sample], module.image_size)
    for start in range(0, len(sample), batch_size):
        chunk = sample[start : start + batch_size]
        here = [place for place, i in enumerate(having) if start <= i < start + batch_size]
        for name, site in _maps(module, data, chunk).items():
            if site.is_spatial:
                on_image = site.on_image[[having[place] - start for place in here]].cpu()
                inside = share_inside(on_image, masks[here])
                shares.setdefault(name, []).append(inside)
            # Images in the size of the network take most of the memory, and are done with.
            chunks.setdefault(name, []).append(replace(site, on_image=site.on_image[:0]))
    maps = {name: _joined(parts) for name, parts in chunks.items()}
    gates, area = site_statistics(maps), masks.double().mean(dim=(1, 2))
    sites = [
        Site(
            name,
            [gate for gate in gates if gate.site == name],
            torch.cat(shares[name]).mean().item() if site.is_spatial and len(area) else None,
        )
        for name, site in maps.items()
    ]
    mean = area.mean().item() if len(area) else None
    overlays = _overlays(module, data, part)
    return Attention(sites, len(sample), len(area), mean, overlays)


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


def share_inside(attention: Tensor, masks: Tensor) -> Tensor:
    """Share of the attention that lies inside a mask.

    Args:
        attention: not negative, (N, H, W).
        masks: bool, (N, H, W).

    Returns:
        (N), float64.
    """
    attention = attention.double()
    return (attention * masks).sum(dim=(1, 2)) / attention.sum(dim=(1, 2))


def _maps(module: LesionClassifier, data: Data, positions: list[int]) -> dict[str, SiteAttention]:
    pixels = center_crop(torch.from_numpy(data.pixels[positions]), module.image_size)
    return attention_maps(module.model, module.normalise(pixels.to(module.device)))


def _joined(parts: list[SiteAttention]) -> SiteAttention:
    """What a block does to several batches, as if they were one."""
    gates = {name: torch.cat([part.gates[name] for part in parts]) for name in parts[0].gates}
    return SiteAttention(gates, torch.cat([part.on_image for part in parts]))


def _overlays(module: LesionClassifier, data: Data, part: str) -> list[tuple[str, Markup]]:
    """The first image of each class, at the first, the middle and the last site that looks."""
    first = {data.images[i].label: i for i in reversed(data.split[part])}
    positions = [first[label] for label in range(len(CLASSES))]
    looking = {
        name: site for name, site in _maps(module, data, positions).items() if site.is_spatial
    }
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
