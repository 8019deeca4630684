"""Drawings of the blocks, into ``docs/images/blocks``: what flows where, in which shape.

``python -m docs.drawings`` writes them, the same bytes every time. They show the definition of a
block. The code computes the stages of a block together, with the same numbers.
"""

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "images" / "blocks"

POOL, LAYER, GATE, PRODUCT, MAP = "#d6e6f7", "#ececec", "#d9efd5", "#fbe0c3", "#ffffff"
INK, PALE, PAPER = "#222222", "#666666", "#fafafa"

WIDTH = 400  # of a phone, so that nothing shrinks there
LEFT, RIGHT, MIDDLE = 34, 320, 177
COLUMNS = (102, 252)  # centres of two boxes side by side
SKIP = 374  # where the map runs past its gates
HALF = 136
LINE = 18
GAP = 34  # for an arrow and its label


@dataclass(frozen=True)
class Row:
    """One box, or two side by side, and the arrows that lead there.

    Attributes:
        boxes: the text of each; a line break starts a new line, {map} is the map of the stage.
        color: what kind of step it is.
        shapes: what comes in along each arrow, from above; empty for no label.
    """

    boxes: tuple[str, ...]
    color: str
    shapes: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """The gates of a map and its product with them, which is the last row."""

    caption: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Drawing:
    """A block: its stages in order, and notes below them."""

    name: str
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]


VECTOR = "(N, C, 1, 1)"

SE_STAGE = Stage(
    "SE",
    (
        Row(("mean over H, W",), POOL, ("",)),
        Row(("fc1: 1x1 conv, C → S\nReLU",), LAYER, (VECTOR,)),
        Row(("fc2: 1x1 conv, S → C",), LAYER, ("(N, S, 1, 1)",)),
        Row(("channel gate: hard sigmoid",), GATE, (VECTOR,)),
        Row(("{map} · channel gate",), PRODUCT, (VECTOR,)),
    ),
)
ECA_STAGE = Stage(
    "ECA",
    (
        Row(("mean over H, W",), POOL, ("",)),
        Row(("conv: 1-d, k weights, no bias\nover neighbouring channels",), LAYER, ("(N, 1, C)",)),
        Row(("channel gate: sigmoid",), GATE, ("(N, 1, C)",)),
        Row(("{map} · channel gate",), PRODUCT, (VECTOR,)),
    ),
)
CHANNEL_STAGE = Stage(
    "channel attention of CBAM",
    (
        Row(("mean over H, W", "max over H, W"), POOL, ("", "")),
        Row(
            ("one MLP for both:\nfc1: 1x1 conv, C → h\nReLU\nfc2: 1x1 conv, h → C",),
            LAYER,
            (VECTOR, VECTOR),
        ),
        Row(("channel gate: sigmoid of the sum",), GATE, (VECTOR, VECTOR)),
        Row(("{map} · channel gate",), PRODUCT, (VECTOR,)),
    ),
)
SPATIAL_STAGE = Stage(
    "spatial attention of CBAM",
    (
        Row(("max over C", "mean over C"), POOL, ("", "")),
        Row(("concatenate",), LAYER, ("(N, 1, H, W)", "(N, 1, H, W)")),
        Row(("conv: 7x7 conv, 2 → 1, no bias\nbn: batch norm",), LAYER, ("(N, 2, H, W)",)),
        Row(("gate of positions: sigmoid",), GATE, ("(N, 1, H, W)",)),
        Row(("{map} · gate of positions",), PRODUCT, ("(N, 1, H, W)",)),
    ),
)
COORD_STAGE = Stage(
    "coordinate attention",
    (
        Row(("mean over W", "mean over H"), POOL, ("", "")),
        Row(("concatenate rows and columns",), LAYER, ("(N, C, H, 1)", "(N, C, 1, W)")),
        Row(
            ("conv1: 1x1 conv, C → m\nbn1: batch norm\nhard swish",),
            LAYER,
            ("(N, C, H + W, 1)",),
        ),
        Row(("split",), LAYER, ("(N, m, H + W, 1)",)),
        Row(
            ("conv_h:\n1x1 conv, m → C", "conv_w:\n1x1 conv, m → C"),
            LAYER,
            ("(N, m, H, 1)", "(N, m, W, 1)"),
        ),
        Row(
            ("gate of rows:\nsigmoid", "gate of columns:\nsigmoid"),
            GATE,
            ("(N, C, H, 1)", "(N, C, W, 1)"),
        ),
        Row(("{map} · rows · columns",), PRODUCT, ("(N, C, H, 1)", "(N, C, 1, W)")),
    ),
)

SE_NOTES = (
    "S: C/4, rounded to a multiple of 8; at least 8,",
    "and 0.9 · C/4. fc1 and fc2 have a bias.",
)
MLP_NOTES = ("h: C/16, rounded down, at least 1.", "fc1 and fc2 have a bias.")
COORD_NOTES = ("m: C/32, rounded down, at least 8.", "All 1x1 convolutions have a bias.")
ECA_NOTES = ("k: log₂(C)/2 + 1/2, rounded down, then up", "to an odd number; at least 3.")

DRAWINGS = (
    Drawing("SE", (SE_STAGE,), SE_NOTES),
    Drawing("Eca", (ECA_STAGE,), ECA_NOTES),
    Drawing("CBAM", (CHANNEL_STAGE, SPATIAL_STAGE), MLP_NOTES),
    Drawing("CoordAtt", (COORD_STAGE,), COORD_NOTES),
    Drawing("SeCo", (SE_STAGE, COORD_STAGE), (*SE_NOTES, *COORD_NOTES)),
    Drawing("CaCo", (CHANNEL_STAGE, COORD_STAGE), (*MLP_NOTES, *COORD_NOTES)),
)


def svg(drawing: Drawing) -> str:
    """The drawing as a file of its own, on light paper, with the fonts of the reader."""
    parts: list[str] = []
    y = _box(parts, 16, LEFT, RIGHT - LEFT, "x   (N, C, H, W)", MAP)
    names = ["x", "y"][: len(drawing.stages)]
    for stage, name, out in zip(drawing.stages, names, [*names[1:], "output"], strict=True):
        y = _stage(parts, y, stage, name)
        _arrow(parts, MIDDLE, y, y + GAP, "")
        y = _box(parts, y + GAP, LEFT, RIGHT - LEFT, f"{out}   (N, C, H, W)", MAP)
    y += 10
    for note in drawing.notes:
        y += LINE
        parts.append(_text(LEFT, y, note, size=13, color=PALE, anchor="start"))
    height = y + 16
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" role="img">',
            f"<title>{drawing.name}: data flow from x to output</title>",
            f'<rect width="{WIDTH}" height="{height}" rx="8" fill="{PAPER}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _stage(parts: list[str], top: float, stage: Stage, name: str) -> float:
    """Draw the rows below the map ``name`` that ends at ``top``, and its way past them.

    Returns:
        Where the last row ends.
    """
    y = top
    for row in stage.rows:
        centres = COLUMNS if len(row.shapes) == 2 else (MIDDLE,)
        for x, shape in zip(centres, row.shapes, strict=True):
            _arrow(parts, x, y, y + GAP, shape)
        start = y + GAP
        if len(row.boxes) == 1:
            y = _box(parts, start, LEFT, RIGHT - LEFT, row.boxes[0].format(map=name), row.color)
        else:
            for x, words in zip(COLUMNS, row.boxes, strict=True):
                y = _box(parts, start, x - HALF / 2, HALF, words, row.color)
    level = (start + y) / 2
    parts.append(_line(f"M{RIGHT} {top - 14:g}H{SKIP}V{level:g}H{RIGHT + 8}"))
    parts.append(f'<path d="M{RIGHT} {level:g}l9 -5v10z" fill="{INK}"/>')
    parts.append(_line(f"M{LEFT - 10} {top + GAP:g}V{y:g}", PALE))
    caption = _text(0, 0, stage.caption, size=13, color=PALE)
    middle = (top + GAP + y) / 2
    parts.append(f'<g transform="translate({LEFT - 16} {middle:g}) rotate(-90)">{caption}</g>')
    return y


def _box(parts: list[str], top: float, left: float, width: float, words: str, color: str) -> float:
    lines = words.split("\n")
    height = LINE * len(lines) + 10
    parts.append(
        f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{height}" rx="5" '
        f'fill="{color}" stroke="{INK}"/>'
    )
    for number, line in enumerate(lines):
        parts.append(_text(left + width / 2, top + 18 + LINE * number, line))
    return top + height


def _arrow(parts: list[str], x: float, start: float, end: float, label: str) -> None:
    parts.append(_line(f"M{x} {start:g}V{end - 8:g}"))
    parts.append(f'<path d="M{x} {end:g}l-5 -9h10z" fill="{INK}"/>')
    if label:
        parts.append(_text(x + 9, start + 21, label, size=13, color=PALE, anchor="start"))


def _line(path: str, color: str = INK) -> str:
    return f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>'


def _text(
    x: float, y: float, words: str, *, size: int = 14, color: str = INK, anchor: str = "middle"
) -> str:
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" fill="{color}" xml:space="preserve">{words}</text>'


def main() -> None:
    """Write all drawings."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for drawing in DRAWINGS:
        (FOLDER / f"{drawing.name.lower()}.svg").write_text(
            svg(drawing), encoding="utf-8", newline="\n"
        )


if __name__ == "__main__":
    main()
