"""Two results side by side: what counts as a regression, and what cannot be compared."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks.compare import compare
from benchmarks.compare import main as compare_files
from benchmarks.results import Result, Row, save_result
from benchmarks.settings import Settings
from tests.benchmarks.made import ROUNDS, result, row


def times(factor: float, **figures: float) -> list[Row]:
    return [
        row("SE", ROUNDS, maps=3.0),
        row("CaCo", [factor * s for s in ROUNDS], **{"maps": 7.0, **figures}),
    ]


def run_compare(tmp_path: Path, old: Result, new: Result, *arguments: str) -> object:
    for name, value in (("old", old), ("new", new)):
        save_result(value, tmp_path / f"{name}.json")
    with pytest.raises(SystemExit) as stopped:
        compare_files([str(tmp_path / "old.json"), str(tmp_path / "new.json"), *arguments])
    return stopped.value.code


@pytest.mark.parametrize(
    ("new", "arguments", "regressions"),
    [
        (times(1.0), (), []),
        (times(0.5), (), []),
        (times(1.15), (), []),  # beyond the threshold, but the quartiles overlap
        (times(1.15), ("--threshold", "1.01"), []),
        (times(1.5), (), ["CaCo: 11 to 16.5 ms, ratio 1.500"]),
        (times(1.5), ("--threshold", "1.6"), []),
        (times(1.0, maps=10.0), (), ["CaCo maps: 7 to 10, ratio 1.429"]),
        (times(1.0, maps=7.5), (), []),
        (times(1.3, maps=5.0), (), ["CaCo: 11 to 14.3 ms, ratio 1.300"]),
    ],
)
def test_regressions_are_named(tmp_path, capsys, new, arguments, regressions):
    code = run_compare(tmp_path, result(times(1.0)), result(new), *arguments)
    count, *named = capsys.readouterr().out.split(" only\n")[1].splitlines()
    assert count.startswith(f"{len(regressions)} regressions")
    assert named == [f"  all sites, contiguous, batch 4, 224 px: {line}" for line in regressions]
    assert code == bool(regressions)


def test_rows_are_joined_by_group_and_name(capsys, tmp_path):
    other = dataclasses.replace(row("CaCo", ROUNDS), batch=32)
    old = result([row("CaCo", ROUNDS), row("SE", ROUNDS)])
    new = result([other, row("SE", [2 * s for s in ROUNDS])])
    (change,) = compare(old, new)
    assert (change.name, change.figure, change.ratio) == ("SE", "seconds", pytest.approx(2.0))
    assert run_compare(tmp_path, old, new) == 1
    assert "1 rows compared, 2 are in one file only" in capsys.readouterr().out


OTHER_MACHINE = dataclasses.replace(result(times(1.0)), machine={"processor": "B", "threads": 2})


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (OTHER_MACHINE, "the machines differ: processor 'Example' and 'B', torch '2.99' and None"),
        (result(times(1.0), dtype="float16"), "settings differ: dtype 'float32' and 'float16'"),
        (result(times(1.0), "models"), "one is a result of blocks, the other of models"),
        (result([row("Eca", ROUNDS)]), "no row in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, capsys, new, message):
    assert run_compare(tmp_path, result(times(1.0)), new) == 2
    assert message in capsys.readouterr().err


def test_machines_and_efforts_may_differ_if_that_is_said(tmp_path):
    other = dataclasses.replace(OTHER_MACHINE, settings=Settings("mobilenet_v3_small", rounds=9))
    assert run_compare(tmp_path, result(times(1.0)), other, "--across-machines") == 0


def test_a_missing_file_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        compare_files([str(tmp_path / "none.json"), str(tmp_path / "none.json")])
    assert "none.json: No such file" in capsys.readouterr().err
