"""What the benchmarks print, write and read back."""

import json

import pytest

from benchmarks import report
from benchmarks.results import load_result, save_result
from tests.benchmarks.made import ROUNDS, cells, result, row


def test_the_table_of_blocks_holds_ratios_and_bandwidth():
    rows = [
        row("torchvision SE", [s / 2 for s in ROUNDS], maps=3.0, map_bytes=1e6, parameters=1000),
        row("CaCo", ROUNDS, maps=7.0, map_bytes=1e6, parameters=1234567),
        row("published CaCo", [s * 2 for s in ROUNDS], maps=10.0, map_bytes=1e6, parameters=7),
        row("copy", [s / 11 for s in ROUNDS], maps=2.0, map_bytes=1e6, parameters=0),
    ]
    table = cells(report.tables(result(rows), markdown=True))
    assert list(table) == [r.name for r in rows]
    assert table["CaCo"] == {
        "ms": "11.0",
        "quartiles": "10.0 to 12.0",
        "x SE": "2.00",
        "x published": "0.50",
        "x copy": "11.00",
        "maps": "7.0",
        "GB/s": "0.6",  # 7 MB in 11 ms
        "roofline": "0.32",  # the copy moves two in 1 ms, and so seven in 3.5
        "parameters": "1,234,567",
    }
    assert table["published CaCo"]["x published"] == ""
    assert table["copy"]["GB/s"] == "2.0"


def test_blocks_are_set_against_their_published_forms_in_one_figure():
    ratios = {"CBAM": 1 / 2, "CoordAtt": 1 / 4, "SeCo": 1, "CaCo": 1 / 8}
    ours = [row(name, [s * ratio for s in ROUNDS]) for name, ratio in ratios.items()]
    peers = [row(f"published {name}", ROUNDS) for name in ratios]
    text = report.tables(result([*ours, *peers]))
    assert "geometric mean of CBAM, CoordAtt, SeCo, CaCo: 0.35" in text  # the fourth root of 1/64
    assert "geometric mean" not in report.tables(result([*ours, *peers[1:]]))


def test_the_table_of_models_holds_shares_round_by_round():
    floor = [0.010, 0.020, 0.030]
    rows = [
        row("own SE", [0.012, 0.022, 0.032], saved_bytes=30 * 2**20, flops=1e9),
        row("CaCo", [0.015, 0.023, 0.034], saved_bytes=45 * 2**20, flops=2.5e9),  # 5, 3 and 4 more
        row("identity", floor, saved_bytes=20 * 2**20, flops=1e9),
    ]
    table = cells(report.tables(result(rows, "models", backward=True), markdown=True))
    assert table["CaCo"] == {
        "ms": "23.0",
        "quartiles": "19.0 to 28.5",
        "images/s": "174",
        "share ms": "4.00",
        "its quartiles": "3.50 to 4.50",
        "x SE's": "2.00",
        "saved MiB": "45.0",
        "share saved, x SE's": "2.50",
        "GFLOPs": "2.5000",
    }
    assert table["own SE"]["x SE's"] == table["own SE"]["share saved, x SE's"] == "1.00"
    assert table["identity"]["share ms"] == ""


def test_the_terminal_shows_the_same_cells_in_columns():
    rows = [row("torchvision SE", ROUNDS), row("CaCo", [2 * s for s in ROUNDS])]
    head, _, names, *body = report.tables(result(rows)).rstrip().splitlines()
    assert head == (
        "all sites, contiguous, batch 4, 224 px: "
        "mobilenet_v3_small, forward, float32, cpu, 2 threads"
    )
    assert names.split() == ["ms", "quartiles", "x", "SE"]
    assert body[1].split() == ["CaCo", "22.0", "20.0", "to", "24.0", "2.00"]
    assert len({len(line) for line in (names, *body)}) == 1


def test_a_file_holds_the_result_whole(tmp_path):
    saved = result([row("CaCo", ROUNDS, maps=7.0)], backward=True, rounds=5)
    save_result(saved, tmp_path / "a.json")
    assert load_result(tmp_path / "a.json") == saved
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "no result of a benchmark"),
        ("[]", "no result"),
        ("{}", "no result"),
        ('{"version": 0}', "version"),
        ({"benchmark": "other"}, "benchmark is 'other'"),
        ({"rows": []}, r"rows is \[\]"),
        ({"rows": [{"name": "CaCo"}]}, "no result"),
        ({"machine": 3}, "machine is 3"),
        ({"settings": {"speed": "high"}}, "speed"),
        ({"seconds": []}, "seconds of 'CaCo' are"),
        ({"seconds": [0.1, 0.0]}, "seconds of 'CaCo' are"),
        ({"seconds": ["1"]}, "seconds of 'CaCo' are"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a.json"
    save_result(result([row("CaCo", ROUNDS)]), path)
    good = json.loads(path.read_text())
    if isinstance(content, str):
        path.write_text(content)
    elif "seconds" in content:
        path.write_text(json.dumps({**good, "rows": [{**good["rows"][0], **content}]}))
    else:
        path.write_text(json.dumps({**good, **content}))
    with pytest.raises(ValueError, match=message):
        load_result(path)
