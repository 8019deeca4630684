"""Drawing of an insertion: a block behind a batch norm, and the gates that it starts with.

``python -m docs.insert`` writes ``docs/images/insert.svg``, the same bytes every time.
"""

import math
from pathlib import Path

FILE = Path(__file__).parent / "images" / "insert.svg"

WIDTH, HEIGHT = 400, 590
INK, PALE, PAPER = "#222222", "#666666", "#fafafa"
OLD, NEW, OPEN = "#ececec", "#d9efd5", "#c62828"

SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
LEFT, BOX, FIRST = 34, 130, 60  # of the modules, from the left and the top
STEP, TALL = 44, 26
PLOT = (40, 360, 372, 548)  # left, right, top, bottom


def svg() -> str:
    """The drawing: above the network with its keys, below the gates over their logits."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" role="img">',
        "<title>A block inserted behind a batch norm, and how its gates start</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{PAPER}"/>',
        *_network(),
        *_gates(),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def point(logit: float, gate: float) -> tuple[float, float]:
    """Where a gate is drawn."""
    left, right, top, bottom = PLOT
    return left + (logit + 6) / 12 * (right - left), bottom - gate / 2 * (bottom - top)


def _network() -> list[str]:
    """A residual branch from top to bottom, the names of its modules and of its keys."""
    parts = [_text(20, 28, "layer1.0 of a ResNet, and its state-dict keys", bold=True)]
    names = ("conv1, bn1, relu", "conv2", "bn2", "attention", "+", "relu")
    keys = (
        "layer1.0.conv1.weight, ...",
        "layer1.0.conv2.weight",
        "layer1.0.bn2.weight, ...",
        "layer1.0.bn2.attention.",
    )
    for number, name in enumerate(names):
        new, y = name == "attention", FIRST + STEP * number
        wide = TALL if name == "+" else BOX
        x = LEFT + (BOX - wide) / 2
        parts.append(
            f'<rect x="{x:g}" y="{y}" width="{wide}" height="{TALL}" rx="5" '
            f'fill="{NEW if new else OLD}" stroke="{INK}"/>'
        )
        parts.append(_text(LEFT + BOX / 2, y + 18, name, anchor="middle"))
        if number:
            parts += _arrow(LEFT + BOX / 2, y - STEP + TALL, y)
        if number < len(keys):
            parts.append(_text(LEFT + BOX + 30, y + 12, keys[number], mono=True))
        if new:
            parts.append(_text(LEFT + BOX + 30, y + 27, "conv1.weight, ... (added)", mono=True))
    middle = FIRST + STEP * names.index("+") + TALL / 2
    parts += _arrow(LEFT + BOX / 2, FIRST - 22, FIRST)
    parts.append(_line(f"M{LEFT + BOX / 2} {FIRST - 16}H14V{middle}H{LEFT + (BOX - TALL) / 2 - 8}"))
    parts.append(
        f'<path d="M{LEFT + (BOX - TALL) / 2} {middle}l-9 -5v10z" fill="{INK}"/>',
    )
    parts.append(_text(LEFT + BOX / 2 + 9, FIRST + 3 * STEP - 5, "hook of bn2", pale=True))
    return parts


def _gates() -> list[str]:
    """A sigmoid with gain 2, which starts at a logit of 0, and one that starts open at 5."""
    left, right, top, bottom = PLOT
    parts = [
        _text(20, top - 26, "A gate over its logit, and where it starts", bold=True),
        _line(f"M{left} {top}V{bottom}H{right}", PALE),
        _line(f"M{left} {point(0, 1)[1]:g}H{right}", PALE, dashed=True),
    ]
    for gate in (0, 1, 2):
        parts.append(_text(left - 8, point(0, gate)[1] + 4, str(gate), anchor="end", pale=True))
    for logit in (-5, 0, 5):
        x = point(logit, 0)[0]
        parts.append(_text(x, bottom + 18, str(logit), anchor="middle", pale=True))
    for gain, start, color in ((2, 0, INK), (1, 5, OPEN)):
        curve = [(z / 10, gain / (1 + math.exp(-z / 10))) for z in range(-60, 61, 2)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (point(*at) for at in curve))
        parts.append(_line(f"M{path}", color))
        x, y = point(start, gain / (1 + math.exp(-start)))
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{color}"/>')
    x, y = point(0, 1)
    parts.append(_text(x - 12, y - 26, "with a gain of 2:", anchor="end"))
    parts.append(_text(x - 12, y - 8, f"2{SIGMA}(0) = 1, slope 0.5", anchor="end"))
    below = point(5, 0.1)[1]
    parts.append(_text(right, below - 18, "without, open:", anchor="end", color=OPEN))
    parts.append(_text(right, below, f"{SIGMA}(5) = 0.993, slope 0.007", anchor="end", color=OPEN))
    return parts


def _arrow(x: float, start: float, end: float) -> list[str]:
    head = f'<path d="M{x:g} {end:g}l-5 -9h10z" fill="{INK}"/>'
    return [_line(f"M{x:g} {start:g}V{end - 8:g}"), head]


def _line(path: str, color: str = INK, *, dashed: bool = False) -> str:
    dashes = ' stroke-dasharray="4 4"' if dashed else ""
    return f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.5"{dashes}/>'


def _text(
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    bold: bool = False,
    pale: bool = False,
    mono: bool = False,
    color: str = INK,
) -> str:
    size = 12 if mono else 13 if pale else 14
    family = ' font-family="ui-monospace, monospace"' if mono else ""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}"{weight}{family} '
        f'fill="{PALE if pale else color}">{words}</text>'
    )


if __name__ == "__main__":
    FILE.write_text(svg(), encoding="utf-8", newline="\n")
