"""What is in a data folder, and whether training could use it."""

from collections import Counter
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

EXTRA, IDENTICAL, JOINED = HARMLESS = (
    "files that are not in the metadata",
    "byte-identical images",
    "images of one lesion with two lesion_ids",
)
FINDINGS = (
    *("unknown diagnoses", "ids that stand twice", "lesions with two diagnoses"),
    *("images with two files", MISSING, "unreadable images", "truncated images"),
    *(*HARMLESS, "too little for a split"),
)
"""What is looked for: all but what is harmless keeps a folder from being used."""

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
        return not any(items for name, items in self.findings.items() if name not in HARMLESS)

    def __str__(self) -> str:
        """The report as tables for the terminal."""
        lines = [
            f"layout: {self.layout}",
            f"{'class':8}{'images':>8}{'published':>11}{'lesions':>9}{'published':>11}",
        ]
        rows = {name: [*self.counts[name], *PUBLISHED[name]] for name in CLASSES}
        rows["all"] = list(map(sum, zip(*rows.values(), strict=True)))
        for name, (images, lesions, *published) in rows.items():
            mark = "" if [images, lesions] == published else "  differs"
            lines.append(f"{name:8}{images:8}{published[0]:11}{lesions:9}{published[1]:11}{mark}")
        lines.append("")
        for name, items in self.findings.items():
            kind = " (fatal)" if items and name not in HARMLESS else ""
            lines.append(f"{name:44}{len(items):6}{kind}")
            lines += [f"    {item}" for item in items[:SHOWN]]
            if len(items) > SHOWN:
                lines.append(f"    ... and {len(items) - SHOWN} more")
        lines += ["", self.advice] if self.advice else []
        lines += ["", "usable for training" if self.usable else "NOT usable for training"]
        return "\n".join(lines)


def check(folder: Path, same_lesion: Path | None = None) -> Report:
    """Look at everything in a data folder: every row, and every pixel of every image.

    Tables that cannot be read at all are an error, as in :func:`read_index`.
    """
    listing = read_listing(folder)
    images, faults = index(listing, same_lesion)
    missing = [image_id for kind, image_id in faults if kind == MISSING]
    absent, listed = set(missing), {row.image_id for row in listing.rows}
    there = [image for image in images if image.image_id not in absent]
    found = [(name, path) for name, paths in listing.files.items() for path in paths]
    faults += [(EXTRA, str(path)) for name, path in found if name not in listed]
    sound = []
    damages = map_files(damage, [image.path for image in there], "checking")
    for image, problem in zip(there, damages, strict=True):
        if problem is None:
            sound.append(image)
        else:
            faults.append((f"{problem} images", str(image.path)))
    groups: dict[str, list[Image]] = {}
    for image, digest in zip(sound, file_digests([i.path for i in sound]), strict=True):
        groups.setdefault(digest, []).append(image)
    for group in groups.values():
        if len(group) > 1:
            one = "one lesion" if len({i.lesion for i in group}) == 1 else "SEVERAL LESIONS"
            faults.append((IDENTICAL, f"{' = '.join(i.image_id for i in group)} ({one})"))
    ids = {image.image_id: image.lesion_id for image in images}
    pairs = {tuple(sorted(p[1:])): None for p in read_pairs(same_lesion, ids, complete=False)}
    for first, second in pairs:
        if ids[first] != ids[second]:
            faults.append((JOINED, f"{first} = {second} ({ids[first]}, {ids[second]})"))
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
