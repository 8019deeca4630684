"""What is finished in the folder of a test."""

from pathlib import Path

import pytest

from examples.ham10000.paper.results import Results, collect
from examples.ham10000.paper.rows import FIGURES, TABLES


@pytest.fixture
def results(tmp_path):
    """What is finished in ``tmp_path``."""

    def read(kind: str, number: int, failures: dict[str, str] | None = None, **options) -> Results:
        wanted = (TABLES if kind == "table" else FIGURES)[number]
        return collect(wanted, tmp_path, Path("/data"), options, failures or {})

    return read
