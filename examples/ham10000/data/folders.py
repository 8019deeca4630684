"""What lies in a folder: photos, masks, and what is neither."""

import filecmp
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PillowImage

from examples.ham10000.data.images import FILE_TYPES, LOSSY, NOT_DECODED, SUFFIXES, map_files
from examples.ham10000.data.masks import is_mask, is_named_mask, may_be_mask
from examples.ham10000.data.tables import without_suffix

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")


@dataclass(frozen=True)
class Contents:
    """Files by kind, each sorted.

    Attributes:
        photos: images by their id; more than one file where a name stands twice.
        copies: images of which ``photos`` has a file with the same bytes and name.
        raw: files that cannot be decoded, of images of which ``photos`` has one that can.
        masks: masks and superpixels.
        others: files that are no images.
    """

    photos: dict[str, list[Path]]
    copies: list[Path]
    raw: list[Path]
    masks: list[Path]
    others: list[Path]

    @property
    def archives(self) -> list[Path]:
        """Those of the others that may have images in them."""
        return [path for path in self.others if path.suffix.lower() in ARCHIVES]

    def __str__(self) -> str:
        """How many files of each kind are where."""
        photos = [path for paths in self.photos.values() for path in paths]
        rest = sorted({path.suffix.lower() or "no suffix" for path in self.others})
        parts = [
            count_by_folder(photos, "images") if photos else "no images",
            count_by_folder(self.copies, "copies of them") if self.copies else "",
            count_by_folder(self.raw, "raw files of them") if self.raw else "",
            count_by_folder(self.masks, "masks or superpixels") if self.masks else "",
            count_by_folder(self.archives, "archives") if self.archives else "",
            f"other files: {len(self.others)} ({', '.join(rest[:8])})" if rest else "",
        ]
        return "; ".join(part for part in parts if part)


def look(folder: Path) -> Contents:
    """Sort all files below a folder, whose own name says nothing of them."""
    return sort_files(
        {path: place.partition("/")[2] for path, place in files_below(folder).items()}
    )


def files_below(folder: Path) -> dict[Path, str]:
    """All files below a folder, sorted; links are followed, each folder is seen once.

    Hidden files and folders, and what macOS puts into archives, are no part of a data set.

    Returns:
        The files, each with its path from the name of the folder on.
    """
    found: dict[Path, str] = {}
    seen: set[str] = set()

    def fail(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        if os.path.realpath(place) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        folders[:] = [n for n in folders if not n.startswith(".") and n != "__MACOSX"]
        below = f"{folder.name}/{os.path.relpath(place, folder)}"
        found |= {Path(place, n): f"{below}/{n}" for n in files if not n.startswith(".")}
    return dict(sorted(found.items(), key=lambda item: item[1]))  # paths compare slowly


def sort_files(files: Mapping[Path, str], asked: Collection[Path] = ()) -> Contents:
    """Sort files by kind.

    The name of a file says that it is an image, or else its first bytes do. A mask is known by its
    name. What has a word like "mask" in its path, or the name of another image, is one where its
    pixels say so, too: photos may lie in a folder called "segmentation-of-lesions".

    Args:
        files: each with its path as far as that may say what it is.
        asked: files that are masks only where their pixels say so, whatever they are called.
    """
    images = [path for path in files if is_image(path)]
    masks = {path for path in images if is_named_mask(path.name) and path not in asked}
    doubtful = [path for path in images if path not in masks and may_be_mask(files[path])]
    masks.update(_masks_among(doubtful))
    photos: dict[str, list[Path]] = {}
    copies: list[Path] = []
    for path in images:
        if path not in masks:
            known = photos.setdefault(without_suffix(path.name), [])
            (copies if any(_are_same(path, other) for other in known) else known).append(path)
    raw: list[Path] = []
    for name, known in photos.items():  # cameras write a photo as .JPG and .DNG or .HEIC
        readable = [path for path in known if path.suffix.lower() not in NOT_DECODED]
        if readable:
            raw += [path for path in known if path not in readable]
            photos[name] = readable
    twice = [path for paths in photos.values() if len(paths) > 1 for path in paths]
    beside = _masks_among(twice)
    for name in {without_suffix(path.name) for path in beside}:
        rest = [path for path in photos[name] if path not in beside]
        if rest:  # a mask has the name of its photo; two masks alone are both in doubt
            masks.update(path for path in photos[name] if path in beside)
            photos[name] = rest
    others = [path for path in files.keys() - set(images) if path.is_file()]
    return Contents(
        photos, copies, raw, *(sorted(paths, key=os.fspath) for paths in (masks, others))
    )


def is_image(path: Path) -> bool:
    """Whether a file is meant as an image, by its suffix or by how its content begins."""
    if path.suffix.lower() in (*SUFFIXES, *NOT_DECODED):
        return True
    try:
        if path.is_file():  # reading a pipe would never end
            PillowImage.open(path, formats=FILE_TYPES).close()
            return True
    except PillowImage.DecompressionBombError:
        return True
    except Exception:  # Pillow has many kinds for what is no image
        return False
    return False


def count_by_folder(paths: Sequence[Path], kind: str) -> str:
    """``masks: 2 in a, 1 in b, such as ISIC_00.png``."""
    folders = Counter(path.parent for path in paths).most_common()
    places = [f"{count} in {folder}" for folder, count in folders[:4]]
    if len(folders) > 4:
        places.append(f"{sum(count for _, count in folders[4:])} in other folders")
    return f"{kind}: {', '.join(places)}, such as {paths[0].name}"


def _masks_among(paths: Sequence[Path]) -> set[Path]:
    """Those whose pixels are those of a mask."""
    if not paths:
        return set()
    found = map_files(is_mask, paths, "looking for masks")
    return {path for path, mask in zip(paths, found, strict=True) if mask}


def _are_same(path: Path, other: Path) -> bool:
    """Whether two files have the same bytes; a .png with those of a .jpg is no mere copy."""
    if (path.suffix.lower() in LOSSY) != (other.suffix.lower() in LOSSY):
        return False
    try:
        return filecmp.cmp(path, other, shallow=False)
    except OSError:  # the one that is damaged is named where it is read
        return False
