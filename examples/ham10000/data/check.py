"""What is in a data folder, and whether training could use it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.ham10000.data.images import damage, file_digests, map_files
from examples.ham10000.data.index import CLASSES, MISSING, Image, index, read_pairs
from examples.ham10000.data.layouts import read_listing
from examples.ham10000.data.splits import by_lesion

PUBLISHED = {
    "akiec": (327, 228), "bcc": (514, 327), "bkl": (1099, 727), "df": (115, 73),
    "mel": (1113, 614), "nv": (6705, 5403), "vasc": (142, 98),
}  # fmt: skip
"""How many images and lesions of each class there are."""

FINDINGS = {
    "unknown diagnoses": True,
    "ids that stand twice": True,
    "lesions with two diagnoses": True,
    "images with two files": True,
    MISSING: True,
    "unreadable images": True,
    "truncated images": True,
    "files that are not in the metadata": False,
    "byte-identical images": False,
    "images of one lesion with two lesion_ids": False,
    "too little for a split": True,
}
"""What is looked for, and whether training cannot use a folder where it is found."""

SHOWN = 20
"""Items of a finding that are listed; of the rest the number is."""


@dataclass(frozen=True)
class Report:
    """What :func:`check` saw; lesions are counted by ``lesion_id``, as the published ones are."""

    layout: str
    counts: dict[str, tuple[int, int]]  # images and lesions of each class
    findings: dict[str, list[str]]  # what was looked for: one text each of what was found
    advice: str

    @property
    def usable(self) -> bool:
        """Whether training could use the folder as it is."""
        return not any(FINDINGS[name] for name, items in self.findings.items() if items)

    def __str__(self) -> str:
        """The report as tables for the terminal."""
        lines = [
            f"layout: {self.layout}",
            f"{'class':8}{'images':>8}{'published':>11}{'lesions':>9}{'published':>11}",
        ]
        rows = {name: (*self.counts[name], *PUBLISHED[name]) for name in CLASSES}
        rows["all"] = tuple(map(sum, zip(*rows.values(), strict=True)))
        for name, (images, lesions, *published) in rows.items():
            mark = "" if [images, lesions] == published else "  differs"
            lines.append(f"{name:8}{images:8}{published[0]:11}{lesions:9}{published[1]:11}{mark}")
        lines.append("")
        for name, items in self.findings.items():
            kind = " (fatal)" if items and FINDINGS[name] else ""
            lines.append(f"{name:44}{len(items):6}{kind}")
            lines += [f"    {item}" for item in items[:SHOWN]]
            if len(items) > SHOWN:
                lines.append(f"    ... and {len(items) - SHOWN} more")
        lines += ["", self.advice] if self.advice else []
        lines += ["", "usable for training" if self.usable else "NOT usable for training"]
        return "\n".join(lines)


def check(folder: Path, same_lesion: Path | None = None) -> Report:
    """Look at everything in a data folder: every row, and every pixel of every image.

    Metadata, and a table of images of the same lesion, that cannot be read at all are an error, as
    in :func:`read_index`.
    """
    listing = read_listing(folder)
    images, faults = index(listing, same_lesion)
    missing = [image_id for kind, image_id in faults if kind == MISSING]
    absent, listed = set(missing), {row.image_id for row in listing.rows}
    there = [image for image in images if image.image_id not in absent]
    sound = []
    damages = map_files(damage, [image.path for image in there], "checking")
    for image, problem in zip(there, damages, strict=True):
        if problem is None:
            sound.append(image)
        else:
            faults.append((f"{problem} images", str(image.path)))
    for name, paths in listing.files.items():
        if name not in listed:
            faults += [("files that are not in the metadata", str(path)) for path in paths]
    faults += [("byte-identical images", text) for text in _identical(sound)]
    pairs = _joined(images, same_lesion)
    faults += [("images of one lesion with two lesion_ids", text) for text in pairs]
    try:
        by_lesion(images, seed=0)
    except ValueError as error:
        faults.append(("too little for a split", str(error)))
    findings = {name: [text for kind, text in faults if kind == name] for name in FINDINGS}
    lesions = Counter(label for _, label in {(i.lesion_id, i.label) for i in images})
    labels = Counter(image.label for image in images)
    counts = {name: (labels[number], lesions[number]) for number, name in enumerate(CLASSES)}
    advice = listing.explain_missing(missing) if missing else ""
    return Report(listing.layout, counts, findings, advice)


def _identical(images: Sequence[Image]) -> list[str]:
    """Groups of images with the same bytes, and whether they are of one lesion."""
    groups: dict[str, list[Image]] = {}
    digests = file_digests([image.path for image in images])
    for image, digest in zip(images, digests, strict=True):
        groups.setdefault(digest, []).append(image)
    return [
        f"{' = '.join(image.image_id for image in group)} "
        f"({'one lesion' if len({image.lesion for image in group}) == 1 else 'SEVERAL LESIONS'})"
        for group in groups.values()
        if len(group) > 1
    ]


def _joined(images: Sequence[Image], same_lesion: Path | None) -> list[str]:
    """The pairs that join lesions."""
    lesions = {image.image_id: image.lesion_id for image in images}
    pairs = read_pairs(same_lesion, lesions, complete=False)
    return [
        f"{first} = {second} ({lesions[first]}, {lesions[second]})"
        for first, second in dict.fromkeys((min(pair[1:]), max(pair[1:])) for pair in pairs)
        if lesions[first] != lesions[second]
    ]
