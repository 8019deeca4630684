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
    """Files by kind, each sorted."""

    photos: dict[str, list[Path]]  # by the id of the image; several where a name stands twice
    copies: list[Path]  # images of which photos has a file with the same bytes and name
    raw: list[Path]  # files that cannot be decoded, of images of which photos has one that can
    masks: list[Path]  # and superpixels
    others: list[Path]  # no images

    @property
    def archives(self) -> list[Path]:
        """Those of the others that may have images in them."""
        return [path for path in self.others if path.suffix.lower() in ARCHIVES]

    def __str__(self) -> str:
        """How many files of each kind are where."""
        kinds = {
            "images": [path for paths in self.photos.values() for path in paths],
            "copies of them": self.copies,
            "raw files of them": self.raw,
            "masks or superpixels": self.masks,
            "archives": self.archives,
        }
        parts = [] if self.photos else ["no images"]
        parts += [count_by_folder(paths, kind) for kind, paths in kinds.items() if paths]
        if suffixes := sorted({path.suffix.lower() or "no suffix" for path in self.others}):
            parts.append(f"other files: {len(self.others)} ({', '.join(suffixes[:8])})")
        return "; ".join(parts)


def count_by_folder(paths: Sequence[Path], kind: str) -> str:
    """``masks: 2 in a, 1 in b, such as ISIC_00.png``."""
    folders = Counter(path.parent for path in paths).most_common()
    places = [f"{count} in {folder}" for folder, count in folders[:4]]
    if len(folders) > 4:
        places.append(f"{sum(count for _, count in folders[4:])} in other folders")
    return f"{kind}: {', '.join(places)}, such as {paths[0].name}"


def look(folder: Path) -> Contents:
    """Sort all files below a folder, whose own name says nothing of them."""
    found = files_below(folder)
    return sort_files({path: place.partition("/")[2] for path, place in found.items()})


def files_below(folder: Path) -> dict[Path, str]:
    """All files below a folder, each with its path from the name of the folder on, sorted by it.

    Links are followed, each folder is seen once. Hidden files and folders, and what macOS puts into
    archives, are no part of a data set.
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
    """Sort files, each with its path as far as that may say what it is, by kind.

    A mask is known by its name. What has a word like "mask" in its path, or the name of another
    image, is one where its pixels say so, too: photos may lie in "segmentation-of-lesions". Of
    files that are ``asked`` for, only the pixels say it.
    """
    images = [path for path in files if is_image(path)]
    masks = {path for path in images if is_named_mask(path.name) and path not in asked}
    masks |= _masks_among([p for p in images if p not in masks and may_be_mask(files[p])])
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
    twice = [paths for paths in photos.values() if len(paths) > 1]
    beside = _masks_among([path for paths in twice for path in paths])
    for paths in twice:
        if not beside.issuperset(paths):  # two masks alone are both in doubt
            masks |= beside.intersection(paths)
            paths[:] = [path for path in paths if path not in beside]
    others = [path for path in files.keys() - set(images) if path.is_file()]
    return Contents(photos, copies, raw, *(sorted(ps, key=os.fspath) for ps in (masks, others)))


def is_image(path: Path) -> bool:
    """Whether a file is meant as an image, by its suffix or by how its content begins."""
    named = path.suffix.lower() in (*SUFFIXES, *NOT_DECODED)
    if named or not path.is_file():  # reading a pipe would never end
        return named
    try:
        PillowImage.open(path, formats=FILE_TYPES).close()
    except Exception as error:  # Pillow has many kinds for what is no image
        return isinstance(error, PillowImage.DecompressionBombError)
    return True


def _masks_among(paths: Sequence[Path]) -> set[Path]:
    """Those whose pixels are those of a mask."""
    found = map_files(is_mask, paths, "looking for masks") if paths else ()
    return {path for path, mask in zip(paths, found, strict=True) if mask}


def _are_same(path: Path, other: Path) -> bool:
    """Whether two files have the same bytes; a .png with those of a .jpg is no mere copy."""
    try:
        alike = (path.suffix.lower() in LOSSY) == (other.suffix.lower() in LOSSY)
        return alike and filecmp.cmp(path, other, shallow=False)
    except OSError:  # the one that is damaged is named where it is read
        return False
