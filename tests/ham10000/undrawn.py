"""Pages and pictures of a run without what is on them: drawing takes most of a short run.

As a program, ``python -m tests.ham10000.undrawn`` is ``python -m examples.ham10000`` without it.
"""

import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from matplotlib.figure import Figure

from examples.ham10000.report import attention


def _leave_empty(figure: Figure, file: Any, **_: Any) -> None:
    if isinstance(file, Path):
        file.touch()


@contextmanager
def undrawn() -> Iterator[None]:
    """Figures are made and put into pages, and nothing is drawn; no gates are laid on images."""
    with (
        mock.patch.object(Figure, "savefig", _leave_empty),
        mock.patch.object(attention, "_overlays", return_value=[]),
    ):
        yield


if __name__ == "__main__":
    with undrawn():
        runpy.run_module("examples.ham10000", run_name="__main__", alter_sys=True)
