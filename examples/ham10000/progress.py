"""Progress: bars in a terminal, lines in a file or a pipe."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from tqdm import tqdm


def shows_bars() -> bool:
    """Whether progress is a bar, each step of which would be a line of a file, pipe or notebook.

    Lightning's bar goes to standard output, others to standard error: both have to be a terminal.
    """
    return sys.stdout.isatty() and sys.stderr.isatty()


@contextmanager
def bar(name: str, total: int, unit: str = "images") -> Iterator[tqdm]:
    """A bar to be updated; where none is shown, a line at the end says how long it took.

    Args:
        name: of what is done.
        total: how many steps there are.
        unit: what is counted; ``B`` for bytes.
    """
    start, shown = perf_counter(), shows_bars()
    scaled = unit == "B"
    with tqdm(desc=name, total=total, unit=unit, unit_scale=scaled, disable=not shown) as steps:
        yield steps
    if not shown:
        seconds = perf_counter() - start
        print(f"{name}: {steps.total:,} {unit}, {seconds:.1f} s", file=sys.stderr, flush=True)
