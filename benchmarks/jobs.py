"""Long measurements, one file for each job: what is there is not done again."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def job(file: Path) -> Iterator[Path | None]:
    """The file to write; None where it is there, or another process is at it."""
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(file.with_suffix(f"{file.suffix}.lock"), timeout=0))
        except Timeout:
            yield None
            return
        yield None if file.exists() else file
