"""What is in a data folder, and whether training could use it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from examples.ham10000.data.images import damage, file_digests, map_files
from examples.ham10000.data.index import CLASSES, Image, index, read_pairs
from examples.ham10000.data.layouts import read_listing
from examples.ham10000.data.splits import by_lesion

PUBLISHED_IMAGES = {
    "akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142
}  # fmt: skip
PUBLISHED_LESIONS = {
    "akiec": 228, "bcc": 327, "bkl": 727, "df": 73, "mel": 614, "nv": 5403, "vasc": 98
}  # fmt: skip
SHOWN = 20
"""Items of a finding that are listed; of the rest the number is."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked for.
        items: what was found, one text each.
        fatal: whether training cannot use the folder while there are any.
    """

    name: str
    items: list[str]
    fatal: bool


@dataclass(frozen=True)
class Report:
    """What :func:`check` saw; lesions are counted by ``lesion_id``, as the published ones are."""

    layout: str
    images: dict[str, int]
    lesions: dict[str, int]
    findings: list[Finding]
    advice: str

    @property
    def usable(self) -> bool:
        """Whether training could use the folder as it is."""
        return not any(finding.fatal and finding.items for finding in self.findings)

    def __str__(self) -> str:
        """The report as tables for the terminal."""
        lines = [
            f"layout: {self.layout}",
            f"{'class':8}{'images':>8}{'published':>11}{'lesions':>9}{'published':>11}",
        ]
        published = {"images": PUBLISHED_IMAGES, "lesions": PUBLISHED_LESIONS}
        for name in (*CLASSES, "all"):
            row = [
                sum(counts.values()) if name == "all" else counts[name]
                for counts in (
                    self.images,
                    published["images"],
                    self.lesions,
                    published["lesions"],
                )
            ]
            mark = "" if row[0] == row[1] and row[2] == row[3] else "  differs"
            lines.append(f"{name:8}{row[0]:8}{row[1]:11}{row[2]:9}{row[3]:11}{mark}")
        lines.append("")
        for finding in self.findings:
            kind = " (fatal)" if finding.fatal and finding.items else ""
            lines.append(f"{finding.name:44}{len(finding.items):6}{kind}")
            lines += [f"    {item}" for item in finding.items[:SHOWN]]
            if len(finding.items) > SHOWN:
                lines.append(f"    ... and {len(finding.items) - SHOWN} more")
        lines += ["", self.advice] if self.advice else []
        lines.append("")
        lines.append("usable for training" if self.usable else "NOT usable for training")
        return "\n".join(lines)


def check(folder: Path, same_lesion: Path | None = None) -> Report:
    """Look at everything in a data folder: every row, and every pixel of every image.

    Args:
        folder: in one of the layouts of :func:`examples.ham10000.data.layouts.read_listing`.
        same_lesion: as in :func:`examples.ham10000.data.index.read_index`.

    Raises:
        FileNotFoundError, ValueError: the metadata, or the table, cannot be read at all.
    """
    listing = read_listing(folder)
    images, faults = index(listing, same_lesion)
    known = {row.image_id for row in listing.rows}
    extra = [
        str(path) for name, paths in listing.files.items() if name not in known for path in paths
    ]
    missing = set(faults.missing)
    readable = [image for image in images if image.image_id not in missing]
    problems = dict(
        zip(
            readable,
            map_files(damage, [image.path for image in readable], "checking"),
            strict=True,
        )
    )

    def damaged(kind: str) -> list[str]:
        return [str(image.path) for image, problem in problems.items() if problem == kind]

    sound = [image for image, problem in problems.items() if problem is None]
    findings = [
        Finding("unknown diagnoses", faults.unknown, True),
        Finding("ids that stand twice", faults.twice, True),
        Finding("lesions with two diagnoses", faults.contradictory, True),
        Finding("images with two files", faults.ambiguous, True),
        Finding("missing images", faults.missing, True),
        Finding("unreadable images", damaged("unreadable"), True),
        Finding("truncated images", damaged("truncated"), True),
        Finding("files that are not in the metadata", extra, False),
        Finding("byte-identical images", _identical(sound), False),
        Finding("images of one lesion with two lesion_ids", _joined(images, same_lesion), False),
        Finding("too little for a split", _unsplittable(images), True),
    ]
    labels = Counter(image.label for image in images)
    lesions = Counter(label for _, label in {(i.lesion_id, i.label) for i in images})
    return Report(
        listing.layout,
        {name: labels[number] for number, name in enumerate(CLASSES)},
        {name: lesions[number] for number, name in enumerate(CLASSES)},
        findings,
        listing.explain_missing(faults.missing) if faults.missing else "",
    )


def _identical(images: Sequence[Image]) -> list[str]:
    """Groups of images with the same bytes, and whether they are of one lesion."""
    groups: dict[str, list[Image]] = {}
    paths = [image.path for image in images]
    for image, digest in zip(images, file_digests(paths), strict=True):
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


def _unsplittable(images: Sequence[Image]) -> list[str]:
    try:
        by_lesion(images, seed=0)
    except ValueError as error:
        return [str(error)]
    return []
