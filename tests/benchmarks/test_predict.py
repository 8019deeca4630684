"""The rate of `predict`, and the memory that it takes, of a run of the example."""

import sys
import time

import pytest

from benchmarks.predict import main
from tests.ham10000.conftest import run  # noqa: F401


@pytest.mark.skipif(sys.platform == "win32", reason="it tells no memory there")
def test_rate_and_memory_are_measured(run, capsys):  # noqa: F811
    began = time.monotonic()
    main(["--run", str(run), "--data", str(run / "synthetic"), "--images", "7"])
    took = time.monotonic() - began
    images, seconds, rate, peak = capsys.readouterr().out.splitlines()[-1].split()
    assert images == "7"
    assert float(seconds) - 0.05 < took
    # Both are printed rounded: seconds to a tenth, the rate to a whole number.
    assert 7 / took < float(rate) + 0.5
    assert float(rate) - 0.5 <= 7 / (float(seconds) - 0.051)
    assert 200 < float(peak) < 4000  # MiB: torch alone takes as much
