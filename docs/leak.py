"""The two splits of HAM10000: a drawing of both, and a table of what the one by image leaks.

``python -m docs.leak`` writes ``docs/images/leak.svg``, the same bytes every time, with the code
that splits in training. ``python -m docs.leak DIR`` prints the table for a data folder,
and what joining lesions with two ids changes.
"""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from examples.ham10000.data.index import CLASSES, Image, read_index
from examples.ham10000.data.splits import Split, by_image, by_lesion, leak

FILE = Path(__file__).parent / "images" / "leak.svg"

SIZES = [4, 3, 3, 2, 2, 2, 2, 2, *[1] * 10]
"""Images of each lesion in the drawing: as in the data, most lesions have one."""

CLASS = CLASSES.index("mel")
SEEDS = 50
FEW = 12
"""Seeds of which the parts are compared."""

COLORS = {"train": "#ececec", "val": "#d6e6f7", "test": "#fbe0c3"}
WORDS = {"train": "training", "val": "validation", "test": "test"}
INK, ALARM, PAPER = "#222222", "#c62828", "#fafafa"
STEP, SIDE = 20, 16


def drawn_images() -> list[Image]:
    """The images of the drawing, the same lesions in every class: a split wants all classes."""
    return [
        Image(f"{label}-{lesion:02}-{number}", f"{label}-{lesion:02}", label, Path("none"))
        for label in range(len(CLASSES))
        for lesion, size in enumerate(SIZES)
        for number in range(size)
    ]


def svg() -> str:
    """The drawing: a column of squares for each lesion, coloured by the part of each image."""
    images = drawn_images()
    parts = []
    panels = {
        "By image: images of one lesion go apart": by_image(images, 0),
        "By lesion: they stay together": by_lesion(images, 0),
    }
    for panel, (title, split) in enumerate(panels.items()):
        parts += _panel(images, split, title, top=12 + 140 * panel)
    x = 20
    for part, word in WORDS.items():
        parts.append(_square(x, 290, part, False))
        parts.append(_text(x + 22, 303, word))
        x += 40 + 8 * len(word)
    parts.append(_square(x, 290, "test", True))
    parts.append(_text(x + 22, 303, "leaks"))
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="400" height="324" viewBox="0 0 400 324" '
        'font-family="system-ui, sans-serif" role="img">',
        "<title>Images of lesions, split by image and by lesion</title>",
        f'<rect width="400" height="324" rx="8" fill="{PAPER}"/>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def leaking(images: list[Image], split: Split) -> set[int]:
    """The test images whose lesion is also in the training part."""
    seen = {images[i].lesion for i in split["train"]}
    return {i for i in split["test"] if images[i].lesion in seen}


def _panel(images: list[Image], split: Split, title: str, top: int) -> list[str]:
    part_of = {i: part for part, positions in split.items() for i in positions}
    marked = leaking(images, split)
    parts = [_text(20, top + 18, title, bold=True)]
    columns = sorted({image.lesion for image in images if image.label == CLASS})
    height: Counter[str] = Counter()
    for i, image in enumerate(images):
        if image.label == CLASS:
            x = 20 + STEP * columns.index(image.lesion)
            y = top + 96 - STEP * height[image.lesion]
            parts.append(_square(x, y, part_of[i], i in marked))
            height[image.lesion] += 1
    return parts


def _square(x: int, y: int, part: str, marked: bool) -> str:
    color, width = (ALARM, 3) if marked else (INK, 1)
    return (
        f'<rect x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" rx="3" fill="{COLORS[part]}" '
        f'stroke="{color}" stroke-width="{width}"/>'
    )


def _text(x: int, y: int, words: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" font-size="14"{weight} fill="{INK}">{words}</text>'


def table(images: list[Image]) -> str:
    """Counts of each class, and the leak of the split by image, mean over the seeds."""
    rows = ["| class | images | lesions | test images | leak by image |", "|---|--:|--:|--:|--:|"]
    splits = [by_image(images, seed) for seed in range(SEEDS)]
    for label, name in enumerate(CLASSES):
        members = [image for image in images if image.label == label]
        tested = [i for i in splits[0]["test"] if images[i].label == label]
        leaks = [sum(images[i].label == label for i in leaking(images, split)) for split in splits]
        rows.append(
            f"| {name} | {len(members):,} | {len({i.lesion for i in members}):,} "
            f"| {len(tested)} | {sum(leaks) / SEEDS / len(tested):.2f} |"
        )
    mean = sum(leak(images, split) for split in splits) / SEEDS
    rows.append(
        f"| all | {len(images):,} | {len({i.lesion for i in images}):,} "
        f"| {len(splits[0]['test'])} | {mean:.2f} |"
    )
    return "\n".join(rows)


def joined(images: list[Image]) -> str:
    """What it changes that lesions with several ids are one."""
    by_id = [replace(image, joined=None) for image in images]
    old = [by_lesion(by_id, seed) for seed in range(SEEDS)]
    leaks = [len(leaking(images, split)) for split in old]
    moved = []
    for seed in range(FEW):
        new = by_lesion(images, seed)
        moved.append(len(images) - sum(len({*old[seed][p]} & {*new[p]}) for p in COLORS))
    return (
        f"By lesion_id alone {sum(leaks) / SEEDS:.1f} test images leak in the mean, at most "
        f"{max(leaks)} (seeds 0 to {SEEDS - 1}); {min(moved)} to {max(moved)} of {len(images):,} "
        f"images are in another part (seeds 0 to {FEW - 1})"
    )


if __name__ == "__main__":
    if sys.argv[1:]:
        found = read_index(Path(sys.argv[1]))
        print(f"{table(found)}\n\n{joined(found)}")
    else:
        FILE.write_text(svg(), encoding="utf-8", newline="\n")
