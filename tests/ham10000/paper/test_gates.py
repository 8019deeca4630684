"""The gates of runs side by side: medians over sites and folds, by hand."""

import json
from dataclasses import asdict

import pytest

from attnblocks import GateReport, SiteGates
from attnblocks.visualize import GateStatistics
from examples.ham10000.cli import main
from examples.ham10000.gates import RecordedGates
from examples.ham10000.paper.compare import compare
from examples.ham10000.paper.gates import describe_gates, idle_blocks


def report(spreads, moved=None):
    """One block for each pair of spreads, of rows and of columns; all means are 1."""
    return GateReport(
        tuple(
            SiteGates(
                str(number),
                tuple(
                    GateStatistics(str(number), kind, 1.0, spread, 0, 0, 0, 0, spread / 2, moved)
                    for kind, spread in zip(("rows", "columns"), pair, strict=True)
                ),
            )
            for number, pair in enumerate(spreads)
        ),
        images=256,
    )


START = report([(0.001, 0.002), (0.003, 0.02), (0.0, 0.0)])
END = report([(0.01, 0.02), (0.03, 0.2), (0.001, 0.01)], moved=0.125)


def test_medians_over_the_sites():
    """The third block does nothing: 0.001 and 0.01 are at most 1 % of 1."""
    counts = {"images": 256, "networks": 1, "of_networks": 1}
    counts |= {"blocks": 3, "do_nothing": 1, "did_nothing": 2}
    names = ("mean", "spread_at_start", "spread", "between_classes", "moved")
    assert describe_gates([RecordedGates(START, END)]) == {
        **counts,
        "kinds": {
            "rows": dict(zip(names, (1, 0.001, 0.01, 0.005, 0.125), strict=True)),
            "columns": dict(zip(names, (1, 0.002, 0.02, 0.01, 0.125), strict=True)),
        },
    }


def test_folds_are_pooled_and_an_unknown_start_is_left_open():
    found = describe_gates([RecordedGates(None, END), RecordedGates(None, START)], 2)
    assert (found["networks"], found["blocks"]) == (2, 6)
    assert (found["do_nothing"], found["did_nothing"]) == (3, None)
    rows = found["kinds"]["rows"]
    assert rows["spread"] == (0.001 + 0.003) / 2  # of 0, 0.001, 0.001, 0.003, 0.01, 0.03
    assert rows["spread_at_start"] is None
    assert rows["moved"] == 0.125  # of those that are known
    assert describe_gates([], 2) is None


BOTH = RecordedGates(START, END)


@pytest.mark.parametrize(
    ("recorded", "networks", "words"),
    [
        ([BOTH, RecordedGates(None, END)], 2, "2 of 6 blocks in 2 networks do nothing"),
        ([BOTH], 5, "1 of 3 blocks in 1 of 5 networks do nothing (2 at the start)"),
        ([BOTH, BOTH], 2, "2 of 6 blocks in 2 networks do nothing (4 at the start)"),
    ],
)
def test_what_did_nothing_at_the_start_is_known_of_all_networks_or_not_at_all(
    recorded, networks, words
):
    assert idle_blocks(describe_gates(recorded, networks)) == words


def test_runs_are_compared_with_and_without_recorded_gates(pair, tmp_path, capsys):
    assert main(["compare", *map(str, pair), "--out", str(tmp_path / "without")]) == 0
    assert "Gates" not in capsys.readouterr().out
    assert "<h2>Gates" not in (tmp_path / "without" / "comparison.html").read_text()
    content = {"part": "train", "start": asdict(START), "end": asdict(END)}
    (pair[1] / "gates.json").write_text(json.dumps(content))
    first, second = compare(pair)["runs"]
    assert first["gates"] is None
    assert second["gates"] == describe_gates([RecordedGates(START, END)])
    assert main(["compare", *map(str, pair), "--out", str(tmp_path / "with")]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    head = printed.index(["Gates"]) + 1
    words = "run gate mean spread at the start spread between classes moved"
    idle = "run 1: no gates recorded; run 2: 1 of 3 blocks do nothing (2 at the start)"
    assert printed[head : head + 4] == [
        words.split(),
        ["run", "2", "rows", "1.000", "0.0010", "0.0100", "0.0050", "0.1250"],
        ["run", "2", "columns", "1.000", "0.0020", "0.0200", "0.0100", "0.1250"],
        idle.split(),
    ]
    page = (tmp_path / "with" / "comparison.html").read_text()
    assert "Run 1: no gates recorded" in page
    assert "0.1250" in page
    (pair[1] / "gates.json").write_text("{")
    with pytest.raises(ValueError, match=r"gates\.json is damaged"):
        compare(pair)
