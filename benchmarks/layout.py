"""Cells as the lines of a table; the first cell of a line is text, the others are numbers."""

from collections.abc import Sequence


def aligned_table(lines: Sequence[Sequence[str]]) -> str:
    """A table for the terminal, of a head and lines."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number == 0 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown of a head and lines, numbers but for the first cell."""
    rule = ["---", *["--:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])
