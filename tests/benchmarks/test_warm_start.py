"""The tables of the warm start benchmark say what was measured."""

import json
import re
import sys

import numpy as np
import pytest

from benchmarks.warm_start.__main__ import main
from benchmarks.warm_start.report import report
from benchmarks.warm_start.setup import COMPARED, OWN

SEEDS = range(3)


def numbers(row: str) -> list[float]:
    cells = row.split("|", 2)[2]
    return [float(n) for n in re.findall(r"[-+]?\d+\.?\d*", cells)]


def test_the_table_holds_means_and_spreads(tmp_path):
    generator = np.random.default_rng(0)
    errors, probes = {}, {}
    for arm in COMPARED:
        errors[arm], probes[arm] = generator.random((2, 3))
        for seed in SEEDS:
            figures = {"error": errors[arm][seed], "probe": probes[arm][seed]}
            (tmp_path / f"{arm.name} {seed}.json").write_text(json.dumps(figures))
    report(tmp_path, SEEDS)
    features = (tmp_path / "report.md").read_text()
    found = {row.split("|")[1].strip(): numbers(row) for row in features.splitlines()[2:]}
    for arm in COMPARED:
        expected = [
            *(errors[arm].mean(), errors[arm].std(ddof=1)),
            *(probes[arm].mean(), probes[arm].std(ddof=1)),
            (probes[arm] - probes[OWN]).mean(),
        ]
        np.testing.assert_allclose(found[arm.name], expected, atol=6e-4)


def test_one_seed_is_refused_before_the_work(tmp_path, monkeypatch, capsys):
    options = ["--data", "none", "--weights", "none", "--out", str(tmp_path / "new")]
    monkeypatch.setattr(sys, "argv", ["warm_start", *options, "--seeds", "1"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "argument --seeds: must be at least 2, for a spread; got 1" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
