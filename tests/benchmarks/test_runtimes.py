"""The comparison of runtimes, with a runtime that has known faults."""

import dataclasses
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks.results import IDENTITY, OWN_SE
from benchmarks.runtimes import __main__ as command
from benchmarks.runtimes.measure import converted
from benchmarks.runtimes.networks import awake_network
from benchmarks.runtimes.results import Plan, Result, Row, load, save
from benchmarks.runtimes.runtime import SIZES
from benchmarks.runtimes.table import share_over_se, tables
from benchmarks.runtimes.work import rows_of
from tests.benchmarks import fake_runtime
from tests.benchmarks.made import cells

NETWORK = "timm/test_efficientnet"
PLAN = Plan(NETWORK, image_size=64, rounds=2, min_run_time=1e-4)
FAKE = fake_runtime.__name__


def row_of(name: str) -> Row:
    return converted(fake_runtime, name, awake_network(NETWORK, name, 64), 64)[0]


@pytest.mark.parametrize(
    ("name", "free", "failed"),
    [
        ("SE", SIZES, {}),
        ("published Eca", ("batch",), dict.fromkeys([3, 2], "only the batch may be free")),
        ("published CoordAtt", ("batch",), dict.fromkeys([3, 2], "x 161 x 97: differs by 1.0e-02")),
        ("published SE", None, dict.fromkeys([0, 3, 2, 1], "ValueError: no such operator")),
        ("SeCo", None, dict.fromkeys([0, 3, 2, 1], "differs by nan")),
        ("CaCo", None, dict.fromkeys([0, 3, 2, 1], "at 1 x 64 x 64: RuntimeError: no single")),
    ],
)
def test_the_freest_conversion_that_agrees_is_taken_and_the_others_say_why_not(name, free, failed):
    row = row_of(name)
    assert row.free == (None if free is None else list(free))
    words = {3: "batch, height, width", 2: "height, width", 1: "batch", 0: "no size free"}
    assert list(row.failed) == [words[n] for n in failed]
    for reason, part in zip(row.failed.values(), failed.values(), strict=True):
        assert part in reason
        assert "\n" not in reason
    if free is not None:
        assert (row.difference, row.operators, row.delegates) == (0, {"conv": 2, "add": 1}, 1)


def test_a_process_that_is_killed_loses_its_network_alone():
    told = []
    rows = rows_of(FAKE, [OWN_SE, "published CBAM", IDENTITY], PLAN, told.append)
    assert [row.name for row in rows] == [OWN_SE, "published CBAM", IDENTITY]
    killed = rows[1]
    assert killed == Row("Fake", killed.name, failed={killed.name: "the process ended: SIGKILL"})
    assert killed in told
    for row in (rows[0], rows[2]):
        assert row.free == list(SIZES)
        assert len(row.seconds) == 2
        assert min(row.seconds) > 0


def test_a_runtime_that_is_not_installed_is_skipped_by_name(monkeypatch, tmp_path):
    absent = SimpleNamespace(NAME="Absent", PACKAGES=("torch", "no-such-distribution"))
    monkeypatch.setitem(sys.modules, "absent", absent)
    result = command.compare(["absent"], [OWN_SE], PLAN)
    assert result.skipped == {"Absent": ["no-such-distribution"]}
    assert "Absent is skipped: no-such-distribution not installed: pip install" in tables(result)


def test_networks_are_awake_and_alike_but_for_the_blocks():
    """Every tensor of a block matters to the output, those at sites differ, the others do not."""
    own, ours = (awake_network(NETWORK, name, 64) for name in (OWN_SE, "CaCo"))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        y = ours(x)
        assert not torch.equal(own(x), y)
        assert (y[0] - y[1]).abs().max() > 0.1 * y.abs().max()
        for name, tensor in ours.named_parameters():
            before = tensor.clone()
            tensor += 0.5
            assert (ours(x) - y).abs().max() > 1e-4 * y.abs().max(), name
            tensor.copy_(before)
    assert torch.equal(own.conv_stem.weight, ours.conv_stem.weight)
    assert torch.equal(own.bn1.weight, ours.bn1.weight)


MADE = {
    OWN_SE: [0.010, 0.020, 0.012],  # over Identity's: 2, 4 and 3 ms
    "CaCo": [0.012, 0.024, 0.014],  # 4, 8 and 5 ms
    IDENTITY: [0.008, 0.016, 0.009],
}


def made_result() -> Result:
    rows = [
        Row("Fake", name, [*SIZES], 2e-7, {"conv": 2, "add": 1}, 1, seconds)
        for name, seconds in MADE.items()
    ]
    rows += [Row("Fake", "SE", failed={"no size free": "no such operator"})]
    rows += [Row("Other", "CaCo", ["batch"], None, {"conv": 3})]
    rows += [Row("Other", "SE", [], None, {"conv": 2})]
    versions = {"Fake": {"fake": "1.2"}, "Other": {"other": "3.4"}}
    machine = {"processor": "Example", "threads": 1, "torch": "2.99"}
    return Result(machine, PLAN, versions, {}, rows)


def test_shares_are_medians_of_the_rounds_over_identity():
    rows = {row.name: row for row in made_result().rows if row.runtime == "Fake"}
    assert share_over_se("CaCo", rows) == pytest.approx(5 / 3)
    assert share_over_se(OWN_SE, rows) is share_over_se("SE", rows) is None
    assert share_over_se("CaCo", {k: r for k, r in rows.items() if k != IDENTITY}) is None


def test_the_tables_say_what_was_found():
    about, title, overview, fake, table, failed, other, other_table = (
        tables(made_result()).strip().split("\n\n")
    )
    assert "1 threads of Example, torch 2.99" in about
    assert "own SE's" in title
    assert cells(overview) == {
        "CaCo": {"Fake": "1.67", "Other": "converts (batch)"},
        "SE": {"Fake": "fails", "Other": "converts (none)"},
    }
    assert fake == "Fake (fake 1.2):"
    assert table.splitlines()[0] == (
        "|  | free | difference | operators | delegates | ms | share ms | x own SE's |"
    )
    assert table.splitlines()[2:] == [
        "| own SE | all | 2e-07 | 3 | 1 | 12.00 | 3.00 |  |",
        "| CaCo | all | 2e-07 | 3 | 1 | 14.00 | 5.00 | 1.67 |",
        "| identity | all | 2e-07 | 3 | 1 | 9.00 |  |  |",
        "| SE | fails |  |  |  |  |  |  |",
    ]
    assert failed == "- SE, no size free: no such operator"
    assert other == "Other (other 3.4):"
    assert cells(other_table)["CaCo"] == {"free": "batch", "operators": "3"}


def test_a_file_is_read_as_it_was_written_and_reported(tmp_path, capsys):
    file = tmp_path / "a.json"
    save(made_result(), file)
    assert load(file) == made_result()
    command.main(["--report", str(file)])
    assert capsys.readouterr().out == tables(made_result()) + "\n"


@pytest.mark.parametrize("content", ["[]", "{}", '{"benchmark": "models", "version": 1}', "x"])
def test_other_files_are_refused(content, tmp_path, capsys):
    file = tmp_path / "a.json"
    file.write_text(content)
    with pytest.raises(SystemExit, match="2"):
        command.main(["--report", str(file)])
    assert "a.json is no comparison of runtimes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runtime", "nix"], "argument --runtime: invalid choice: 'nix'"),
        (["--only", "Nix*"], "argument --only: 'Nix*' fits none of own SE, SE, published SE"),
        (["--network", "resnet18"], "argument --network: 'resnet18' has no SE block"),
        (["--rounds", "0"], "argument --rounds: must be at least 1, got 0"),
        (["--threads", "0"], "argument --threads: must be at least 1, got 0"),
        (["--out", "nowhere/a.json"], "argument --out: there is no folder 'nowhere'"),
        (["--report", "none.json"], "cannot read none.json"),
    ],
)
def test_options_that_cannot_be_followed_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    assert message in capsys.readouterr().err


def test_the_command_ends_in_a_table_and_a_file(tmp_path, monkeypatch, capsys):
    """What one runtime told goes into the file as it comes."""
    monkeypatch.setattr(command, "rows_of", lambda module, names, plan, tell: told(names, tell))
    file = tmp_path / "a.json"
    seen = []

    def told(names, tell):
        rows = [Row("ONNX Runtime", name, [*SIZES], 0.0, {"conv": 1}) for name in names]
        for row in rows:
            tell(row)
            seen.append(len(load(file).rows))
        return rows

    arguments = ["--runtime", "onnx_runtime", "--only", "CaCo", "--network", NETWORK]
    command.main([*arguments, "--rounds", "3", "--out", str(file)])
    result = load(file)
    assert seen == [1, 2, 3]
    assert [row.name for row in result.rows] == [OWN_SE, "CaCo", IDENTITY]
    assert result.plan == dataclasses.replace(Plan(NETWORK), rounds=3)
    assert result.machine["threads"] == 1
    assert set(result.versions["ONNX Runtime"]) == {"onnxruntime", "onnx", "onnxscript"}
    assert cells(capsys.readouterr().out)["CaCo"]["free"] == "all"
