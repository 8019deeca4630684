"""A comparison as files: JSON, a picture, and a page."""

from pathlib import Path
from typing import Any

from examples.ham10000.comparison import gates
from examples.ham10000.comparison.picture import forest
from examples.ham10000.comparison.words import NAMES, format_p, format_percent
from examples.ham10000.evaluation.plots import save_picture
from examples.ham10000.files import write_json
from examples.ham10000.reporting.page import drawing, write_page


def write_comparison(folder: Path, comparison: dict[str, Any]) -> None:
    """Write ``comparison.json``, ``comparison.png`` and ``comparison.html``.

    Args:
        folder: a new one.
        comparison: see :func:`examples.ham10000.comparison.compare.compare`.

    Raises:
        FileExistsError: the folder exists.
    """
    folder.mkdir(parents=True)
    write_json(folder / "comparison.json", comparison)
    picture = forest(comparison)
    save_picture(picture, folder / "comparison.png")
    write_page(
        folder / "comparison.html",
        "compare.html",
        synthetic=comparison["data"].startswith("SYNTHETIC"),
        comparison=comparison,
        level=format_percent(comparison["bootstrap"]["level"]),
        names=NAMES,
        format_p=format_p,
        gates=gates,
        picture=drawing(picture, "The differences with their intervals, as in the table below"),
    )
